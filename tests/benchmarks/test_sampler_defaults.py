"""benchmarks/sampler_defaults.py, the page that shows what it saved, and the default it chose."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

import sdescore as ss
from tests.helpers import ROOT
from tests.helpers.affine import Modes, output_moments

RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads((RESULTS / "sampler-defaults-cpu.json").read_text("utf-8"))


def test_the_pages_say_what_was_saved(
    script: Callable[[str], ModuleType], report: dict[str, Any]
) -> None:
    benchmark = script("sampler_defaults")
    page = (ROOT / "docs" / "theory" / "09-sampler.md").read_text("utf-8")
    assert benchmark.summary(report) in page
    assert script("machine").machine_sentence(report) in page
    assert (RESULTS / "sampler-defaults-cpu.md").read_text("utf-8") == benchmark.page(report)
    assert report["sdes"] == {name: repr(sde) for name, sde in benchmark.SDES.items()}


def test_the_default_is_the_best_of_the_table(
    script: Callable[[str], ModuleType], report: dict[str, Any]
) -> None:
    """By the worst of all SDEs: the flow's at 10 evaluations, and its noisy form's with noise."""
    benchmark = script("sampler_defaults")
    worst: dict[tuple[str, str], float] = {}
    for row in report["errors"]:
        if row["wanted"] == 10:
            key = row["grid"], row["predictor"]
            worst[key] = max(worst.get(key, 0.0), row["w2"])
    for noisy in (False, True):
        allowed = {k: e for k, e in worst.items() if benchmark.PREDICTORS[k[1]].stochastic == noisy}
        grid, predictor = min(allowed, key=lambda key: allowed[key])
        eta = 1.0 if noisy else 0.0
        assert benchmark.GRIDS[grid] == ss.LogSNRGrid()
        assert benchmark.PREDICTORS[predictor] == ss.ExponentialAdams(eta=eta, midpoint=True)
    for sde in benchmark.SDES.values():
        sampler = ss.PredictorCorrector(sde, steps=10)
        assert sampler.grid == ss.LogSNRGrid()
        assert sampler.predictor == ss.ExponentialAdams(midpoint=True)


@pytest.mark.parametrize("predictor", ["reverse diffusion", "Heun", "Adams 2 midpoint"])
def test_a_saved_row_is_what_the_coefficients_of_the_draws_give(
    script: Callable[[str], ModuleType], report: dict[str, Any], predictor: str
) -> None:
    benchmark = script("sampler_defaults")
    modes = benchmark.spectrum()
    assert modes[-1] == pytest.approx(1e-4 * modes[-2].item())
    (row,) = (
        row
        for row in report["errors"]
        if (row["sde"], row["grid"], row["predictor"], row["wanted"])
        == ("VP", "log-SNR", predictor, 10)
    )
    part = benchmark.PREDICTORS[predictor]
    steps = (row["evaluations"] - 1) // part.evaluations + 1
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=part, grid=ss.LogSNRGrid(), steps=steps)
    data = Modes(0 * modes.numpy(), modes.numpy())
    prior = data.mean, 0 * data.mean + sampler.start_std**2
    variance = torch.from_numpy(output_moments(sampler, data, prior)[1])
    w2 = (variance.sqrt() - modes.sqrt()).square().sum().sqrt() / modes.sum().sqrt()
    assert w2.item() == pytest.approx(row["w2"], rel=1e-6)
    assert (variance[-1] / modes[-1]).sqrt().item() == pytest.approx(row["fine"], rel=1e-6)
    assert sampler.evaluations == row["evaluations"] <= 10
