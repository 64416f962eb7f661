"""The gallery: every script runs, draws, says what it is and where to read on."""

from __future__ import annotations

import ast
import itertools
import os
import re
import runpy
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

from tests.helpers import ROOT

GALLERY = ROOT / "docs" / "gallery"
SCRIPTS = sorted(GALLERY.rglob("plot_*.py"))
DOC = re.compile(r":doc:`[^<`]*<(/[^>`]+)>`")


def name(script: Path) -> str:
    return script.relative_to(GALLERY).with_suffix("").as_posix()


def test_there_are_twenty_or_more() -> None:
    assert len(SCRIPTS) >= 20
    assert all((folder / "GALLERY_HEADER.rst").is_file() for folder in {s.parent for s in SCRIPTS})


@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_a_script_says_what_it_is_and_where_to_read_on(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    title, line, *rest = (ast.get_docstring(ast.parse(text)) or "").splitlines()
    assert line == "=" * len(title)
    assert 1 <= sum(map(bool, rest)) <= 6
    named = DOC.findall(text)
    assert named and all((ROOT / "docs" / f"{page[1:]}.md").is_file() for page in named)


def falls(numbers: list[float]) -> bool:
    return all(later < one for one, later in itertools.pairwise(numbers))


# What the scripts claim in words, by the numbers that they compute.
CLAIMS = {
    "first/plot_digits": lambda v: v["distance"] < 2 * v["between_real"],
    "first/plot_two_moons": lambda v: v["distance"] < 5 * v["between_real"],
    "samplers/plot_corrector": lambda v: falls([*v["spread"].values()][:3]),
    "samplers/plot_ten_evaluations": lambda v: (
        v["distances"]["recommended_sampler"] == min(v["distances"].values())
    ),
    "samplers/plot_any_process": lambda v: (
        v["same"] and len({part["process"] for part in v["drawn"]} | {os.getpid()}) == 4
    ),
    "scores/plot_mode_weights": lambda v: (
        abs(v["left"]["annealed Langevin"] - 0.2) < 0.1 < v["left"]["Langevin at one level"] - 0.2
    ),
    "scores/plot_density": lambda v: v["error"] < 0.02,
    "scores/plot_bits": lambda v: falls([4.09, *(bits.mean for bits in v["found"].values())]),
    "scores/plot_interpolation": lambda v: (
        (v["decoded"][0].flatten(1) - v["first"]).abs().max() < 1e-3
    ),
    "conditions/plot_guidance": lambda v: falls([*v["near"].values()]),
    "conditions/plot_digits_by_class": lambda v: v["agreement"] > 0.9,
    "conditions/plot_posterior": lambda v: (
        v["x"].mean(0).sub(v["posterior"].sample(9000).mean(0)).abs().max() < 0.2
    ),
    "data/plot_table": lambda v: abs(v["correlation"]["samples"] - v["correlation"]["data"]) < 0.1,
    "own/plot_own_predictor": lambda v: v["outside"]["Boxed"] < 0.1 < v["outside"]["DDIM"],
}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=name)
def test_a_script_runs_and_its_numbers_say_what_it_says(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "import diffusers" in script.read_text(encoding="utf-8"):
        pytest.importorskip("diffusers")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown: list[int] = []
    monkeypatch.setattr(plt, "show", lambda: shown.extend(plt.get_fignums()))
    with torch.random.fork_rng():
        values: dict[str, Any] = runpy.run_path(str(script))
    plt.close("all")
    assert shown
    assert CLAIMS.get(name(script), lambda _: True)(values)
