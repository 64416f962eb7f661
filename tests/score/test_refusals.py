"""Refusals of score models."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, SDEScoreError, ShapeError, TimeError
from sdescore.score.empirical import EmpiricalScore
from sdescore.score.mixture import GaussianScore, MixtureScore
from tests.helpers.refusals import Refusal, each, rows
from tests.helpers.standardised import VP, exact, plain

pytestmark = pytest.mark.fast

NAN, INF = math.nan, math.inf

X = torch.zeros(2, 3)

REFUSING = ss.ScoreModel(
    lambda x, c: pytest.fail("called before it refused"), ss.VPSDE(), prediction="epsilon"
)

PRIOR = MixtureScore([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [0.1, 0.1], ss.VPSDE())


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "score models": (
        *(
            (
                lambda options=options: ss.ScoreModel(
                    **({"net": nn.Identity(), "sde": ss.VPSDE()} | options)
                ),
                error,
                match,
            )
            for error, match, options in [
                (IncompatibleError, "prediction", {"prediction": "eps"}),
                (IncompatibleError, "time_input", {"time_input": "time"}),
                (IncompatibleError, "input_scaling", {"input_scaling": "edm"}),
                (IncompatibleError, "callable", {"net": None}),
                (IncompatibleError, "LinearSDE", {"sde": ss.SDE}),
                (IncompatibleError, "LinearSDE", {"sde": None}),
                (IncompatibleError, "discrete", {"time_input": "level"}),
                (IncompatibleError, "discrete", {"time_input": "continuous_level"}),
                *(
                    (ParameterError, "sigma_data", {"sigma_data": v})
                    for v in (0.0, -1, NAN, INF, "1")
                ),
                (TypeError, "predicts", {"predicts": "x0"}),
            ]
        ),
    ),
    "score model calls": (
        *(
            (lambda call=call: call(REFUSING), error, match)
            for error, match, call in [
                (TimeError, "T = 1", lambda m: m(X, 1.1)),
                (TimeError, "T = 1", lambda m: m(X, -0.1)),
                (TimeError, "finite number", lambda m: m(X, NAN)),
                (TimeError, "T = 1", lambda m: m(X, torch.tensor([0.5, 1.5]))),
                (TimeError, "number or a real tensor", lambda m: m(X, "0.5")),
                (TimeError, "number or a real tensor", lambda m: m(X, None)),
                (ShapeError, "time", lambda m: m(X, torch.tensor([0.5, 0.5, 0.5]))),
                (ShapeError, "time", lambda m: m(X, torch.full((2, 1), 0.5))),
                (ShapeError, "floating", lambda m: m(X.long(), 0.5)),
                (ShapeError, "Tensor", lambda m: m([[0.0]], 0.5)),
                (ShapeError, "batch dimension", lambda m: m(torch.zeros(()), 0.5)),
            ]
        ),
    ),
    "posteriors of mixtures": (
        *(
            (lambda options=options: PRIOR.posterior(*options), error, match)
            for error, match, options in [
                (ShapeError, r"A of shape \(1, 2\)", ([[1.0]], [1.0], 0.1)),
                (ShapeError, r"A of shape \(2, 2\)", ([[1.0, 0.0]], [1.0, 2.0], 0.1)),
                (ShapeError, "one standard deviation", ([[1.0, 0.0]], [1.0], [0.1, 0.1])),
                (ParameterError, "noise >= 0", ([[1.0, 0.0]], [1.0], -0.1)),
                (ParameterError, "positive definite", ([[1.0, 0.0]], [1.0], [[-1.0]])),
                (
                    ParameterError,
                    "positive definite",
                    (torch.eye(2), [1.0, 2.0], [[1.0, 0.5], [0.2, 1.0]]),
                ),
                (ParameterError, "finite y", ([[1.0, 0.0]], [NAN], 0.1)),
                (ParameterError, "finite A", ([[INF, 0.0]], [1.0], 0.1)),
                (ParameterError, "no datum changes", ([[0.3, 0.7], [0.9, 2.1]], [1.0, 3.0])),
                (ParameterError, "no datum changes", ([[0.0, 0.0]], [1.0], 0.0)),
            ]
        ),
        (lambda: PRIOR.log_evidence([[1.0, 0.0]], [1.0], -0.1), ParameterError, "noise >= 0"),
    ),
    # Casting them to real would drop the imaginary part: refused, with advice that keeps it.
    "complex numbers lose nothing silently": (
        *(
            (call, SDEScoreError, "view_as_real")
            for call in (
                lambda: ss.ScoreModel(
                    lambda x, c: x.to(torch.complex64) * 1j, ss.VPSDE(), prediction="epsilon"
                )(X, 0.5),
                lambda: ss.PredictorCorrector(
                    ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=2
                ).sample(
                    ss.ScoreModel(
                        lambda x, c: x.to(torch.complex64) * 1j, ss.VPSDE(), prediction="epsilon"
                    ),
                    (2, 3),
                ),
                lambda: ss.under(lambda x, t: 1j * x, ss.VESDE(), own=ss.VPSDE())(X, 0.5),
                lambda: ss.tweedie_covariance(lambda x: 1j * x, X, 0.8, 0.6),
                lambda: REFUSING(X * 1j, 0.5),
            )
        ),
        *(
            (
                lambda alpha=alpha, sigma=sigma: ss.convert(X, X, alpha, sigma, "epsilon", "x0"),
                ShapeError,
                r"real|number",
            )
            for alpha, sigma in ((torch.tensor(0.8j), 0.6), (0.8, 0.6j))
        ),
    ),
    "bad parameters are refused": (
        *each(
            lambda weights: MixtureScore(weights, [[0.0, 0.0], [1.0, 1.0]], [1.0, 1.0], ss.VPSDE()),
            ParameterError,
            "expected",
            ([0.5, 0.6], [1.5, -0.5], [1.0, 0.0], [float("nan"), 0.5]),
        ),
        *(
            (
                lambda weights=weights, means=means, covariances=covariances: MixtureScore(
                    weights, means, covariances, ss.VPSDE()
                ),
                ShapeError,
                "expected",
            )
            for weights, means, covariances in (
                ([1.0], [[0.0, 0.0], [1.0, 1.0]], [1.0, 1.0]),
                ([0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]], [1.0, 1.0, 1.0]),
                ([0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0, 1.0]] * 2),
                ([[0.5, 0.5]], [[0.0, 0.0], [1.0, 1.0]], [1.0, 1.0]),
                ([], torch.zeros(0, 2), torch.zeros(0)),
                ([0.5, 0.5], torch.zeros(2, 0), [1.0, 1.0]),
            )
        ),
        *each(
            lambda covariances: MixtureScore(
                [0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]], covariances, ss.VPSDE()
            ),
            ParameterError,
            "expected",
            (
                [[[1.0, 0.5], [0.4, 1.0]], [[1.0, 0.5], [0.4, 1.0]]],
                [[[1.0, 2.0], [2.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]],
                [-1.0, 1.0],
                [[1.0, -1.0], [1.0, 1.0]],
                [math.inf, 1.0],
            ),
        ),
        (
            lambda: MixtureScore([0.5, 0.5], [[0.0, math.nan], [1.0, 1.0]], [1.0, 1.0], ss.VPSDE()),
            ParameterError,
            "finite means",
        ),
        (lambda: EmpiricalScore(torch.zeros(0, 2), ss.VPSDE()), ShapeError, "expected"),
        (
            lambda: EmpiricalScore(torch.zeros(3, 2, dtype=torch.int64), ss.VPSDE()),
            ShapeError,
            "expected",
        ),
        (
            lambda: EmpiricalScore(torch.tensor([[math.nan]]), ss.VPSDE()),
            ParameterError,
            "expected",
        ),
    ),
    "an sde without marginals is refused": (
        *each(
            lambda sde: GaussianScore([0.0], 1.0, sde),
            IncompatibleError,
            "marginal",
            [None, ss.VPSDE, 0.5],
        ),
        *each(
            lambda sde: EmpiricalScore(torch.zeros(2, 1), sde),
            IncompatibleError,
            "marginal",
            [None, ss.VPSDE, 0.5],
        ),
    ),
    "complex numbers are refused with advice that loses nothing": (
        *(
            (make, SDEScoreError, "view_as_real")
            for make in (
                lambda: MixtureScore(
                    [0.5, 0.5], torch.zeros(2, 1, dtype=torch.complex64), [1, 1], None
                ),
                lambda: GaussianScore([1j], 1.0, ss.VPSDE()),
                lambda: EmpiricalScore(torch.zeros(2, 1, dtype=torch.complex64), ss.VPSDE()),
            )
        ),
    ),
    "bad kinds and shapes": (
        *(
            (
                lambda from_=from_, to=to: ss.convert(
                    torch.ones(2, 3), torch.ones(2, 3), 0.8, 0.6, from_, to
                ),
                IncompatibleError,
                r"'eps'|'noise'",
            )
            for from_, to in (("eps", "x0"), ("x0", "noise"))
        ),
        (
            lambda: ss.convert(torch.ones(2, 1), torch.ones(2, 3), 0.8, 0.6, "epsilon", "x0"),
            ShapeError,
            "got",
        ),
        (
            lambda: ss.convert(
                torch.ones(2, 3).long(), torch.ones(2, 3), 0.8, 0.6, "epsilon", "x0"
            ),
            ShapeError,
            "int64",
        ),
        *(
            (
                lambda alpha=alpha, sigma=sigma: ss.convert(
                    torch.ones(2, 3), torch.ones(2, 3), alpha, sigma, "epsilon", "x0"
                ),
                ShapeError,
                r"got \((3,|2, 1)\)",
            )
            for alpha, sigma in (
                (torch.full((3,), 0.8), 0.6),
                (0.8, torch.full((3,), 0.8)),
                (torch.full((2,), 0.6), torch.full((3,), 0.8)),
                (torch.ones(2, 1), 0.6),
            )
        ),
        (
            lambda: ss.convert(
                torch.ones(2, 3), torch.ones(2, 3), 0.8, 0.6, (torch.full((3,), 0.8), 1.0), "x0"
            ),
            ShapeError,
            "expected",
        ),
    ),
    "other numbers are refused": (
        *(
            (
                lambda options=options: ss.ScoreModel(lambda x, c: x, VP, **options),
                ParameterError,
                words,
            )
            for options, words in [
                ({"data_std": 0.0}, "data_std > 0"),
                ({"data_range": (1.0, -1.0)}, "data_range as"),
                ({"data_range": 1.0}, "data_range as"),
                ({"data_range": (0.0, math.inf)}, "data_range as"),
                ({"data_std": [1.0, -1.0]}, "data_std > 0"),
                ({"data_std": math.inf}, "finite"),
                ({"data_mean": [math.nan]}, "finite"),
                ({"data_mean": [[1.0]]}, "data_mean"),
                ({"data_mean": []}, "data_mean"),
                ({"data_mean": "1"}, "data_mean"),
                ({"data_mean": [0.0] * 3, "data_std": [1.0] * 2}, "as many numbers"),
            ]
        ),
    ),
    "an event of other features is refused": (
        *each(
            lambda event, call: call(torch.zeros(5, *event)),
            ShapeError,
            "the 3 features or channels",
            [(2,), (), (4, 3)],
            (exact().from_data, exact().to_data),
        ),
    ),
    "scores of two scales do not mix": (
        *each(
            lambda other: ss.classifier_free(exact(), other, 2.0),
            IncompatibleError,
            "one data_mean and data_std",
            (plain(), exact(data_mean=0.0)),
        ),
    ),
    "bad requests": (
        (
            lambda: ss.tweedie_covariance(torch.neg, torch.ones(2, 3), 1.0, 1.0, form="trace"),
            IncompatibleError,
            "'trace'",
        ),
        *each(
            lambda options: ss.tweedie_covariance(torch.neg, torch.ones(2, 3), 1.0, 1.0, **options),
            IncompatibleError,
            "vector",
            (
                {"form": "product"},
                {"vector": torch.ones(2, 3)},
                {"form": "diagonal", "vector": torch.ones(2, 3)},
            ),
        ),
        (
            lambda: ss.tweedie_covariance(
                torch.neg, torch.ones(2, 3), 1.0, 1.0, form="product", vector=torch.ones(3)
            ),
            ShapeError,
            r"\(2, 3\); got \(3,\)",
        ),
        (
            lambda: ss.tweedie_covariance(torch.neg, torch.ones(2, 3).long(), 1.0, 1.0),
            ShapeError,
            "int64",
        ),
        (
            lambda: ss.tweedie_mean(torch.ones(2, 3), torch.ones(2, 1), 1.0, 1.0),
            ShapeError,
            "expected",
        ),
        (
            lambda: ss.tweedie_mean(torch.ones(2, 3), torch.ones(2, 3), 0.0, 1.0),
            IncompatibleError,
            "alpha",
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_a_score_at_sigma_zero_is_refused_and_its_denoiser_is_not() -> None:
    model = ss.ScoreModel(lambda x, c: torch.ones_like(x), ss.VPSDE(), prediction="epsilon")
    with pytest.raises(TimeError, match="sigma_t > 0"):
        model(X, 0.0)
    assert torch.equal(model.denoise(X + 2, 0.0), X + 2)
    with pytest.raises(IncompatibleError, match="prediction"):
        model.predict("noise", X, 0.5)
