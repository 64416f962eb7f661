"""Refusals of the metrics, and the caller's settings."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from sdescore.errors import ParameterError, ShapeError
from sdescore.metrics import (
    energy_distance,
    frechet_distance,
    median_bandwidth,
    mmd,
    mmd_squared,
    noise_floor,
    relative_to_floor,
    sliced_wasserstein,
)
from tests.helpers.callers import SETTINGS
from tests.helpers.metrics import DISTANCES, draw
from tests.helpers.refusals import Refusal, each, rows

GOOD = torch.zeros(4, 2)


def measured(x: torch.Tensor, y: torch.Tensor, kind: type) -> list[float]:
    """Every metric, with options of a kind of number."""
    whole, real = (np.int64, np.float32) if kind is np.generic else (int, float)
    floor = noise_floor(energy_distance, y, size=whole(20), repeats=whole(2), seed=whole(3))
    return [
        sliced_wasserstein(x, y, projections=whole(16), seed=whole(1), p=real(2)),
        energy_distance(x, y),
        mmd(x, y, bandwidth=real(0.5)),
        mmd_squared(x, y),
        median_bandwidth(x, y, seed=whole(2)),
        frechet_distance(x, y),
        floor.mean,
        relative_to_floor(energy_distance, x, y, floor).ratio,
    ]


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "bad samples are refused": (
        *(
            (lambda metric=metric, pair=pair: metric(*pair), error, message)
            for metric in [*DISTANCES.values(), mmd_squared, median_bandwidth]
            for bad, error, message in [
                (torch.zeros(4, 3), ShapeError, "one event shape"),
                (torch.zeros(4, 2, 1), ShapeError, "one event shape"),
                (torch.zeros(0, 2), ShapeError, "at least (one|two) sample"),
                (torch.zeros(4, 0), ShapeError, "at least one entry"),
                (torch.tensor(1.0), ShapeError, "batch dimension"),
                (torch.zeros(4, 2, dtype=torch.int64), ShapeError, "floating point"),
                (
                    torch.tensor([[0.0, 0.0], [0.0, math.nan]]),
                    ParameterError,
                    r"1 of 2 \(indices 1\)",
                ),
                (torch.full((9, 2), math.inf), ParameterError, r"indices 0, 1, 2, 3, 4, …"),
            ]
            for pair in ((GOOD, bad), (bad, GOOD))
        ),
    ),
    "bad options are refused": (
        *each(
            lambda options: sliced_wasserstein(draw(6, 2), draw(6, 2), **options),
            ParameterError,
            "expected",
            (
                {name: value}
                for name, values in (
                    *(("projections", (0, 2.0, "9", True)), ("p", (0.5, math.nan, math.inf, "2"))),
                    ("seed", (1.5,)),
                )
                for value in values
            ),
        ),
        *(
            (
                lambda bandwidth=bandwidth: mmd(draw(6, 2), draw(6, 2), bandwidth=bandwidth),
                ParameterError,
                "bandwidth",
            )
            for bandwidth in (0.0, -1.0, math.nan, math.inf, "1", True)
        ),
        (lambda: mmd(torch.zeros(3, 1), torch.zeros(3, 1)), ParameterError, "median distance of 0"),
        (lambda: median_bandwidth(draw(6, 2)[:1]), ShapeError, "at least two samples"),
        (lambda: mmd_squared(draw(6, 2)[:1], draw(6, 2), 1.0), ShapeError, "at least two samples"),
    ),
    "a bad floor is refused": (
        *each(
            lambda size: noise_floor(energy_distance, draw(6, 2), size=size),
            ShapeError,
            "two disjoint parts",
            (0, 6, 7, -1, (3, 4), (0, 2), (1, 2, 3), (), "3", 3.0, True, (2, 2.0)),
        ),
        *(
            (
                lambda repeats=repeats: noise_floor(energy_distance, draw(6, 2), repeats=repeats),
                ParameterError,
                "repeats",
            )
            for repeats in (1, 2.0, "3", True)
        ),
        (
            lambda: relative_to_floor(
                energy_distance,
                draw(6, 2)[:2],
                draw(6, 2),
                noise_floor(energy_distance, draw(6, 2)),
            ),
            ShapeError,
            "at least the floor's 3",
        ),
        (
            lambda: relative_to_floor(energy_distance, draw(6, 2), torch.zeros(6, 2)),
            ParameterError,
            "positive noise floor",
        ),
        (
            lambda: relative_to_floor(energy_distance, draw(6, 2) * math.nan, draw(6, 2)),
            ParameterError,
            "NaN",
        ),
    ),
    "bad samples": (
        *(
            (lambda x=x, y=y: frechet_distance(x, y), error, r"expected .*[,;] got ")
            for x, y, error in [
                (draw(1, 3), draw(4, 3), ShapeError),
                (draw(4, 3), draw(1, 3), ShapeError),
                (draw(0, 3), draw(4, 3), ShapeError),
                (draw(4, 0), draw(4, 0), ShapeError),
                (draw(4, 3), draw(4, 2), ShapeError),
                (draw(4, 3), draw(4, 3).long(), ShapeError),
                (draw(4, 3), draw(4, 3).numpy(), ShapeError),
                (draw(4, 3), draw(4, 3) / 0, ParameterError),
                (draw(4, 3) * math.nan, draw(4, 3), ParameterError),
            ]
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_numpy_scalars_are_numbers() -> None:
    x, y = draw(30, 3), draw(60, 3, seed=1) + 0.2
    assert measured(x, y, np.generic) == measured(x, y, int)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_no_setting_of_the_caller_changes_a_distance(setting) -> None:
    x, y = draw(600, 3), draw(700, 3, seed=1) + 0.2
    plain = measured(x, y, int)
    with setting():
        assert measured(x, y, int) == plain
