"""What guided scores refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ShapeError
from tests.helpers.refusals import Refusal, rows

pytestmark = pytest.mark.fast

F64 = torch.float64

MEAN = torch.tensor([1.0, -0.5], dtype=F64)

COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.8]], dtype=F64)


class Labelled(nn.Module):
    """A score that depends on the label; without one it is label 7's. Counts training calls."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))
        self.seen: list[tuple[bool, int]] = []

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append((self.training, -1 if label is None else len(label)))
        if label is None:
            label = torch.full(x.shape[:1], 7)
        return self.factor * (label.to(x)[:, None] - x)


SCORE = ss.GaussianScore(MEAN, COVARIANCE, ss.VPSDE())

OTHER = ss.GaussianScore(MEAN, COVARIANCE, ss.VESDE())

WEIGHT = nn.Parameter(torch.tensor(2.0))


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
        (lambda: ss.classifier_free(SCORE, SCORE, "2"), ParameterError, "expected"),
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
