"""The largest distance between two data: technique 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdescore.sde import ladder
from sdescore.sde.ladder import (
    largest_distance,
)
from tests.helpers.ladders import true_diameter
from tests.helpers.strategies import log_uniform

pytestmark = pytest.mark.fast


@st.composite
def clouds(draw: st.DrawFn) -> torch.Tensor:
    """Points in a ball, on a sphere (no pair is skipped), in clusters, or with an outlier."""
    n, d = draw(st.integers(2, 60)), draw(st.integers(1, 12))
    x = torch.from_numpy(np.random.default_rng(draw(st.integers(0, 2**32))).normal(size=(n, d)))
    kind = draw(st.sampled_from(["ball", "sphere", "clusters", "outlier", "twins"]))
    if kind == "sphere":
        x = x / x.norm(dim=1, keepdim=True)
    elif kind == "clusters":
        x = 0.1 * x + torch.randint(3, (n, 1))
    elif kind == "outlier":
        x[draw(st.integers(0, n - 1))] += 50
    elif kind == "twins":
        x = x[torch.randint(2, (n,))] + 1e-3 * x
    return draw(log_uniform(1e-6, 1e6)) * x + draw(st.sampled_from([0.0, 1.0, 1e3]))


@given(clouds(), st.integers(1, 70))
@settings(max_examples=150)
def test_the_largest_distance_is_exact(data: torch.Tensor, block: int) -> None:
    assert largest_distance(data, block) == pytest.approx(true_diameter(data), rel=1e-5)
    assert largest_distance(data, block) <= true_diameter(data) * (1 + 1e-12)


def test_few_pairs_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, cdist = [], torch.cdist
    monkeypatch.setattr(ladder.torch, "cdist", lambda a, b: calls.append(1) or cdist(a, b))
    data = torch.randn(4000, 2)
    assert largest_distance(data, block=100) == pytest.approx(true_diameter(data), rel=1e-6)
    assert 1 <= len(calls) <= 30  # of 820


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6])
def test_far_from_the_origin_the_pair_is_still_right(offset: float) -> None:
    """Uncentred float32 norms lose eps·offset²: here more than the largest distance squared."""
    data = (torch.randn(500, 3) + offset).float()
    assert largest_distance(data) == pytest.approx(true_diameter(data), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_largest_distance_in_every_precision(dtype: torch.dtype) -> None:
    data = (torch.randn(100, 2, 3) * 100).to(dtype)
    assert largest_distance(data) == pytest.approx(true_diameter(data), rel=1e-6)


def test_extreme_scales_and_odd_shapes() -> None:
    unit = torch.randn(50, 4, dtype=torch.float64)
    for scale in (1e-150, 1e-30, 1e30, 1e150):
        got = largest_distance(scale * unit) / scale
        assert got == pytest.approx(true_diameter(unit), rel=1e-6)
    assert largest_distance(torch.tensor([1.0, -2.5, 0.0])) == 3.5
    assert largest_distance(torch.ones(5, 2)) == largest_distance(torch.ones(5, 0)) == 0.0
    assert largest_distance(torch.tensor([[0.0, 3.0], [4.0, 0.0]])) == 5.0


@given(clouds(), st.integers(1, 10))
def test_beyond_the_limit_the_estimate_is_at_least_half(data: torch.Tensor, limit: int) -> None:
    exact, got = true_diameter(data), largest_distance(data, block=3, limit=limit)
    assert 0.5 * exact * (1 - 1e-6) <= got <= exact * (1 + 1e-12)


def test_the_farthest_data_are_the_candidates() -> None:
    """Beyond the limit the result is exact wherever the rest could not matter."""
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        far = 100 * torch.nn.functional.normalize(torch.randn(8, 20, generator=generator))
        data = torch.cat([torch.randn(500, 20, generator=generator), far])
        assert largest_distance(data, limit=8) == pytest.approx(true_diameter(data), rel=1e-6)


def test_the_sweep_goes_there_and_back() -> None:
    """From the point farthest from the mean to the one farthest from it, and on from there."""
    near = torch.zeros(1000, 2, dtype=torch.float64)
    far = torch.tensor([[10.0, 0.0], [-4.0, 9.1], [-5.0, -8.0]], dtype=torch.float64)
    got = largest_distance(torch.cat([near, far]), limit=1)
    assert got == pytest.approx(math.hypot(1.0, 17.1))  # and not hypot(15, 8) = 17


def test_the_pairs_and_not_the_sweep_alone_decide() -> None:
    found = []
    for seed in range(20):
        data = torch.randn(200, 20, generator=torch.Generator().manual_seed(seed))
        found.append(largest_distance(data, limit=1) / true_diameter(data))
        assert largest_distance(data) == pytest.approx(true_diameter(data), rel=1e-6)
    assert min(found) < 0.99
