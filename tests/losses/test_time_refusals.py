"""Refusals of weightings and times; the page on them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.losses import (
    EDMWeighting,
    ImportanceTimes,
    LogNormalTimes,
    LogSNRTimes,
    MinSNR,
)
from sdescore.losses.denoising import TimeDistribution
from tests.helpers import ROOT
from tests.helpers.weightings import (
    Tripled,
)

NO_FLOOR = ss.LinearSDE.from_marginal(lambda t: torch.exp(-t), lambda t: t.clone(), t_min=0.0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MinSNR(0.0), "gamma > 0"),
        (lambda: MinSNR(math.inf), "gamma > 0"),
        (lambda: MinSNR("5"), "gamma > 0"),
        (lambda: EDMWeighting(-0.5), "sigma_data > 0"),
        (lambda: EDMWeighting(math.nan), "sigma_data > 0"),
        (lambda: EDMWeighting(torch.tensor(0.5)), "sigma_data > 0"),
        (lambda: LogNormalTimes(std=0.0), "std > 0"),
        (lambda: LogNormalTimes(mean=math.inf), "finite number mean"),
        (lambda: LogNormalTimes(mean="-1"), "finite number mean"),
        (lambda: ImportanceTimes(stratified="likelihood"), "True or False"),
        (lambda: LogSNRTimes().sample(ss.VPSDE(), True), "integer n >= 0"),
        (lambda: ss.losses.UniformTimes().sample(ss.VPSDE(), -1), "integer n >= 0"),
        (lambda: LogNormalTimes().sample(ss.VPSDE(), 3.0), "integer n >= 0"),
    ],
)
def test_bad_parameters_are_refused(make, match: str) -> None:
    with pytest.raises(ss.errors.ParameterError, match=match):
        make()


@pytest.mark.parametrize("times", [LogSNRTimes(), LogNormalTimes(), ImportanceTimes()])
def test_an_sde_of_infinite_log_snr_is_refused(times: TimeDistribution) -> None:
    with pytest.raises(ss.errors.ScheduleError, match="finite log-SNR"):
        times.sample(NO_FLOOR, 3)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"weighting": MinSNR}, ss.errors.IncompatibleError, r"such as MinSNR\(\)"),
        ({"weighting": "min_snr"}, ss.errors.IncompatibleError, "'likelihood'"),
        ({"times": ImportanceTimes(), "t": 0.4}, ss.errors.IncompatibleError, "both"),
        (
            {"times": ImportanceTimes(), "weighting": "g2"},
            ss.errors.IncompatibleError,
            "'likelihood'",
        ),
        (
            {"times": Tripled(weight=2)},
            ss.errors.ShapeError,
            "one importance weight per time.*got int",
        ),
        (
            {"times": Tripled(weight=torch.ones(1))},
            ss.errors.ShapeError,
            "one importance weight per time",
        ),
        (
            {"times": Tripled(weight=torch.ones(3, 1))},
            ss.errors.ShapeError,
            "one importance weight per time",
        ),
        ({"times": Tripled(weight=-1.0)}, ss.errors.ParameterError, "importance weight"),
        ({"times": Tripled(weight=math.inf)}, ss.errors.ParameterError, "importance weight"),
    ],
)
def test_bad_input_is_refused_before_the_network(
    options: dict[str, object], error: type[Exception], match: str
) -> None:
    calls: list[Tensor] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return x

    with pytest.raises(error, match=match):
        ss.denoising_loss(score, torch.zeros(3, 2), sde=ss.VPSDE(), **options)
    assert not calls


# The page.


def test_the_page_says_what_was_saved(script: Callable[[str], ModuleType]) -> None:
    benchmark = script("weightings")
    report = json.loads((ROOT / "benchmarks" / "results" / "weightings-cpu.json").read_text())
    page = (ROOT / "docs" / "howto" / "weightings.md").read_text(encoding="utf-8")
    assert benchmark.same_objective_table(report) in page
    assert benchmark.noise_table(report) in page
    assert benchmark.machine_sentence(report) in page
    assert f"{report['batches']} minibatches of {report['batch']}" in page
    # What the page concludes: a tenth of the variance on VP, nothing to gain on VE.
    ratios = {
        row["column"]: row["trace_over_uniform"]
        for row in report["rows"]
        if (row["weighting"], row["times"]) == ("likelihood", "importance")
    }
    assert all(r < 0.12 for column, r in ratios.items() if column.startswith("VP"))
    assert all(r == 1.0 for column, r in ratios.items() if column.startswith("VE"))
