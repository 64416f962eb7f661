"""Measured cells on disk, and where they came from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def cached(path: Path, key: dict[str, Any], make: Callable[[], Any], resume: bool) -> Any:
    """``make()``, written to ``path``; read from there where ``resume`` and the key is the same."""
    if resume and path.exists():
        found = json.loads(path.read_text())
        if found["key"] == key:
            return found["cell"]
    found = {"key": key, "cell": make()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(found, indent=1) + "\n")
    unfinished.replace(path)
    return json.loads(json.dumps(found["cell"]))


def origins(cells: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """How and when a row's cells were made, taken out of them, each once."""
    found: list[dict[str, Any]] = []
    for made in (found_cell.pop("made") for found_cell in cells):
        if made not in found:
            found.append(made)
    return found
