"""What a figure was measured on."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

import sdescore as ss


def conditions(device: str = "cpu") -> dict[str, str | int]:
    """Device, threads and versions, for a saved result."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        name = next(names, platform.processor())
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "sdescore": ss.__version__,
    }


def machine_sentence(report: dict[str, Any]) -> str:
    """What a saved result was measured on."""
    threads = "one thread" if report["threads"] == 1 else f"{report['threads']} threads"
    return f"{report['device']}, {threads}, torch {report['torch']}, Python {report['python']}"
