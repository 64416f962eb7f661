"""The benchmark on networks: what it keeps, its tables and its picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import sdescore as ss

# diffusers 0.42 on NumPy 2.


def test_a_cell_is_kept_for_its_checkpoint_and_taken_only_when_asked(
    trained: ModuleType, tmp_path: Path
) -> None:
    path, made = tmp_path / "new" / "cell, 1.json", iter(range(9))

    def make() -> dict[str, int]:
        return {"fd": next(made)}

    found = [
        trained.cached(path, {"checkpoint": key}, make, resume)
        for key, resume in (("a", True), ("a", True), ("a", False), ("b", True), ("b", True))
    ]
    assert [cell["fd"] for cell in found] == [0, 0, 1, 2, 2]
    assert [p.name for p in path.parent.iterdir()] == ["cell, 1.json"]


def test_rows_say_how_they_were_made_and_are_merged(
    trained: ModuleType,
    subject: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """--only --save replaces its rows, and nothing else; a second model's rows stay."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(trained, "OUT", tmp_path / "out")
    monkeypatch.setattr(trained, "HERE", tmp_path / "benchmarks")
    monkeypatch.setattr(trained, "STEPS", (3, 5))
    monkeypatch.setattr(trained, "SUBJECTS", {"digits": lambda: subject, "ncsn": lambda: subject})
    kept_ours = {name: trained.OURS[name] for name in ("DDIM, uniform", "DDIM, log-SNR")}
    monkeypatch.setattr(trained, "OURS", kept_ours)
    monkeypatch.setattr(trained, "THEIRS", ())
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    target = tmp_path / "benchmarks" / "results" / "trained-cpu.json"

    def saved(*arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["trained.py", *arguments])
        trained.main()
        return json.loads(target.read_text())

    first = saved("--save")
    assert [row["method"] for row in first["digits"]["rows"]] == list(kept_ours)
    assert [row["method"] for row in first["ncsn"]["rows"]] == ["DDIM, log-SNR"]
    assert list(first["digits"]["rows"][0]["cells"]) == ["3", "5"]
    assert (tmp_path / "docs/_static/trained/trained.png").read_bytes().startswith(b"\x89PNG")
    second = saved("--only", "uniform", "--save")
    (old, other), (new, same) = first["digits"]["rows"], second["digits"]["rows"]
    assert same == other and second["ncsn"] == first["ncsn"]
    assert [m["command"] for m in old["made"]] == ["python benchmarks/trained.py --save"]
    (made,) = new["made"]
    assert made["command"] == "python benchmarks/trained.py --only uniform --save"
    assert made["date"] and made["torch"] == torch.__version__
    assert new["version"] == ss.__version__
    assert new["cells"]["5"]["fd"] == old["cells"]["5"]["fd"]  # the same again
    for command in (made["command"], "python benchmarks/trained.py --save"):
        assert f"`{command}`" in target.with_suffix(".md").read_text()
    third = saved("--resume", "--save")  # takes the cells, and says that they are older
    assert third["digits"]["rows"] == second["digits"]["rows"]
    fourth = saved("--models", "digits", "--only", "uniform", "--save")
    assert fourth["ncsn"] == third["ncsn"] and len(fourth["digits"]["rows"]) == 2
    with pytest.raises(SystemExit):
        saved("--steps", "5", "--save")
    assert "leave --steps out" in capsys.readouterr().err


def part_of(*rows: tuple[str, str, dict[int, float | None]], **more: Any) -> dict[str, Any]:
    return {
        "title": "one",
        "sde": "VPSDE",
        "checkpoint": "abc",
        "trained_on": 5,
        "held_out": 4,
        "samples": 3,
        "floors": {key: {"mean": 1.0, "std": 0.25, "parts": 3} for key in ("fd", "w2")},
        "reference": None,
        "first_error": 0.0123,
        "rows": [
            {
                "library": library,
                "version": "1",
                "method": method,
                "made": [],
                "cells": {
                    str(n): {"fd": fd, "w2": fd and 2 * fd, "cpu_seconds": 30, "fit_seconds": 60}
                    for n, fd in cells.items()
                },
            }
            for library, method, cells in rows
        ],
        **more,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "xyz"},
        {"samples": 4},
        {"trained_on": 6},
        {"floors": {key: {"mean": 1.01, "std": 0, "parts": 3} for key in ("fd", "w2")}},
    ],
)
def test_rows_that_do_not_compare_are_not_merged(shown: ModuleType, change: dict) -> None:
    saved = {"x": part_of(("a", "m", {5: 1.0}))}
    assert shown.merged({}, saved) == shown.merged(saved, saved) == saved
    with pytest.raises(SystemExit, match="expected"):
        shown.merged(saved, {"x": part_of(("a", "m", {5: 1.0}), **change)})


# Tables and picture


def test_a_table_marks_the_least_of_each_column(shown: ModuleType) -> None:
    part = part_of(("a", "m", {5: 1.5, 20: None}), ("b", "n", {5: 12.34, 20: 123.4}))
    lines = shown.table(part).splitlines()
    assert lines[0] == "| library | method | N = 5 | N = 20 |" and len(lines) == 4
    assert lines[2] == r"| a | m | **1.50** \| **3.00** | – \| – |"
    assert lines[3] == r"| b | n | 12.3 \| 24.7 | **123** \| **247** |"
    assert shown.cell(None) == ""


def test_the_table_of_distances_to_the_flow(shown: ModuleType) -> None:
    part = part_of(("a", "m", {5: 1.0, 8: 1.0}), ("a", "n", {5: 1.0}))
    assert shown.flow_table(part) == ""
    for i, cell in enumerate(part["rows"][0]["cells"].values()):
        cell["off_flow"] = {
            key: {"median": value + i, "rms": value + i + 0.5}
            for key, value in (("network", 3.0), ("exact", 1.0))
        }
    assert shown.flow_table(part).splitlines() == [
        "| score | method | N = 5 | N = 8 |",
        "|---|---|---|---|",
        r"| exact | m | 1.000 \| 1.500 | 2.000 \| 2.500 |",
        r"| network | m | 3.000 \| 3.500 | 4.000 \| 4.500 |",
    ]
    assert shown.flow_table(part) in shown.markdown({"x": part})


def test_costs(shown: ModuleType) -> None:
    part = part_of(("sdescore", "recommended", {5: 1.0, 10: 1.0}), ("b", "n", {5: 1.0, 10: 2.0}))
    assert "took 2 CPU minutes" in shown.cost_sentence({"x": part})
    assert shown.cost_sentence({"x": part}).endswith("fits 4")
    assert shown.fit_table({"x": part}).splitlines()[2] == "| one | 60 | 60 |"


def test_the_best_of_each_library_is_drawn(shown: ModuleType) -> None:
    part = part_of(
        ("sdescore", "recommended", {5: 0.1}),
        ("a", "even", {5: 4.0, 20: 4.0}),
        ("a", "uneven", {5: 1.0, 20: 9.0}),  # a geometric mean of 3
        ("a", "broken", {5: None, 20: 0.1}),
        ("b", "late", {5: 2.0, 20: 2.0, 50: 100.0}),  # beyond 20 does not count
    )
    assert shown.best_peers(part) == [("b", "late"), ("a", "uneven")]


def test_the_picture_shows_the_figures(
    shown: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    drawn, save = [], figure.Figure.savefig
    monkeypatch.setattr(
        figure.Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    own = {"title": "DDPM, ancestral", "evaluations": 250, "fd": 1.5, "w2": 1.0}
    one = part_of(
        ("sdescore", "recommended", {5: 3.0, 20: 1.25}),
        ("sdescore", "not named", {5: 7.0}),
        ("a", "m", {5: 4.0, 20: 2.0}),
        reference=own,
    )
    two = part_of(("sdescore", "recommended", {5: 2.0}), title="two")
    shown.plot({"x": one, "y": two}, tmp_path / "new" / "picture.png")
    (panels,) = (f.axes for f in drawn)
    assert [axes.get_title() for axes in panels] == ["one", "two"]
    lines = {line.get_label(): line for line in panels[0].lines}
    assert list(lines["sdescore: recommended"].get_xdata()) == [5, 20]
    assert list(lines["sdescore: recommended"].get_ydata()) == [3.0, 1.25]
    assert list(lines["a: m"].get_ydata()) == [4.0, 2.0] and "sdescore: not named" not in lines
    heights = [list(line.get_ydata()) for line in panels[0].lines]
    assert [7.0] in heights and [1.5, 1.5] in heights
    assert [t.get_text() for t in panels[0].texts] == ["ancestral, 250 evaluations"]
    (legend,) = drawn[0].legends
    assert [t.get_text() for t in legend.get_texts()] == ["sdescore: recommended", "a: m"]
    assert panels[0].get_yscale() == panels[0].get_xscale() == "log"
