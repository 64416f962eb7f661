"""The page on noise says what its script measured, and what was measured is its claim."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import pytest

from tests.helpers import ROOT

Script: TypeAlias = Callable[[str], ModuleType]
PAGE = ROOT / "docs" / "theory" / "12-low-density.md"


def test_the_page_has_the_saved_numbers_and_pictures(script: Script) -> None:
    tables = script("tables")
    page = PAGE.read_text(encoding="utf-8")
    assert tables.story_table(tables.load("story-cpu")) in page
    pictures = [line.split("](")[1].rstrip(")") for line in page.splitlines() if line[:2] == "!["]
    assert len(pictures) == 4 and all((PAGE.parent / picture).is_file() for picture in pictures)


def test_the_saved_numbers_show_what_the_page_says(script: Script) -> None:
    report = script("tables").load("story-cpu")
    assert report["cpu_seconds"] < 180  # on one thread
    fields, weights, curve = (report[k] for k in ("low_density", "mode_weights", "manifold"))
    assert fields["error_in_box"] > 3 * fields["error_on_data"]
    # Five standard deviations of a share of 0.2 (two-sided 6e-7), and what plain chains miss.
    deviation = math.sqrt(0.2 * 0.8 / report["chains"])
    assert abs(weights["annealed Langevin, true scores"] - 0.2) < 5 * deviation
    assert abs(weights["annealed Langevin, learned scores"] - 0.2) < 0.04
    assert weights["the same, half the levels and half the steps"] > 0.2 + 3 * deviation
    for name in ("plain Langevin, true score", "plain Langevin, learned score"):
        assert weights[name] > 0.4
    assert curve["loss_without_noise"] < 100 * curve["loss_with_noise"] < 0
    assert curve["radial_rms"] < 0.02 and abs(curve["upper_half"] - 0.7) < 0.05


@pytest.mark.slow
def test_the_script_tells_the_story(tmp_path: Path, script: Script) -> None:
    """Few steps show nothing learned, but chains with the true score are as they are."""
    story = script("story")
    budget = story.Budget(training_steps=3, chains=500, langevin_steps=60, levels=8, inner_steps=40)
    report = story.tell(tmp_path, budget)
    assert {p.name for p in tmp_path.iterdir()} == {
        "low_density.png",
        "mode_weights.png",
        "manifold.png",
    }
    weights = report["mode_weights"]
    assert weights["plain Langevin, true score"] > 0.4 > weights["annealed Langevin, true scores"]
