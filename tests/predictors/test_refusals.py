"""What predictors refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ScheduleError, ShapeError
from sdescore.predictors.exponential_runge_kutta import ExponentialRungeKutta
from sdescore.predictors.runge_kutta import Heun
from sdescore.predictors.stochastic_heun import StochasticHeun
from tests.helpers.multistage import SDES, VP, chain
from tests.helpers.refusals import Refusal, each, rows

NAN, INF = math.nan, math.inf

BAD = [
    *((Heun, {"s_churn": value}) for value in (-1.0, INF, NAN, None, torch.tensor(1.0), "1")),
    *((Heun, {"s_min": value}) for value in (-1.0, INF, NAN, None)),
    *((Heun, {"s_max": value}) for value in (-1.0, NAN, None, "x")),
    (Heun, {"s_min": 2.0, "s_max": 1.0}),
    *((Heun, {"s_noise": value}) for value in (0.0, -1.0, INF, NAN, None)),
    *((ExponentialRungeKutta, {"stages": value}) for value in (0, 4, -1, 1.0, True, None, "2")),
    *((ExponentialRungeKutta, {"eta": value}) for value in (-0.1, 1.1, NAN, None)),
    *((ExponentialRungeKutta, {"node": value}) for value in (0.0, 1.0, NAN, "1")),
    (ExponentialRungeKutta, {"stages": 3, "node": 0.4}),
    *((StochasticHeun, {"eta": value}) for value in (-0.1, 1.1, NAN, None)),
]


def two_stages(**fields: object) -> ss.Tableau:
    n = torch.ones(3, 2, dtype=torch.float64)
    return ss.Tableau(n, n, n[..., None], torch.ones(3, 2, 1, dtype=torch.float64), **fields)


class Started(ss.Predictor):
    """The step of DDIM, with a given start and spans."""

    order = 0

    def __init__(self, a: float = 1.0, c: float = 0.0, spans: Tensor | None = None) -> None:
        self.a, self.c, self.spans = a, c, spans

    def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
        base = ss.DDIM().tableau(sde, times)
        ones = torch.ones(len(base), 1, dtype=torch.float64)
        start = self.a * ones[:, 0], self.c * ones
        return ss.Tableau(base.times, base.a, base.b, base.c, start=start, spans=self.spans)


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "bad parameters": (
        *each(
            lambda arguments: ss.ExponentialAdams(**arguments),
            ParameterError,
            "expected",
            [
                {"points": 0},
                {"points": 5},
                {"points": 2.0},
                {"points": True},
                {"corrector_points": 1},
                {"corrector_points": 6},
                {"eta": -0.1},
                {"eta": 1.5},
                {"midpoint": 1},
                {"midpoint": torch.zeros(2)},
                {"midpoint": True, "points": 3},
                {"midpoint": True, "corrector_points": 3},
            ],
        ),
    ),
    "unknown output": (
        (
            lambda: ss.ExponentialAdams(output="score"),
            IncompatibleError,
            "expected output among x0, epsilon",
        ),
    ),
    "parameters out of range": (
        *(
            (lambda kind=kind, options=options: kind(**options), ParameterError, "expected")
            for kind, options in BAD
        ),
    ),
    "an output without an exponential form": (
        *each(
            lambda output: ExponentialRungeKutta(output=output),
            IncompatibleError,
            "x0, epsilon",
            ["score", "v", "X0", None, 1],
        ),
    ),
    "a grid down to no noise is refused": (
        *each(
            lambda predictor: chain(SDES["flow"], predictor, [0.9, 0.5, 0.0]),
            ScheduleError,
            "sigma_t > 0",
            [ExponentialRungeKutta(1.0, 2), ExponentialRungeKutta()],
        ),
    ),
    "starts and spans that do not fit": (
        *(
            (lambda fields=fields: two_stages(**fields), ShapeError, next(iter(fields)))
            for fields in [
                {"start": (torch.ones(2), torch.ones(3, 1))},
                {"start": (torch.ones(3), torch.ones(3, 2))},
                {"start": (torch.ones(3), torch.ones(3))},
                {"spans": torch.ones(3, 2)},
                {"spans": torch.ones(3, 1, 1)},
                {"spans": torch.ones(3, 2, 2)},
            ]
        ),
    ),
    "starts and spans that are not finite": (
        *each(
            lambda predictor: chain(VP, predictor, [0.8, 0.4]),
            ScheduleError,
            "finite numbers",
            [Started(NAN), Started(1.0, INF), Started(1.0, 1.0, torch.full((1, 1, 2), NAN))],
        ),
    ),
    "bad weights": (
        *(
            (lambda weights=weights: ss.predictors.Multistep(weights), ParameterError, match)
            for weights, match in [
                ([], "a row of weights"),
                (3, "a row of weights"),
                ([1.0, 1.0], "a row of weights"),
                ([[1.0], [0.5, 0.4]], "sum to 1 in row 1"),
                ([[1.5, -0.5], [1.0]], "at most 1 weights in row 0"),
                ([[math.nan]], "numbers in row 0"),
                ([["1"]], "numbers in row 0"),
            ]
        ),
    ),
    "weights are for their number of times": (
        (
            lambda: ss.PredictorCorrector(
                ss.VPSDE(), predictor=ss.predictors.Multistep([[1.0], [1.0]]), steps=3
            ),
            IncompatibleError,
            "grid of 2 times",
        ),
    ),
    "bad endings": (
        (
            lambda: ss.PredictorCorrector(
                ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=3, denoise="mean"
            ),
            IncompatibleError,
            "denoise among True, False, flow",
        ),
        *(
            (
                lambda value=value: ss.PredictorCorrector(ss.VPSDE(), steps=3, denoise=value),
                IncompatibleError,
                "denoise among True, False, flow",
            )
            for value in (torch.ones(2), np.ones(2))
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
