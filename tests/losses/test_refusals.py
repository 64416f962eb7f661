"""Refusals of the objectives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ShapeError, TimeError
from sdescore.losses import (
    at_levels,
    explicit_loss,
    finite_difference_loss,
    implicit_loss,
    kernel_density_score,
    sliced_loss,
)
from tests.helpers.objectives import (
    SCORE_ONLY,
    X,
    still,
    untouched,
)
from tests.helpers.refusals import Refusal, each, rows
from tests.helpers.standardised import MEAN, STD


class Conditional(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        y: Tensor = self.inner(x)
        return y


def pair() -> tuple[ss.ScoreModel, ss.ScoreModel]:
    """One network, with and without standardisation."""
    torch.manual_seed(0)
    net = ss.MLP(3, hidden=16).double()
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.3)
    with_scale = ss.ScoreModel(net, ss.VPSDE(), data_mean=MEAN, data_std=STD, prediction="epsilon")
    return with_scale, ss.ScoreModel(net, ss.VPSDE(), prediction="epsilon")


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "bad options are refused": (
        *(
            (
                lambda objective=objective, options=options: objective(
                    untouched, **{"x0": X, **options}
                ),
                error,
                "expected",
            )
            for error, objective, options in [
                (IncompatibleError, implicit_loss, {"trace": "guess"}),
                (IncompatibleError, implicit_loss, {"probes": 2}),
                (IncompatibleError, implicit_loss, {"probes": torch.zeros(1, 3, 2)}),
                (ParameterError, sliced_loss, {"reduced_variance": 1}),
                (ParameterError, implicit_loss, {"chunk_size": 0}),
                (ParameterError, sliced_loss, {"chunk_size": True}),
                (ParameterError, sliced_loss, {"chunk_size": 1.5}),
                (ParameterError, sliced_loss, {"chunk_size": 0, "reduced_variance": True}),
                (ParameterError, finite_difference_loss, {"epsilon": 0.0}),
                (ParameterError, finite_difference_loss, {"epsilon": math.nan}),
                (ParameterError, finite_difference_loss, {"epsilon": "small"}),
                (
                    ParameterError,
                    finite_difference_loss,
                    {"epsilon": torch.tensor([0.1, 0.0, 0.1])},
                ),
                (ParameterError, finite_difference_loss, {"epsilon": torch.tensor(math.inf)}),
                (ShapeError, finite_difference_loss, {"epsilon": torch.ones(2)}),
                (ShapeError, finite_difference_loss, {"epsilon": torch.ones(3, 2)}),
                (IncompatibleError, implicit_loss, {"generator": 3}),
                (IncompatibleError, sliced_loss, {"generator": 3}),
                (IncompatibleError, finite_difference_loss, {"generator": 3, "probes": X[None]}),
                (ParameterError, finite_difference_loss, {"reduced_variance": 1}),
                (ShapeError, finite_difference_loss, {"x0": X.bfloat16()}),
                (IncompatibleError, explicit_loss, {"target": 3.0}),
                (ShapeError, explicit_loss, {"target": torch.zeros(3, 3)}),
                (
                    IncompatibleError,
                    explicit_loss,
                    {"target": ss.VPSDE},
                ),
                *(
                    (error, objective, options)
                    for objective in (
                        sliced_loss,
                        finite_difference_loss,
                        functools.partial(implicit_loss, trace="hutchinson"),
                    )
                    for error, options in (
                        (ParameterError, {"probes": 0}),
                        (ParameterError, {"probes": True}),
                        (ParameterError, {"probes": 1.5}),
                        (ShapeError, {"probes": torch.zeros(3, 2)}),
                        (ShapeError, {"probes": torch.zeros(0, 3, 2)}),
                        (ShapeError, {"probes": torch.zeros(1, 3, 2).long()}),
                        (IncompatibleError, {"probe_distribution": "cauchy"}),
                    )
                ),
            ]
        ),
    ),
    "a score without a derivative is no score of trace zero": (
        *each(
            lambda score, objective: objective(score, torch.ones(3, 2)),
            IncompatibleError,
            "differentiate",
            [
                lambda x: -x.detach(),
                lambda x: torch.ones(3, 2, requires_grad=True) * 1,
                torch.zeros_like,
            ],
            [
                implicit_loss,
                sliced_loss,
                functools.partial(implicit_loss, trace="hutchinson", probes=2),
            ],
        ),
    ),
    "values of an energy do not know its gradient s norm": (
        (
            lambda: finite_difference_loss(
                ss.EnergyModel(lambda x: x[:, 0]), X, reduced_variance=True
            ),
            IncompatibleError,
            "log density",
        ),
    ),
    "data of other features are refused": (
        (
            lambda: ss.denoising_loss(pair()[0], torch.zeros(4, 2)),
            ShapeError,
            "the 3 features or channels",
        ),
    ),
    "bad kernel densities are refused": (
        *(
            (
                lambda data=data, bandwidth=bandwidth: kernel_density_score(data, bandwidth),
                error,
                "expected",
            )
            for error, data, bandwidth in [
                (ShapeError, torch.zeros(1, 2), "scott"),
                (ParameterError, torch.ones(5, 2), "scott"),
                (ShapeError, [1.0, 2.0], "silverman"),
                (ParameterError, torch.randn(5, 2), 0.0),
                (ParameterError, torch.randn(5, 2), math.nan),
                (ParameterError, torch.tensor([[0.0], [math.nan]]), "scott"),
                (ParameterError, torch.tensor([[0.0], [math.nan]]), 0.5),
                (IncompatibleError, torch.randn(5, 2), "rule of thumb"),
            ]
        ),
    ),
    "objectives that do not fit are refused": (
        *(
            (
                lambda objective=objective, given=given: at_levels(objective, **given),
                IncompatibleError,
                "expected",
            )
            for objective, given in [
                (3, {}),
                (sliced_loss, {"weighting": "guess"}),
                (sliced_loss, {"options": {"probs": 2}}),
                (sliced_loss, {"options": {"generator": None}}),
                (sliced_loss, {"options": {"x": X}}),
                (sliced_loss, {"options": ["probes"]}),
                (sliced_loss, {"options": {1: 2}}),
                (explicit_loss, {}),  # its target is required
                (max, {}),
                (lambda score: None, {}),
                (lambda score, x, *, scale: None, {}),
            ]
        ),
    ),
    "what is no distribution of times is refused": (
        *each(
            lambda bad: ss.denoising_loss(
                lambda x, t: -x, torch.ones(3, 2), times=bad, sde=ss.VPSDE()
            ),
            IncompatibleError,
            r"expected times to be a TimeDist",
            [1, "uniform", ss.losses.UniformTimes, lambda sde, n: None],
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("name", SCORE_ONLY)
@pytest.mark.parametrize(
    ("error", "given"),
    [
        (ShapeError, {"x0": torch.zeros(3, 2).long()}),
        (ShapeError, {"x0": torch.zeros(3, 2, dtype=torch.complex64)}),
        (ParameterError, {"x0": torch.tensor([[0.0, math.nan]])}),
        (ParameterError, {"x0": torch.tensor([[0.0, -math.inf]])}),
        (ShapeError, {"x0": torch.tensor(1.0)}),
        (ShapeError, {"x0": torch.zeros(0, 2)}),
        (ShapeError, {"t": torch.ones(4), "sde": ss.VPSDE()}),
        (ShapeError, {"t": torch.ones(3, 1), "sde": ss.VPSDE()}),
        (TimeError, {"t": math.nan, "sde": ss.VPSDE()}),
        (TimeError, {"t": 0.0, "sde": ss.VPSDE()}),
        (TimeError, {"t": 2.0, "sde": ss.VPSDE()}),
        (IncompatibleError, {"t": 0.5}),
        (IncompatibleError, {"t": 0.5, "sde": ss.VPSDE}),
        (IncompatibleError, {"sde": ss.VPSDE()}),
        (IncompatibleError, {"noise": X}),
        (IncompatibleError, {"weighting": "likelihood"}),
        (IncompatibleError, {"label": torch.zeros(3, dtype=torch.int64)}),
        (IncompatibleError, {"t": 0.5, "sde": ss.VPSDE(), "weighting": "guess"}),
        (ShapeError, {"t": 0.5, "sde": ss.VPSDE(), "noise": X[:2]}),
        (ParameterError, {"t": 0.5, "sde": ss.VPSDE(), "noise": X + math.nan}),
        (ShapeError, {"weight": torch.ones(2)}),
        (ShapeError, {"weight": torch.ones(3, 1)}),
        (ParameterError, {"weight": -1.0}),
        (ParameterError, {"weight": math.inf}),
        (ParameterError, {"weight": torch.tensor([1.0, -1.0, 0.0])}),
        (ParameterError, {"weight": torch.tensor([1.0, math.nan, 0.0])}),
        (ParameterError, {"weight": torch.tensor([1.0, math.inf, 0.0])}),
        (IncompatibleError, {"model": 3.0}),
        (IncompatibleError, {"model": nn.Linear}),
        (
            IncompatibleError,
            {"model": ss.ScoreModel(nn.Linear(2, 2), ss.VPSDE(), prediction="epsilon")},
        ),
        (
            TimeError,
            {"model": ss.ScoreModel(nn.Linear(2, 2), ss.VPSDE(), prediction="epsilon"), "t": 2.0},
        ),
        (
            IncompatibleError,
            {
                "model": ss.ScoreModel(nn.Linear(2, 2), ss.VPSDE(), prediction="epsilon"),
                "t": 0.5,
                "sde": ss.VESDE(),
            },
        ),
        (ShapeError, {"model": nn.Linear(2, 2, device="meta")}),
    ],
)
def test_bad_requests_are_refused(name: str, error: type[Exception], given: dict[str, Any]) -> None:
    options = {"model": untouched, "x0": X, **given}
    with pytest.raises(error, match="expected"):
        SCORE_ONLY[name](options.pop("model"), options.pop("x0"), **options)


def test_a_score_or_density_of_another_shape_is_refused() -> None:
    for objective in SCORE_ONLY.values():
        with pytest.raises(ShapeError, match="its input's shape"):
            objective(lambda x: x[:, :1], X)
        with pytest.raises(ShapeError, match="one scalar per sample"):
            objective(ss.EnergyModel(lambda x: x), X) if objective is not SCORE_ONLY[
                "explicit"
            ] else explicit_loss(ss.EnergyModel(lambda x: x), X, X)
    with pytest.raises(ShapeError, match="the target"):
        explicit_loss(lambda x: x, X, lambda x: x[:1])

    class Flat:
        def __call__(self, x: Tensor) -> Tensor:
            return x

        def log_density(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(ShapeError, match="log density"):
        finite_difference_loss(Flat(), X)


def test_dropout_has_no_differences() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    with pytest.raises(IncompatibleError, match="dropout"):
        finite_difference_loss(net, X)
    model, t, label = (
        ss.ScoreModel(Conditional(net), ss.VPSDE(), prediction="epsilon"),
        torch.ones(3),
        torch.zeros(3),
    )
    for classes in (None, label.long()):
        with pytest.raises(IncompatibleError, match="dropout"):
            finite_difference_loss(model, X, t=t, label=classes)
    far = ss.ScoreModel(
        Conditional(nn.Linear(2, 2, device="meta")), ss.VPSDE(), prediction="epsilon"
    )
    with pytest.raises(ShapeError, match="device"):
        sliced_loss(far, X, t=t, label=label.long())
    assert finite_difference_loss(net.eval(), X).mean.isfinite()
    net[1].p = 0.0
    assert finite_difference_loss(net.train(), X).mean.isfinite()


def test_the_target_is_not_trained() -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    explicit_loss(a, torch.ones(3, 2), b).mean.backward()
    assert a.weight.grad is not None and b.weight.grad is None
    loss = explicit_loss(
        lambda x, t: t[:, None] * x,
        torch.ones(3, 2),
        lambda x, t: -t[:, None] * x,
        t=0.5,
        **still(torch.ones(3, 2)),
    )
    assert loss.per_sample.tolist() == [1.0] * 3
