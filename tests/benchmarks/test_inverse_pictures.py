"""benchmarks/inverse_pictures.py: its figures of exact draws, and one problem solved."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

import sdescore as ss
from tests.helpers import ROOT

PICTURES = ROOT / "docs" / "_static" / "inverse"


@pytest.fixture(scope="module")
def pictures(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("inverse_pictures")


def prior() -> ss.GaussianScore:
    return ss.GaussianScore(torch.zeros(1, 8, 8), 0.3, ss.CosineVPSDE())


@pytest.mark.parametrize("levels", [None, 5])
def test_draws_that_are_exchangeable_with_the_truth_are_covered_18_times_in_20(
    pictures: ModuleType, levels: int | None
) -> None:
    """Also where most of them tie; 4 standard errors of 60 pictures' 3840 pixels are 0.02."""
    operator, std = pictures.problems()["inpaint"]
    truth = prior().sample(60, seed=1)
    y = pictures.observe(operator, std, truth)
    draws = pictures.exact(prior(), operator, std, y).float()
    found = pictures.figures(draws, operator, std, y, truth, levels)
    assert abs(found["coverage"] - 0.9) < 0.02
    assert abs(found["chi2"] - 1) < 0.1
    assert found["psnr_mean"] > found["psnr_draw"]


def test_a_problem_is_solved(pictures: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "STEPS", 30)
    monkeypatch.setattr(pictures, "DRAWS", 4)
    truth = prior().sample(2, seed=1)
    for operator, std in pictures.problems().values():
        y = pictures.observe(operator, std, truth)
        x = pictures.solve(pictures.methods(0.3**0.5)["pigdm"], prior(), operator, std, y)
        assert x.shape == (4, 2, 1, 8, 8)
        assert 0.5 < pictures.figures(x, operator, std, y, truth, None)["chi2"] < 2
        assert pictures.shown(operator, y).shape == truth.shape


def test_the_page_says_what_was_measured() -> None:
    """Every number of its table, as the saved result has it."""
    page = (ROOT / "docs" / "howto" / "inverse-problems.md").read_text(encoding="utf-8")
    path = ROOT / "benchmarks" / "results" / "inverse-pictures-cpu.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    for subject in ("digits", "patches"):
        assert (PICTURES / f"{subject}.png").exists()
        for problem, rows in saved[subject].items():
            for method, row in rows.items():
                psnr, chi2, coverage = row["psnr_mean"], row["chi2"], row["coverage"]
                cells = f"| {psnr:.1f} | {chi2:.2f} | {coverage:.2f} |"
                assert f"| {subject}, {problem} | {method} {cells}" in page
