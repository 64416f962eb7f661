"""Refusals of the objectives."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.losses import (
    explicit_loss,
    finite_difference_loss,
    implicit_loss,
    sliced_loss,
)
from tests.helpers.objectives import (
    SCORE_ONLY,
    X,
    still,
    untouched,
)


@pytest.mark.parametrize("name", SCORE_ONLY)
@pytest.mark.parametrize(
    ("error", "given"),
    [
        (ss.errors.ShapeError, {"x0": torch.zeros(3, 2).long()}),
        (ss.errors.ShapeError, {"x0": torch.zeros(3, 2, dtype=torch.complex64)}),
        (ss.errors.ParameterError, {"x0": torch.tensor([[0.0, math.nan]])}),
        (ss.errors.ParameterError, {"x0": torch.tensor([[0.0, -math.inf]])}),
        (ss.errors.ShapeError, {"x0": torch.tensor(1.0)}),
        (ss.errors.ShapeError, {"x0": torch.zeros(0, 2)}),
        (ss.errors.ShapeError, {"t": torch.ones(4), "sde": ss.VPSDE()}),
        (ss.errors.ShapeError, {"t": torch.ones(3, 1), "sde": ss.VPSDE()}),
        (ss.errors.TimeError, {"t": math.nan, "sde": ss.VPSDE()}),
        (ss.errors.TimeError, {"t": 0.0, "sde": ss.VPSDE()}),
        (ss.errors.TimeError, {"t": 2.0, "sde": ss.VPSDE()}),
        (ss.errors.IncompatibleError, {"t": 0.5}),
        (ss.errors.IncompatibleError, {"t": 0.5, "sde": ss.VPSDE}),
        (ss.errors.IncompatibleError, {"sde": ss.VPSDE()}),
        (ss.errors.IncompatibleError, {"noise": X}),
        (ss.errors.IncompatibleError, {"weighting": "likelihood"}),
        (ss.errors.IncompatibleError, {"label": torch.zeros(3, dtype=torch.int64)}),
        (ss.errors.IncompatibleError, {"t": 0.5, "sde": ss.VPSDE(), "weighting": "guess"}),
        (ss.errors.ShapeError, {"t": 0.5, "sde": ss.VPSDE(), "noise": X[:2]}),
        (ss.errors.ParameterError, {"t": 0.5, "sde": ss.VPSDE(), "noise": X + math.nan}),
        (ss.errors.ShapeError, {"weight": torch.ones(2)}),
        (ss.errors.ShapeError, {"weight": torch.ones(3, 1)}),
        (ss.errors.ParameterError, {"weight": -1.0}),
        (ss.errors.ParameterError, {"weight": math.inf}),
        (ss.errors.ParameterError, {"weight": torch.tensor([1.0, -1.0, 0.0])}),
        (ss.errors.ParameterError, {"weight": torch.tensor([1.0, math.nan, 0.0])}),
        (ss.errors.ParameterError, {"weight": torch.tensor([1.0, math.inf, 0.0])}),
        (ss.errors.IncompatibleError, {"model": 3.0}),
        (ss.errors.IncompatibleError, {"model": nn.Linear}),
        (
            ss.errors.IncompatibleError,
            {"model": ss.ScoreModel(nn.Linear(2, 2), ss.VPSDE(), prediction="epsilon")},
        ),
        (
            ss.errors.TimeError,
            {"model": ss.ScoreModel(nn.Linear(2, 2), ss.VPSDE(), prediction="epsilon"), "t": 2.0},
        ),
        (
            ss.errors.IncompatibleError,
            {
                "model": ss.ScoreModel(nn.Linear(2, 2), ss.VPSDE(), prediction="epsilon"),
                "t": 0.5,
                "sde": ss.VESDE(),
            },
        ),
        (ss.errors.ShapeError, {"model": nn.Linear(2, 2, device="meta")}),
    ],
)
def test_bad_requests_are_refused(name: str, error: type[Exception], given: dict[str, Any]) -> None:
    options = {"model": untouched, "x0": X, **given}
    with pytest.raises(error, match="expected"):
        SCORE_ONLY[name](options.pop("model"), options.pop("x0"), **options)


@pytest.mark.parametrize(
    ("error", "objective", "options"),
    [
        (ss.errors.IncompatibleError, implicit_loss, {"trace": "guess"}),
        (ss.errors.IncompatibleError, implicit_loss, {"probes": 2}),
        (ss.errors.IncompatibleError, implicit_loss, {"probes": torch.zeros(1, 3, 2)}),
        (ss.errors.ParameterError, sliced_loss, {"reduced_variance": 1}),
        (ss.errors.ParameterError, implicit_loss, {"chunk_size": 0}),
        (ss.errors.ParameterError, sliced_loss, {"chunk_size": True}),
        (ss.errors.ParameterError, sliced_loss, {"chunk_size": 1.5}),
        (ss.errors.ParameterError, sliced_loss, {"chunk_size": 0, "reduced_variance": True}),
        (ss.errors.ParameterError, finite_difference_loss, {"epsilon": 0.0}),
        (ss.errors.ParameterError, finite_difference_loss, {"epsilon": math.nan}),
        (ss.errors.ParameterError, finite_difference_loss, {"epsilon": "small"}),
        (
            ss.errors.ParameterError,
            finite_difference_loss,
            {"epsilon": torch.tensor([0.1, 0.0, 0.1])},
        ),
        (ss.errors.ParameterError, finite_difference_loss, {"epsilon": torch.tensor(math.inf)}),
        (ss.errors.ShapeError, finite_difference_loss, {"epsilon": torch.ones(2)}),
        (ss.errors.ShapeError, finite_difference_loss, {"epsilon": torch.ones(3, 2)}),
        (ss.errors.IncompatibleError, implicit_loss, {"generator": 3}),
        (ss.errors.IncompatibleError, sliced_loss, {"generator": 3}),
        (ss.errors.IncompatibleError, finite_difference_loss, {"generator": 3, "probes": X[None]}),
        (ss.errors.ParameterError, finite_difference_loss, {"reduced_variance": 1}),
        (ss.errors.ShapeError, finite_difference_loss, {"x0": X.bfloat16()}),
        (ss.errors.IncompatibleError, explicit_loss, {"target": 3.0}),
        (ss.errors.ShapeError, explicit_loss, {"target": torch.zeros(3, 3)}),
        (
            ss.errors.IncompatibleError,
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
                (ss.errors.ParameterError, {"probes": 0}),
                (ss.errors.ParameterError, {"probes": True}),
                (ss.errors.ParameterError, {"probes": 1.5}),
                (ss.errors.ShapeError, {"probes": torch.zeros(3, 2)}),
                (ss.errors.ShapeError, {"probes": torch.zeros(0, 3, 2)}),
                (ss.errors.ShapeError, {"probes": torch.zeros(1, 3, 2).long()}),
                (ss.errors.IncompatibleError, {"probe_distribution": "cauchy"}),
            )
        ),
    ],
)
def test_bad_options_are_refused(error: type[Exception], objective: Any, options: Any) -> None:
    options = {"x0": X, **options}
    with pytest.raises(error, match="expected"):
        objective(untouched, **options)


@pytest.mark.parametrize(
    "score",
    [lambda x: -x.detach(), lambda x: torch.ones(3, 2, requires_grad=True) * 1, torch.zeros_like],
)
@pytest.mark.parametrize(
    "objective",
    [
        implicit_loss,
        sliced_loss,
        functools.partial(implicit_loss, trace="hutchinson", probes=2),
    ],
)
def test_a_score_without_a_derivative_is_no_score_of_trace_zero(score: Any, objective: Any) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="differentiate"):
        objective(score, torch.ones(3, 2))


def test_a_score_or_density_of_another_shape_is_refused() -> None:
    for objective in SCORE_ONLY.values():
        with pytest.raises(ss.errors.ShapeError, match="its input's shape"):
            objective(lambda x: x[:, :1], X)
        with pytest.raises(ss.errors.ShapeError, match="one scalar per sample"):
            objective(ss.EnergyModel(lambda x: x), X) if objective is not SCORE_ONLY[
                "explicit"
            ] else explicit_loss(ss.EnergyModel(lambda x: x), X, X)
    with pytest.raises(ss.errors.ShapeError, match="the target"):
        explicit_loss(lambda x: x, X, lambda x: x[:1])

    class Flat:
        def __call__(self, x: Tensor) -> Tensor:
            return x

        def log_density(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(ss.errors.ShapeError, match="log density"):
        finite_difference_loss(Flat(), X)


def test_values_of_an_energy_do_not_know_its_gradient_s_norm() -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="log density"):
        finite_difference_loss(ss.EnergyModel(lambda x: x[:, 0]), X, reduced_variance=True)


class Conditional(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        y: Tensor = self.inner(x)
        return y


def test_dropout_has_no_differences() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    with pytest.raises(ss.errors.IncompatibleError, match="dropout"):
        finite_difference_loss(net, X)
    model, t, label = (
        ss.ScoreModel(Conditional(net), ss.VPSDE(), prediction="epsilon"),
        torch.ones(3),
        torch.zeros(3),
    )
    for classes in (None, label.long()):
        with pytest.raises(ss.errors.IncompatibleError, match="dropout"):
            finite_difference_loss(model, X, t=t, label=classes)
    far = ss.ScoreModel(
        Conditional(nn.Linear(2, 2, device="meta")), ss.VPSDE(), prediction="epsilon"
    )
    with pytest.raises(ss.errors.ShapeError, match="device"):
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
