"""What guided scores refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ShapeError
from tests.helpers.guided import COVARIANCE, MEAN, Labelled
from tests.helpers.refusals import Refusal, each, rows

pytestmark = pytest.mark.fast

SCORE = ss.GaussianScore(MEAN, COVARIANCE, ss.VPSDE())

OTHER = ss.GaussianScore(MEAN, COVARIANCE, ss.VESDE())

WEIGHT = nn.Parameter(torch.tensor(2.0))


def PLAIN(x: Tensor, t: Tensor) -> Tensor:
    return -x


def weighted(label: object, name: Any = "omega") -> Callable[[], object]:
    """Three samples of a score with a weight for each of them."""
    guided = ss.classifier_free(PLAIN, PLAIN, name)
    sampler = ss.PredictorCorrector(ss.VPSDE(), steps=2)
    return lambda: sampler.sample(guided, shape=(3, 1), label=label)


class Alone(nn.Module):
    """A network without labels that may not be called."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        raise AssertionError("called")


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "bad parts are refused": (
        (lambda: ss.classifier_free(SCORE, OTHER, 2.0), IncompatibleError, "expected"),
        (lambda: ss.classifier_free(3, SCORE, 2.0), IncompatibleError, "expected"),
        (lambda: ss.classifier_free(SCORE, Labelled, 2.0), IncompatibleError, "expected"),
        (lambda: ss.classifier_free(SCORE, SCORE, math.nan), ParameterError, "expected"),
        (lambda: ss.classifier_free(SCORE, SCORE, -0.1), ParameterError, "omega >= 0; got -0.1"),
        (lambda: ss.classifier_free(SCORE, SCORE, w=-1.1), ParameterError, "w >= -1; got -1.1"),
        (lambda: ss.classifier_free(SCORE, SCORE, w={1: -1, 2: -2}), ParameterError, "w >= -1"),
        (weighted({"omega": torch.tensor([1.0, -1.0, 2.0])}), ParameterError, "omega.* >= 0"),
        (weighted(None, lambda t: 1 - 2 * t), ParameterError, r"omega\(t\) >= 0; got -1"),
        (lambda: ss.classifier_guidance(SCORE, PLAIN, -1.0), ParameterError, "scale >= 0"),
        (lambda: ss.classifier_free(SCORE, SCORE, "2"), ParameterError, "expected"),
        (lambda: ss.classifier_free(SCORE, SCORE), ParameterError, "omega= or w="),
        (lambda: ss.classifier_free(SCORE, SCORE, 2.0, w=1.0), ParameterError, "omega= or w="),
        (lambda: ss.classifier_free(SCORE, SCORE, w=math.inf), ParameterError, "finite number w"),
        (lambda: ss.classifier_free(SCORE, SCORE, torch.ones(3)), ShapeError, "omega='omega'"),
        (lambda: ss.classifier_free(SCORE, SCORE, w=[1.0, 2.0]), ShapeError, "w='w'"),
        (lambda: ss.classifier_free(SCORE, SCORE, torch.tensor(2.0)), ParameterError, "item"),
        (lambda: ss.classifier_free(SCORE, SCORE, {1.0: 2.0}), ParameterError, "two noise levels"),
        (lambda: ss.classifier_free(SCORE, SCORE, {0: 2, 1: 2}), ParameterError, "noise level > 0"),
        (lambda: ss.classifier_free(SCORE, SCORE, {1: 2, 2: math.nan}), ParameterError, "omega"),
        (
            lambda: ss.classifier_free(PLAIN, PLAIN, {1: 2, 2: 2}),
            IncompatibleError,
            "noise level.*SDE",
        ),
        *each(
            lambda ends: ss.classifier_free(SCORE, SCORE, 2.0, interval=ends),
            ParameterError,
            r"\(low, high\)",
            [(2.0, 1.0), (-1.0, 1.0), (1.0,), 3.0, (0.0, math.nan), ("a", "b"), (1.0, 1.0)],
        ),
        (
            lambda: ss.guidance.autoguidance(PLAIN, PLAIN, 2.0, interval=(0.1, 1)),
            IncompatibleError,
            "SDE",
        ),
        *each(
            lambda phi: ss.classifier_free(SCORE, SCORE, 2.0, rescale=phi),
            ParameterError,
            "rescale",
            [-0.1, 1.1, math.nan],
        ),
        (lambda: ss.classifier_free(PLAIN, PLAIN, 2.0, rescale=0.5), IncompatibleError, "SDE"),
        (lambda: ss.guidance.product([]), ParameterError, "one score"),
        (lambda: ss.guidance.product(SCORE), IncompatibleError, "scores"),
        (lambda: ss.guidance.product([SCORE, OTHER]), IncompatibleError, "one SDE"),
        (lambda: ss.guidance.product([SCORE], [1.0, 2.0]), ParameterError, "one number for each"),
        (lambda: ss.guidance.product([SCORE], [math.nan]), ParameterError, "weights"),
        (lambda: ss.guidance.mixture([SCORE, PLAIN]), IncompatibleError, "log density"),
        (lambda: ss.guidance.mixture([SCORE], ["1"]), ParameterError, "log_weights"),
        (lambda: ss.guidance.label_part(SCORE, 3), IncompatibleError, "name"),
        (lambda: ss.guidance.perturbed(SCORE, ["a"]), IncompatibleError, "model"),
        (lambda: ss.guidance.perturbed(Labelled(), []), IncompatibleError, "list of names"),
        (lambda: ss.guidance.perturbed(Labelled(), "net"), IncompatibleError, "list of names"),
        (lambda: ss.guidance.perturbed(Labelled(), ["net"]), IncompatibleError, "named_modules"),
        *each(
            lambda limit: ss.guidance.clipped(ss.GaussianScore([0.0], 1.0, ss.VPSDE()), limit),
            ParameterError,
            "limit > 0 and limit <= 1e",
            (1e300, 1e16, 10**400, 0.0, math.nan),
        ),
        (lambda: ss.classifier_guidance(SCORE, None), IncompatibleError, "expected"),
        (lambda: ss.classifier_guidance(SCORE, SCORE, math.inf), ParameterError, "expected"),
        (lambda: ss.guidance.condition(SCORE, torch.tensor([1, 2])), IncompatibleError, "expected"),
        (lambda: ss.guidance.condition(SCORE, True), IncompatibleError, "expected"),
        (lambda: ss.guidance.condition("score", 1), IncompatibleError, "expected"),
        (lambda: ss.guidance.condition(SCORE, 1), IncompatibleError, "expected"),
    ),
    "a bad classifier is refused": (
        *(
            (
                lambda log_prob=log_prob: ss.classifier_guidance(SCORE, log_prob)(
                    torch.zeros(3, 2), torch.tensor(0.5)
                ),
                error,
                "expected",
            )
            for error, log_prob in [
                (ShapeError, lambda x, t: x),
                (ShapeError, lambda x, t: x.sum()),
                (ShapeError, lambda x, t: 1.0),
                (IncompatibleError, lambda x, t: x.detach().sum(1)),
                (IncompatibleError, lambda x, t: (WEIGHT * x.detach()).sum(1)),
            ]
        ),
    ),
    "weights of samples that do not fit": (
        (weighted(None), IncompatibleError, "dict with 'omega'"),
        (
            lambda: ss.classifier_free(PLAIN, PLAIN, "w")(torch.zeros(3, 1), torch.tensor(0.5)),
            IncompatibleError,
            "dict with 'w'",
        ),
        (weighted(torch.ones(3)), IncompatibleError, "dict with 'omega'"),
        (weighted({"w": torch.ones(3)}), IncompatibleError, "dict with 'omega'"),
        (weighted({"omega": torch.ones(3, 1)}), IncompatibleError, "dict with 'omega'"),
        (weighted({"omega": torch.ones(2)}), ShapeError, r"\(3,\)"),
        (weighted({"omega": torch.tensor([1, math.nan, 2])}), ParameterError, "finite.*omega"),
    ),
    "a label that no part takes is refused before the first call": (
        *(
            (
                lambda score=score: ss.PredictorCorrector(
                    ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=2
                ).sample(score, shape=(2, 1), label=torch.zeros(2, dtype=torch.int64)),
                IncompatibleError,
                "label",
            )
            for score in (
                ss.classifier_free(
                    ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon"),
                    ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon"),
                    2.0,
                ),
                ss.classifier_guidance(
                    ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon"), lambda x, t: x.sum(1)
                ),
                ss.under(
                    ss.classifier_free(
                        ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon"),
                        ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon"),
                        2.0,
                    ),
                    ss.VPSDE(),
                ),
                nn.DataParallel(ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon")),
                ss.ScoreModel(ss.EnergyModel(Alone()), ss.VPSDE(), prediction="score"),
                nn.DataParallel(
                    ss.classifier_free(
                        nn.DataParallel(ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon")),
                        ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon"),
                        2.0,
                    )
                ),
            )
        ),
        *(
            (
                lambda score=score: ss.PredictorCorrector(
                    ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=2
                ).sample(score, shape=(2, 1)),
                AssertionError,
                "called",
            )
            for score in (
                ss.classifier_free(
                    ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon"),
                    ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon"),
                    2.0,
                ),
                ss.classifier_guidance(
                    ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon"), lambda x, t: x.sum(1)
                ),
                ss.under(
                    ss.classifier_free(
                        ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon"),
                        ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon"),
                        2.0,
                    ),
                    ss.VPSDE(),
                ),
                nn.DataParallel(ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon")),
                ss.ScoreModel(ss.EnergyModel(Alone()), ss.VPSDE(), prediction="score"),
                nn.DataParallel(
                    ss.classifier_free(
                        nn.DataParallel(ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon")),
                        ss.ScoreModel(Alone(), ss.VPSDE(), prediction="epsilon"),
                        2.0,
                    )
                ),
            )
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
