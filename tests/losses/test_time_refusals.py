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
from sdescore.errors import IncompatibleError, ParameterError, ScheduleError, ShapeError
from sdescore.losses import EDMWeighting, ImportanceTimes, LogNormalTimes, LogSNRTimes, MinSNR
from tests.helpers import ROOT
from tests.helpers.denoising import Affine
from tests.helpers.refusals import Refusal, each, rows
from tests.helpers.weightings import (
    Tripled,
)

NO_FLOOR = ss.LinearSDE.from_marginal(lambda t: torch.exp(-t), lambda t: t.clone(), t_min=0.0)

REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "bad parameters are refused": (
        (lambda: MinSNR(0.0), ParameterError, "gamma > 0"),
        (lambda: MinSNR(math.inf), ParameterError, "gamma > 0"),
        (lambda: MinSNR("5"), ParameterError, "gamma > 0"),
        (lambda: EDMWeighting(-0.5), ParameterError, "sigma_data > 0"),
        (lambda: EDMWeighting(math.nan), ParameterError, "sigma_data > 0"),
        (lambda: EDMWeighting(torch.tensor(0.5)), ParameterError, "sigma_data > 0"),
        (lambda: LogNormalTimes(std=0.0), ParameterError, "std > 0"),
        (lambda: LogNormalTimes(mean=math.inf), ParameterError, "finite number mean"),
        (lambda: LogNormalTimes(mean="-1"), ParameterError, "finite number mean"),
        (lambda: ImportanceTimes(stratified="likelihood"), ParameterError, "True or False"),
        (lambda: LogSNRTimes().sample(ss.VPSDE(), True), ParameterError, "integer n >= 0"),
        (lambda: ss.losses.UniformTimes().sample(ss.VPSDE(), -1), ParameterError, "integer n >= 0"),
        (lambda: LogNormalTimes().sample(ss.VPSDE(), 3.0), ParameterError, "integer n >= 0"),
    ),
    "an sde of infinite log snr is refused": (
        *each(
            lambda times: times.sample(NO_FLOOR, 3),
            ScheduleError,
            "finite log-SNR",
            [LogSNRTimes(), LogNormalTimes(), ImportanceTimes()],
        ),
    ),
    "a device that differs is refused": (
        (
            lambda: ss.denoising_loss(
                ss.ScoreModel(Affine(2).to("meta"), ss.VPSDE(), prediction="epsilon"),
                torch.zeros(3, 2),
                t=0.5,
            ),
            ShapeError,
            "device",
        ),
    ),
    "a score without sde is refused": (
        (lambda: ss.denoising_loss(lambda x, t: x, torch.zeros(3, 2)), IncompatibleError, "sde="),
    ),
    "a score of another shape is refused": (
        (
            lambda: ss.denoising_loss(lambda x, t: x[:, :1], torch.zeros(3, 2), sde=ss.VPSDE()),
            ShapeError,
            "the score",
        ),
    ),
    "log normal out of reach is refused": (
        *each(
            lambda mean: LogNormalTimes(mean, 1.0).sample(
                ss.EDMSDE(sigma_min=math.exp(-1), sigma_max=math.exp(1)), 3
            ),
            ParameterError,
            "within reach of the distribution",
            [-45.0, 45.0],
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"weighting": MinSNR}, IncompatibleError, r"such as MinSNR\(\)"),
        ({"weighting": "min_snr"}, IncompatibleError, "'likelihood'"),
        ({"times": ImportanceTimes(), "t": 0.4}, IncompatibleError, "both"),
        (
            {"times": ImportanceTimes(), "weighting": "g2"},
            IncompatibleError,
            "'likelihood'",
        ),
        (
            {"times": Tripled(weight=2)},
            ShapeError,
            "one importance weight per time.*got int",
        ),
        (
            {"times": Tripled(weight=torch.ones(1))},
            ShapeError,
            "one importance weight per time",
        ),
        (
            {"times": Tripled(weight=torch.ones(3, 1))},
            ShapeError,
            "one importance weight per time",
        ),
        ({"times": Tripled(weight=-1.0)}, ParameterError, "importance weight"),
        ({"times": Tripled(weight=math.inf)}, ParameterError, "importance weight"),
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


def test_the_page_says_what_was_saved(script: Callable[[str], ModuleType]) -> None:
    benchmark = script("weightings")
    report = json.loads((ROOT / "benchmarks" / "results" / "weightings-cpu.json").read_text())
    page = (ROOT / "docs" / "howto" / "weightings.md").read_text(encoding="utf-8")
    assert benchmark.same_objective_table(report) in page
    assert benchmark.noise_table(report) in page
    assert benchmark.machine_sentence(report) in page
    assert f"{report['batches']} minibatches of {report['batch']}" in " ".join(page.split())
    # What the page concludes: a tenth of the variance on VP, nothing to gain on VE.
    ratios = {
        row["column"]: row["trace_over_uniform"]
        for row in report["rows"]
        if (row["weighting"], row["times"]) == ("likelihood", "importance")
    }
    assert all(r < 0.12 for column, r in ratios.items() if column.startswith("VP"))
    assert all(r == 1.0 for column, r in ratios.items() if column.startswith("VE"))
