"""Checkpoint files as a whole, and forged ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_bytes
from torch import Tensor

from sdescore.checkpoint.folder import opened


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What an intact file holds."""
    with opened(path) as file:
        file.verify()
        return file.manifest, {name: file.read(name) for name in file.tensors}


def forge(path: Path, manifest: Any, tensors: dict[str, Tensor]) -> None:
    """A file by an attacker who knows the format: its digest is right."""
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    seal(path, to_bytes(tensors, {"manifest": text, "sha256": "0" * 64}))


def seal(path: Path, data: bytes) -> None:
    """Write bytes with the digest that the format asks for."""
    digest = hashlib.sha256(data).hexdigest().encode()
    path.write_bytes(data.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + digest))
