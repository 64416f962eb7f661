"""Refusals of score models."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import sdescore as ss

NAN, INF = math.nan, math.inf


# Bad input.


X = torch.zeros(2, 3)


REFUSING = ss.ScoreModel(
    lambda x, c: pytest.fail("called before it refused"), ss.VPSDE(), prediction="epsilon"
)


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ss.errors.IncompatibleError, "prediction", {"prediction": "eps"}),
        (ss.errors.IncompatibleError, "time_input", {"time_input": "time"}),
        (ss.errors.IncompatibleError, "input_scaling", {"input_scaling": "edm"}),
        (ss.errors.IncompatibleError, "callable", {"net": None}),
        (ss.errors.IncompatibleError, "LinearSDE", {"sde": ss.SDE}),
        (ss.errors.IncompatibleError, "LinearSDE", {"sde": None}),
        (ss.errors.IncompatibleError, "discrete", {"time_input": "level"}),
        (ss.errors.IncompatibleError, "discrete", {"time_input": "continuous_level"}),
        *(
            (ss.errors.ParameterError, "sigma_data", {"sigma_data": v})
            for v in (0.0, -1, NAN, INF, "1")
        ),
        (TypeError, "predicts", {"predicts": "x0"}),
    ],
)
def test_score_models(error: type, match: str, options: dict) -> None:
    with pytest.raises(error, match=match):
        ss.ScoreModel(**({"net": nn.Identity(), "sde": ss.VPSDE()} | options))


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ss.errors.TimeError, "T = 1", lambda m: m(X, 1.1)),
        (ss.errors.TimeError, "T = 1", lambda m: m(X, -0.1)),
        (ss.errors.TimeError, "finite number", lambda m: m(X, NAN)),
        (ss.errors.TimeError, "T = 1", lambda m: m(X, torch.tensor([0.5, 1.5]))),
        (ss.errors.TimeError, "number or a real tensor", lambda m: m(X, "0.5")),
        (ss.errors.TimeError, "number or a real tensor", lambda m: m(X, None)),
        (ss.errors.ShapeError, "time", lambda m: m(X, torch.tensor([0.5, 0.5, 0.5]))),
        (ss.errors.ShapeError, "time", lambda m: m(X, torch.full((2, 1), 0.5))),
        (ss.errors.ShapeError, "floating", lambda m: m(X.long(), 0.5)),
        (ss.errors.ShapeError, "Tensor", lambda m: m([[0.0]], 0.5)),
        (ss.errors.ShapeError, "batch dimension", lambda m: m(torch.zeros(()), 0.5)),
    ],
)
def test_score_model_calls(error: type, match: str, call: Callable) -> None:
    with pytest.raises(error, match=match):
        call(REFUSING)


def test_a_score_at_sigma_zero_is_refused_and_its_denoiser_is_not() -> None:
    model = ss.ScoreModel(lambda x, c: torch.ones_like(x), ss.VPSDE(), prediction="epsilon")
    with pytest.raises(ss.errors.TimeError, match="sigma_t > 0"):
        model(X, 0.0)
    assert torch.equal(model.denoise(X + 2, 0.0), X + 2)
    with pytest.raises(ss.errors.IncompatibleError, match="prediction"):
        model.predict("noise", X, 0.5)


def test_complex_numbers_lose_nothing_silently() -> None:
    """Casting them to real would drop the imaginary part: refused, with advice that keeps it."""
    state = ss.ScoreModel(lambda x, c: x.to(torch.complex64) * 1j, ss.VPSDE(), prediction="epsilon")
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=2)
    for call in (
        lambda: state(X, 0.5),
        lambda: sampler.sample(state, (2, 3)),
        lambda: ss.under(lambda x, t: 1j * x, ss.VESDE(), own=ss.VPSDE())(X, 0.5),
        lambda: ss.tweedie_covariance(lambda x: 1j * x, X, 0.8, 0.6),
        lambda: REFUSING(X * 1j, 0.5),
    ):
        with pytest.raises(ss.errors.SDEScoreError, match="view_as_real"):
            call()
    for alpha, sigma in ((torch.tensor(0.8j), 0.6), (0.8, 0.6j)):
        with pytest.raises(ss.errors.ShapeError, match=r"real|number"):
            ss.convert(X, X, alpha, sigma, "epsilon", "x0")
