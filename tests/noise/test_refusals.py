"""What the sources of noise refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

import sdescore as ss
from sdescore.errors import ParameterError, ShapeError, TimeError
from sdescore.noise.counter import standard_normal
from tests.helpers.refusals import Refusal, each, rows

REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "draws must be consecutive": (
        *each(
            lambda draws: standard_normal(0, [0], draws, (1,)),
            ParameterError,
            "consecutive",
            [range(0, 4, 2), range(4, 0, -1), range(3, 1)],
        ),
    ),
    "a stream of too few numbers is refused": (
        *each(
            lambda shape: ss.noise.ReplayNoise(torch.zeros(shape)).open(
                range(2, 5), (2,), [None] * 4, dtype=torch.float64, device=torch.device("cpu")
            ),
            ShapeError,
            "replayed noise",
            [(3, 5, 2), (4, 4, 2), (4, 5, 3), (4,)],
        ),
    ),
    "a device that is not there is refused": (
        *each(
            lambda device: ss.noise.standard_normal(0, [0], range(2), (2,), device=device),
            ParameterError,
            "a device of this machine",
            ("cuda:99", "nowhere", 3.5),
        ),
        *each(
            lambda device: ss.VPSDE().prior_sample((2, 2), device=device),
            ParameterError,
            "a device of this machine",
            ("cuda:99", "meta"),
        ),
        *each(
            lambda device: ss.noise.NormalStream(0, [0], (2,), device=device),
            ParameterError,
            "a device of this machine",
            ("cuda:99", "nowhere", 3.5),
        ),
        *each(
            lambda device: ss.GaussianScore([0.0], 1.0, ss.VPSDE()).sample(2, device=device),
            ParameterError,
            "a device of this machine",
            ("cuda:99", "nowhere", 3.5, "meta"),
        ),
        *each(
            lambda device: ss.losses.UniformTimes().sample(ss.VPSDE(), 2, device=device),
            ParameterError,
            "a device of this machine",
            ("cuda:99", "nowhere", 3.5),
        ),
    ),
    "addresses that are no numbers are refused": (
        *each(
            lambda shape: ss.noise.standard_normal(0, [0], range(2), shape),
            ShapeError,
            "event_shape, integer sizes > -1",
            ((-1, 2), (1.5,), "ab", 2, None, (10**400,)),
        ),
        *each(
            lambda samples: ss.noise.standard_normal(0, samples, range(2), (2,)),
            ParameterError,
            "samples as a sequence of integers",
            ("ab", None, [10**400]),
        ),
        *each(
            lambda draws: ss.noise.standard_normal(0, [0], draws, (2,)),
            ParameterError,
            "consecutive draws",
            (3, None, range(-2, 1)),
        ),
        *each(
            lambda domain: ss.noise.standard_normal(0, [0], range(2), (2,), domain=domain),
            ParameterError,
            "an integer domain >= 0",
            ("sampler", None, -1, 0.5),
        ),
    ),
    "times off the path are refused": (
        *each(
            lambda t: ss.noise.BrownianPath(0, range(2), (), 1.0).value(t),
            TimeError,
            "Brownian path",
            (-0.1, 1.1, math.nan),
        ),
    ),
    "a path of no length is refused at the door": (
        *(
            (lambda T=T: ss.noise.BrownianNoise(0, T=T), ParameterError, "T > 0")
            for T in [math.nan, math.inf, 0.0, -1.0, "1", True, None]
        ),
        *(
            (lambda T=T: ss.noise.BrownianPath(0, range(2), (), T), ParameterError, "T > 0")
            for T in [math.nan, math.inf, 0.0, -1.0, "1", True, None]
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
