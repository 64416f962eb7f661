"""What ladders and tables refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial

import pytest
import torch

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ScheduleError, TimeError
from sdescore.sde.ladder import (
    langevin_step_size,
    largest_distance,
    levels_for_ratio,
    ratio_for_overlap,
    shell_overlap,
    variance_ratio,
)
from tests.helpers.ladders import INF, NAN
from tests.helpers.refusals import Refusal, each, rows

pytestmark = pytest.mark.fast

VP_BAD = [
    ((), "got ()"),
    ((0.1, 0.0), "0"),
    ((1.0, 0.1), "1"),  # only the last may be 1
    ((0.1, 1.5), "1.5"),
    ((-0.1,), "-0.1"),
    ((math.nan,), "nan"),
    (0.1, "got 0.1"),
    ([[0.1]], "got [[0.1]]"),
    ("abc", "abc"),
]

VE_BAD = [
    ((1.0,), "got (1.0,)"),
    ((), "got ()"),
    ((1.0, 2.0), "1.0, 2.0"),
    ((2.0, 2.0), "2.0, 2.0"),
    ((2.0, 0.0), "2.0, 0.0"),
    ((2.0, -1.0), "2.0, -1.0"),
    ((math.inf, 1.0), "inf"),
    ((2.0, math.nan), "nan"),
]


class Shrinking(ss.DiscreteVPSDE):
    """Levels of falling σ whose α is not 1."""

    def level_times(self) -> torch.Tensor:
        return super().level_times().flip(0)


class Standing(ss.DiscreteVESDE):
    """Levels whose σ stands still at 1."""

    def _marginal(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alpha, sigma = super()._marginal(t)
        return alpha, sigma.clamp(min=1.0)


FORMULAS = [
    (shell_overlap, (1.5, 10), ("ratio", "dim")),
    (levels_for_ratio, (8.0, 1.0, 2.0), ("sigma_max", "sigma_min", "ratio")),
    (variance_ratio, (0.1, 1.5, 5), ("step_size", "ratio", "inner_steps")),
]

REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "bad vp tables": (
        *(
            (
                lambda table=table: ss.DiscreteVPSDE(betas=table),
                ScheduleError,
                rf"expected.*{re.escape(got)}",
            )
            for table, got in VP_BAD
        ),
    ),
    "bad ve tables": (
        *(
            (
                lambda table=table: ss.DiscreteVESDE(sigmas=table),
                ScheduleError,
                rf"expected.*{re.escape(got)}",
            )
            for table, got in VE_BAD
        ),
    ),
    "bad table arguments": (
        *(
            (
                lambda levels=levels: ss.DiscreteVPSDE.linear(levels=levels),
                ScheduleError,
                f"levels={levels}",
            )
            for levels in (0, -1, 2.5)
        ),
        *(
            (
                lambda levels=levels: ss.DiscreteVESDE.geometric(
                    sigma_max=1.0, sigma_min=0.1, levels=levels
                ),
                ScheduleError,
                f"levels={levels}",
            )
            for levels in (0, -1, 2.5)
        ),
        (lambda: ss.DiscreteVPSDE.linear(levels=3, beta_end=1.5), ScheduleError, "beta"),
        (
            lambda: ss.DiscreteVESDE.geometric(sigma_max=1.0, sigma_min=2.0, levels=3),
            ScheduleError,
            "sigma_min=2",
        ),
        *each(
            lambda sde: sde.level(1.5),
            TimeError,
            "expected",
            (ss.DiscreteVPSDE.linear(5), ss.DiscreteVESDE(sigmas=(2.0, 1.0))),
        ),
    ),
    "an overlap out of range is refused": (
        *(
            (lambda overlap=overlap: ratio_for_overlap(overlap, 64), ScheduleError, "overlap")
            for overlap in [0.0, 1.0, 0.998, -0.1, NAN, INF, None, "half"]
        ),
        *(
            (
                lambda overlap=overlap: ss.DiscreteVESDE.from_data(
                    torch.randn(3, 64), overlap=overlap
                ),
                ScheduleError,
                "overlap",
            )
            for overlap in [0.0, 1.0, 0.998, -0.1, NAN, INF, None, "half"]
        ),
        *(
            (
                lambda overlap=overlap, instead=instead: ss.DiscreteVESDE.from_data(
                    torch.randn(3, 64), overlap=overlap, **instead
                ),
                ScheduleError,
                "overlap",
            )
            for overlap in [0.0, 1.0, 0.998, -0.1, NAN, INF, None, "half"]
            for instead in ({"levels": 5}, {"ratio": 2.0})
        ),
    ),
    "parameters of a ladder out of range": (
        *(
            (
                lambda options=options: ss.DiscreteVESDE.from_data(torch.randn(10, 2), **options),
                error,
                "expected",
            )
            for options, error in [
                ({"levels": 4, "ratio": 2.0}, IncompatibleError),
                *(({"levels": v}, ScheduleError) for v in (1, 0, -3, True, 2.5, "3")),
                *(({"ratio": v}, ScheduleError) for v in (1.0, 0.5, -2.0, NAN, INF, "2")),
                *(
                    ({"sigma_min": v, "levels": 4}, ScheduleError)
                    for v in (0.0, -1.0, NAN, 1e3, "a")
                ),
                *(({"sigma_min": v, "ratio": 1.5}, ScheduleError) for v in (0.0, -1.0, NAN, 1e3)),
            ]
        ),
    ),
    "ladders of no use are refused": (
        *(
            (lambda sigmas=sigmas: ss.DiscreteVESDE(sigmas=sigmas), ScheduleError, "sigmas")
            for sigmas in ([1.0], [], [0.1, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, -1.0], [NAN, 1.0])
        ),
        (
            lambda: ss.DiscreteVESDE.geometric(sigma_max=1.0, sigma_min=0.1, levels=True),
            ScheduleError,
            "levels",
        ),
    ),
    "a step for no ladder is refused": (
        *(
            (
                lambda ratio=ratio, steps=steps: langevin_step_size(ratio, steps),
                ScheduleError,
                "ratio",
            )
            for ratio, steps in [(1.0, 5), (0.5, 5), (NAN, 5), (INF, 5), ("2", 5)]
        ),
    ),
    "a number of steps that is none is refused": (
        *each(
            lambda steps: langevin_step_size(1.5, steps),
            ParameterError,
            "inner_steps",
            [0, -1, True, 2.5, None, NAN],
        ),
        *(
            (
                lambda steps=steps: ss.AnnealedLangevin.for_ladder(
                    ss.DiscreteVESDE(sigmas=(2.0, 1.0)), steps
                ),
                (ScheduleError, ParameterError),
                "steps",
            )
            for steps in [0, -1, True, 2.5, None, NAN]
        ),
    ),
    "an sde without a ladder has no step": (
        *each(
            lambda sde: ss.AnnealedLangevin.for_ladder(sde),
            IncompatibleError,
            "DiscreteVESDE",
            [
                ss.VESDE(),
                ss.VPSDE(),
                ss.DiscreteVPSDE.linear(10),
                ss.DiscreteVPSDE(betas=[0.1]),
                Shrinking(betas=[0.1, 0.2]),
                Standing(sigmas=(2.0, 1.0, 0.5)),
                ss.DiscreteVESDE,
                "ladder",
            ],
        ),
    ),
    "data without a largest distance are refused": (
        *each(
            lambda bad: largest_distance(bad),
            ss.SDEScoreError,
            "expected",
            [torch.zeros(1, 2), torch.zeros(0, 2), torch.zeros(5, 2).long(), [[1.0], [2.0]], None]
            + [torch.tensor([[0.0], [v]]) for v in (NAN, INF)],
        ),
        *each(
            lambda bad: ss.DiscreteVESDE.from_data(bad, levels=3),
            ss.SDEScoreError,
            "expected",
            [torch.zeros(1, 2), torch.zeros(0, 2), torch.zeros(5, 2).long(), [[1.0], [2.0]], None]
            + [torch.tensor([[0.0], [v]]) for v in (NAN, INF)],
        ),
    ),
    "counts of the search are counts": (
        *(
            (
                lambda name=name, value=value: largest_distance(torch.randn(3, 2), **{name: value}),
                ParameterError,
                name,
            )
            for name in ["block", "limit"]
            for value in [0, -1, True, 2.0, None]
        ),
    ),
    "formulas of numbers that are none": (
        *(
            (partial(function, *numbers), ScheduleError, name)
            for function, good, names in FORMULAS
            for place, name in enumerate(names)
            for wrong in (NAN, INF, -1.0, 0, "1", None, 1j, True)
            for numbers in [(*good[:place], wrong, *good[place + 1 :])]
        ),
        (lambda: shell_overlap(10**400, 5), ScheduleError, "ratio, an integer of 1329 bits"),
        (lambda: shell_overlap(1.5, 10**400), ScheduleError, "dim >= 1 and at most"),
        (lambda: ratio_for_overlap(0.5, 10**400), ScheduleError, "at least 5 elements"),
        (lambda: levels_for_ratio(10**400, 1.0, 2.0), ScheduleError, "sigma_max"),
        (lambda: levels_for_ratio(1.0, 2.0, 2.0), ScheduleError, "sigma_max > 2"),
        (lambda: levels_for_ratio(2.0, 1.0, 1.0), ScheduleError, "ratio > 1"),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
