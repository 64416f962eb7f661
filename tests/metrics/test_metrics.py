"""Distances against closed forms and other libraries; invariances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdescore.metrics import (
    mmd,
    sliced_wasserstein,
)
from tests.helpers.metrics import DISTANCES, draw

# At x = y the root turns a rounding of 1e-16 into 1e-8.
ROOT_ROUNDING = 1e-6


# Closed forms and other libraries


# Blocks


# Invariances


sizes = st.integers(1, 9)


events = st.sampled_from([(), (1,), (3,), (2, 2), (1, 2, 3)])


seeds = st.integers(0, 2**31)


several = settings(max_examples=60, deadline=None)


@several
@given(n=sizes, m=sizes, event=events, seed=seeds, name=st.sampled_from(sorted(DISTANCES)))
def test_a_distance_is_symmetric_and_blind_to_order_and_repetition(n, m, event, seed, name):
    metric, x, y = DISTANCES[name], draw(n, *event, seed=seed), draw(m, *event, seed=seed + 1)
    value = metric(x, y)
    assert value > 0.0
    same = pytest.approx(value, rel=1e-9, abs=ROOT_ROUNDING)
    assert metric(y, x) == same
    assert metric(x.flip(0), y.roll(1, 0)) == same
    # The same empirical measures, at other sizes: what "exact for N != M" means.
    assert metric(torch.cat([x, x, x]), torch.cat([y, y])) == same
    assert metric(x, torch.cat([x, x])) < ROOT_ROUNDING


@several
@given(n=sizes, m=sizes, event=events, seed=seeds, factor=st.floats(0.01, 100.0))
def test_shift_and_scale(n, m, event, seed, factor):
    x, y, shift = (draw(k, *event, seed=seed + i) for i, k in enumerate((n, m, 1)))
    for name, power in {"sliced": 1.0, "energy": 0.5}.items():
        expected = factor**power * DISTANCES[name](x, y)
        got = DISTANCES[name](factor * x + shift, factor * y + shift)
        assert got == pytest.approx(expected, rel=1e-7, abs=1e-6)
    got = mmd(factor * x + shift, factor * y + shift, bandwidth=1.3 * factor)
    assert got == pytest.approx(mmd(x, y, bandwidth=1.3), rel=1e-7, abs=1e-6)


@several
@given(n=sizes, m=sizes, k=sizes, seed=seeds, name=st.sampled_from(sorted(DISTANCES)))
def test_triangle_inequality(n, m, k, seed, name):
    metric = DISTANCES[name]
    x, y, z = (draw(size, 2, seed=seed + i) for i, size in enumerate((n, m, k)))
    assert metric(x, z) <= metric(x, y) + metric(y, z) + ROOT_ROUNDING


def test_seed_sets_the_directions_and_float32_is_measured_in_float64(distance):
    x, y = draw(20, 3), draw(15, 3, seed=1)
    assert sliced_wasserstein(x, y, seed=1) == sliced_wasserstein(x, y, seed=1)
    assert sliced_wasserstein(x, y, seed=1) != sliced_wasserstein(x, y, seed=2)
    assert distance(x.float(), y.float()) == distance(x.float().double(), y.float().double())
    assert type(distance(x, y)) is float
