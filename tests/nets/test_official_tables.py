"""The tables of official tensors are those of the official codes: they have their digests.

The codes' own networks were built, and their tensors listed. The digests are of these lists.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.helpers import official
from tests.helpers.official import Row

# How each list writes a tensor.
LINES: dict[str, Callable[[Row], str]] = {
    "edm": lambda row: f"{row.name} {list(row.shape)}",
    "edm2": lambda row: f"{row.name} {list(row.shape)}",
    "guided_diffusion": lambda row: f"{row.name} {row.shape}",
    "ncsnv2": lambda row: f"{row.name} {'x'.join(map(str, row.shape))}",
    "score_sde": lambda row: f"{row.name} {row.shape}",
}
NETWORKS = [(family, name) for family in LINES for name in official.facts(family)]


def digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(("family", "name"), NETWORKS, ids=lambda value: str(value))
def test_a_table_has_the_digests_and_counts_of_the_official_network(family: str, name: str) -> None:
    facts = official.facts(family)[name]
    rows = official.table(facts["table"])
    lines = [LINES[family](row) for row in rows]
    trained = [row.name for row in rows if not row.kind]
    found = {
        "tensors": len(rows),
        "trained": len(trained),
        "parameters": sum(math.prod(row.shape) for row in rows if row.kind != "buffer"),
        "sha256_in_order": digest(lines),
        "sha256_of_sorted": digest(sorted(lines)),
        "sha256_of_trained_names": digest(trained),
    }
    known = found.keys() & facts.keys()
    assert {"tensors", "parameters"} < known
    assert {key: facts[key] for key in known} == {key: found[key] for key in known}


def test_every_table_says_whose_it_is() -> None:
    users: dict[str, list[str]] = {}
    for family, name in NETWORKS:
        users.setdefault(official.facts(family)[name]["table"], []).append(name)
    paths = official.FOLDER.rglob("*.txt")
    assert users.keys() == {path.relative_to(official.FOLDER).as_posix() for path in paths}
    for file, names in users.items():
        lines = (official.FOLDER / file).read_text("utf-8").splitlines()
        rows = official.table(file)
        total = sum(math.prod(row.shape) for row in rows if row.kind != "buffer")
        counts = f"# {len(rows)} tensors, {total} parameters"
        assert [line for line in lines if line.startswith("#")] == [
            *(f"# {name}" for name in names),
            counts,
        ]


def test_how_a_table_is_read(tmp_path: Path) -> None:
    """The example of README.md there."""
    text = (official.FOLDER / "README.md").read_text("utf-8")
    (tmp_path / "a.txt").write_text(text.split("```")[1].partition("\n")[2], "utf-8")
    assert official.table(tmp_path / "a.txt") == [
        Row("sigmas", (1000,), "buffer"),
        Row("gain", (), ""),
        Row("blocks.0.W", (128,), "frozen"),
        Row("blocks.1.conv.weight", (64, 3, 3, 3), ""),
        Row("blocks.1.conv.bias", (64,), ""),
        Row("blocks.2.conv.weight", (64, 3, 3, 3), ""),
        Row("blocks.2.conv.bias", (64,), ""),
    ]


def test_the_first_tensor_that_differs_is_named() -> None:
    file = "ncsnv2/cifar10.txt"
    rows = official.table(file)
    official.check(rows, file)
    wrong = [*rows[:3], rows[3]._replace(shape=(7,)), *rows[4:]]
    with pytest.raises(AssertionError, match=rf"tensor 3 is .*{rows[3].name}.*\(7,\)"):
        official.check(wrong, file)
    with pytest.raises(AssertionError, match=f"{len(rows) - 1} tensors"):
        official.check(rows[:-1], file)
