"""The distance between two sets of real samples, and distances relative to it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from sdescore.metrics import (
    NoiseFloor,
    energy_distance,
    noise_floor,
    relative_to_floor,
)
from tests.helpers.metrics import draw


def test_floor_of_the_squared_energy_distance_is_known():
    """Over all splits of a finite set into n and m, the mean of D² is exactly
    μ (1/n + 1/m), with μ the mean distance of distinct pairs."""
    reference, repeats = draw(40, 2), 400
    mean_distance = float(torch.nn.functional.pdist(reference).mean())
    for size, (n, m) in {None: (20, 20), 12: (12, 28), (5, 9): (5, 9)}.items():
        floor = noise_floor(lambda x, y: energy_distance(x, y) ** 2, reference, size, repeats)
        assert floor.size == (n, m)
        expected = mean_distance * (1 / n + 1 / m)
        assert abs(floor.mean - expected) < 5.1 * floor.std / math.sqrt(repeats)


def test_floor_splits_are_disjoint_and_change():
    reference, seen = torch.arange(10.0), []

    def spy(a, b):
        assert set(a.tolist()).isdisjoint(b.tolist())
        seen.append((tuple(a.tolist()), tuple(b.tolist())))
        return float(len(seen))

    floor = noise_floor(spy, reference, size=3, repeats=4)
    assert [(len(a), len(b)) for a, b in seen] == [(3, 7)] * 4
    assert len(set(seen)) == 4
    assert floor == NoiseFloor(mean=2.5, std=math.sqrt(5 / 3), repeats=4, size=(3, 7), seed=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        floor.mean = 1.0


def test_relative_to_floor_uses_equal_sizes_and_the_splits_of_the_floor():
    reference, x, calls = torch.arange(20.0), torch.arange(100.0, 108.0), []

    def spy(a, b):
        calls.append((a, b))
        return 6.0 if float(a.min()) >= 100 else 2.0

    result = relative_to_floor(spy, x, reference)
    assert (result.ratio, result.value, result.std) == (3.0, 6.0, 0.0)
    assert result.floor.size == (8, 12)
    first, second = calls[:10], calls[10:]
    for (real, rest), (generated, same_rest) in zip(first, second, strict=True):
        assert torch.equal(rest, same_rest)
        assert not set(real.tolist()) & set(rest.tolist())
        assert sorted(generated.tolist()) == x.tolist()
    calls.clear()
    again = relative_to_floor(spy, x, reference, floor=result.floor)
    assert again == result
    assert len(calls) == 10


def test_relative_to_floor_draws_subsets_when_there_are_more_samples_than_half():
    reference, x, parts = torch.arange(20.0), torch.arange(100.0, 150.0), []

    def spy(a, b):
        parts.append(a)
        return 1.0

    result = relative_to_floor(spy, x, reference)
    assert result.floor.size == (10, 10)
    drawn = [tuple(a.tolist()) for a in parts[10:]]
    assert all(len(set(a)) == 10 and set(a) <= set(x.tolist()) for a in drawn)
    assert len(set(drawn)) == 10


def test_value_and_floor_have_one_mean_under_equality(distance):
    """40 independent pairs of a reference and a sample set from one distribution: a paired
    t-test."""
    gaps = []
    for i in range(40):
        result = relative_to_floor(distance, draw(60, 3, seed=2 * i), draw(150, 3, seed=2 * i + 1))
        gaps.append((result.value - result.floor.mean) / result.floor.mean)
    bound = scipy.stats.t.isf(5e-7, 39) * np.std(gaps, ddof=1) / 40**0.5
    assert abs(np.mean(gaps)) < bound < 0.3


def test_ratio_is_large_for_another_distribution(distance):
    assert relative_to_floor(distance, draw(150, 3) + 1.0, draw(400, 3, seed=1)).ratio > 3.0


def test_copies_of_the_reference_read_below_one():
    """Copies overlap with the rest B; counting the shared pairs, the mean of D² over random
    copies and splits is μ (1/n + 1/m - 2/R). A t-test over 200 sets of copies."""
    reference, n, repeats = draw(40, 2), 15, 200

    def squared(x, y):
        return energy_distance(x, y) ** 2

    floor = noise_floor(squared, reference, size=n, repeats=2)
    values = []
    for i in range(repeats):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(i))
        once = dataclasses.replace(floor, seed=1000 + i)
        values.append(relative_to_floor(squared, reference[order[:n]], reference, once).value)
    expected = float(torch.nn.functional.pdist(reference).mean()) * (1 / n + 1 / 25 - 2 / 40)
    bound = scipy.stats.t.isf(5e-7, repeats - 1) * np.std(values, ddof=1) / repeats**0.5
    assert abs(np.mean(values) - expected) < bound < 0.3 * expected
