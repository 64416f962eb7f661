"""Tables of the tensors of official networks, and the network that has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from tests.helpers import ROOT

FOLDER = ROOT / "tests" / "nets" / "tables"


class Row(NamedTuple):
    """One tensor of a network's state."""

    name: str
    shape: tuple[int, ...]
    kind: str  # "", "buffer" or "frozen"


def facts(family: str) -> dict[str, dict[str, Any]]:
    """Counts and digests of a family's networks, made from the official code."""
    found: dict[str, dict[str, Any]] = json.loads((FOLDER / f"{family}.json").read_text("utf-8"))
    return found


def table(file: str | Path) -> list[Row]:
    """The tensors that a table lists, in order; README.md there says how it is written."""
    lines = (FOLDER / file).read_text("utf-8").splitlines()
    return list(_expanded([line for line in lines if not line.startswith("#")], ""))


def _expanded(lines: list[str], prefix: str) -> Iterator[Row]:
    depths = [len(line) - len(line.lstrip()) for line in lines]
    starts = [i for i, depth in enumerate(depths) if depth == depths[0]]
    for start, end in pairwise([*starts, len(lines)]):
        module, _, tensors = lines[start].strip().partition(":")
        first, _, last = module.partition("-")
        names = range(int(first), int(last) + 1) if last else [module]
        for name in names:
            path = "" if name == "(network)" else f"{prefix}{name}."
            for tensor in tensors.split(",") if tensors else ():
                leaf, shape, *kind = tensor.split()
                sizes = () if shape == "scalar" else tuple(map(int, shape.split("x")))
                yield Row(path + leaf, sizes, "".join(kind).strip("()"))
            yield from _expanded(lines[start + 1 : end], path)


def rows(net: nn.Module) -> list[Row]:
    """The tensors of a network, in the order of its state."""
    trained = {name: p.requires_grad for name, p in net.named_parameters()}
    kinds = {None: "buffer", False: "frozen", True: ""}
    state = net.state_dict().items()
    return [Row(name, tuple(v.shape), kinds[trained.get(name)]) for name, v in state]


def check(found: list[Row], file: str) -> None:
    """Refuse tensors that are not those of a table, by the first one that differs."""
    expected = table(file)
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=False)):
        assert ours == theirs, f"tensor {i} is {ours}; {file} has {theirs}"
    assert len(found) == len(expected), f"{len(found)} tensors; {file} has {len(expected)}"
