"""Several processes of one group on this machine, over gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers import ROOT

BEGIN = """
import sys
from pathlib import Path
import torch
from torch import distributed
torch.set_num_threads(1)
rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=size
)
"""


def run_ranks(code: str, size: int, folder: Path, timeout: float = 300) -> list[tuple[int, str]]:
    """Exit status and stderr of each rank; ``code`` finds ``rank``, ``size`` and ``folder``.

    They meet over a file of the folder, so that no port is needed.
    """
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN + code, str(rank), str(size), str(folder)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        return [
            (rank.wait(), err) for rank in ranks for err in [rank.communicate(timeout=timeout)[1]]
        ]
    finally:
        for rank in ranks:
            rank.kill()


def outcome(call: Any) -> str:
    """How a rank's call ends: its error as ``Type: message``, or ``done``."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def said(folder: Path, what: str, size: int = 2) -> list[Any]:
    """What each rank wrote under a key to ``said.json`` in its folder."""
    files = [folder / str(rank) / "said.json" for rank in range(size)]
    return [json.loads(file.read_text(encoding="utf-8"))[what] for file in files]
