"""What samplers of adaptive refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ScheduleError, ShapeError, TimeError
from sdescore.samplers.adaptive.sampler import AdaptiveSampler
from tests.helpers.adaptive import BIMODAL, VP
from tests.helpers.refusals import Refusal, each, rows


class NonLinear(ss.SDE):
    T = 1.0

    def drift(self, x: Tensor, t: ss.typing.Time) -> Tensor:
        return -(x**3)

    def diffusion(self, t: ss.typing.Time) -> Tensor:
        return torch.as_tensor(1.0)


def untouched(x: Tensor, t: Tensor) -> Tensor:
    pytest.fail("the model was called before the request was refused")


def in_place(x: Tensor, t: Tensor) -> Tensor:
    return x.mul_(-1)


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "parameters out of range": (
        *(
            (lambda options=options: AdaptiveSampler(VP, **options), ParameterError, match)
            for options, match in [
                ({"eta": -0.1}, "eta"),
                ({"eta": 1.1}, "eta"),
                ({"eta": math.nan}, "eta"),
                ({"rtol": -1e-3}, "rtol"),
                ({"rtol": math.inf}, "rtol"),
                ({"atol": 0.0}, "atol"),
                ({"atol": math.nan}, "atol"),
                ({"max_step_size": 0.0}, "max_step_size"),
                ({"max_steps": 0}, "max_steps"),
                ({"max_steps": True}, "max_steps"),
                ({"max_steps": 5.0}, "max_steps"),
                ({"data_std": -1.0}, "data_std"),
            ]
        ),
    ),
    "other sdes": (
        *each(
            lambda sde: AdaptiveSampler(sde),
            IncompatibleError,
            "LinearSDE",
            [NonLinear(), ss.VPSDE, None, VP.reverse(BIMODAL)],
        ),
    ),
    "an ending it does not have": (
        *(
            (
                lambda denoise=denoise: AdaptiveSampler(VP, denoise=denoise),
                IncompatibleError,
                "expected denoise to be True or False",
            )
            for denoise in ["flow", 1, None]
        ),
    ),
    "an infinite log snr": (
        (
            lambda: AdaptiveSampler(
                ss.LinearSDE.from_marginal(torch.ones_like, lambda t: t.clone(), t_min=0.0)
            ),
            ScheduleError,
            "finite log-SNR",
        ),
    ),
    "bad requests": (
        *(
            (
                lambda options=options, way=way: getattr(AdaptiveSampler(VP), way)(
                    untouched, **options
                ),
                error,
                "expected",
            )
            for error, options in [
                (ShapeError, {"shape": None}),
                (ShapeError, {"shape": (2, -1)}),
                (ShapeError, {"shape": (2, 2), "dtype": torch.float16}),
                (ShapeError, {"shape": (2, 2), "init": torch.zeros(3, 2)}),
                (ParameterError, {"shape": (2, 2), "seed": 1.0}),
                (ParameterError, {"shape": (2, 2), "max_batch": 0}),
                (ParameterError, {"init": torch.tensor([[math.nan]])}),
                (IncompatibleError, {"shape": (2, 2), "label": torch.zeros(2)}),
            ]
            for way in ["sample", "solve"]
        ),
    ),
    "models that do not fit are refused uncalled": (
        (
            lambda: AdaptiveSampler(ss.DiscreteVPSDE.linear(9)).sample(
                ss.ScoreModel(
                    untouched, ss.DiscreteVPSDE.linear(9), time_input="level", prediction="epsilon"
                ),
                (2, 2),
            ),
            TimeError,
            "level",
        ),
        (
            lambda: AdaptiveSampler(VP).sample(
                ss.under(untouched, VP, own=ss.VESDE(sigma_min=0.1, sigma_max=1.0)), (2, 1)
            ),
            TimeError,
            "expected",
        ),
        (
            lambda: AdaptiveSampler(VP).sample(ss.GaussianScore([0.0], 1.0, ss.VESDE()), (2, 1)),
            IncompatibleError,
            "SDE",
        ),
    ),
    "scores that misbehave": (
        *(
            (
                lambda score=score: AdaptiveSampler(VP).sample(score, (2, 2)),
                (IncompatibleError, ShapeError),
                "expected the score",
            )
            for score in [in_place, lambda x, t: x[:, :1], lambda x, t: 0.0]
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
