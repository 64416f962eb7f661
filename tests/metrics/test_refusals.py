"""Refusals of the metrics, and the caller's settings."""

from __future__ import annotations

import math

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

GOOD = torch.zeros(4, 2)


@pytest.mark.parametrize("metric", [*DISTANCES.values(), mmd_squared, median_bandwidth])
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.zeros(4, 3), ShapeError, "one event shape"),
        (torch.zeros(4, 2, 1), ShapeError, "one event shape"),
        (torch.zeros(0, 2), ShapeError, "at least (one|two) sample"),
        (torch.zeros(4, 0), ShapeError, "at least one entry"),
        (torch.tensor(1.0), ShapeError, "batch dimension"),
        (torch.zeros(4, 2, dtype=torch.int64), ShapeError, "floating point"),
        (torch.tensor([[0.0, 0.0], [0.0, math.nan]]), ParameterError, r"1 of 2 \(indices 1\)"),
        (torch.full((9, 2), math.inf), ParameterError, r"indices 0, 1, 2, 3, 4, …"),
    ],
)
def test_bad_samples_are_refused(metric, bad, error, message):
    for pair in ((GOOD, bad), (bad, GOOD)):
        with pytest.raises(error, match=message):
            metric(*pair)


def test_bad_options_are_refused():
    x = draw(6, 2)
    bad = (("projections", (0, 2.0, "9", True)), ("p", (0.5, math.nan, math.inf, "2")))
    for options in ({name: value} for name, values in (*bad, ("seed", (1.5,))) for value in values):
        with pytest.raises(ParameterError, match="expected"):
            sliced_wasserstein(x, x, **options)
    for bandwidth in (0.0, -1.0, math.nan, math.inf, "1", True):
        with pytest.raises(ParameterError, match="bandwidth"):
            mmd(x, x, bandwidth=bandwidth)
    with pytest.raises(ParameterError, match="median distance of 0"):
        mmd(torch.zeros(3, 1), torch.zeros(3, 1))
    with pytest.raises(ShapeError, match="at least two samples"):
        median_bandwidth(x[:1])
    with pytest.raises(ShapeError, match="at least two samples"):
        mmd_squared(x[:1], x, 1.0)


def test_a_bad_floor_is_refused():
    x = draw(6, 2)
    for size in (0, 6, 7, -1, (3, 4), (0, 2), (1, 2, 3), (), "3", 3.0, True, (2, 2.0)):
        with pytest.raises(ShapeError, match="two disjoint parts"):
            noise_floor(energy_distance, x, size=size)
    for repeats in (1, 2.0, "3", True):
        with pytest.raises(ParameterError, match="repeats"):
            noise_floor(energy_distance, x, repeats=repeats)
    with pytest.raises(ShapeError, match="at least the floor's 3"):
        relative_to_floor(energy_distance, x[:2], x, noise_floor(energy_distance, x))
    with pytest.raises(ParameterError, match="positive noise floor"):
        relative_to_floor(energy_distance, x, torch.zeros(6, 2))
    with pytest.raises(ParameterError, match="NaN"):
        relative_to_floor(energy_distance, x * math.nan, x)


# The caller's own settings


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


def test_numpy_scalars_are_numbers() -> None:
    x, y = draw(30, 3), draw(60, 3, seed=1) + 0.2
    assert measured(x, y, np.generic) == measured(x, y, int)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_no_setting_of_the_caller_changes_a_distance(setting) -> None:
    x, y = draw(600, 3), draw(700, 3, seed=1) + 0.2
    plain = measured(x, y, int)
    with setting():
        assert measured(x, y, int) == plain
