"""The sliced Wasserstein distance against moments, quantiles, scipy and the best assignment."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

import sdescore.metrics.sliced as sliced
from sdescore.metrics import sliced_wasserstein
from tests.helpers.metrics import draw

Z = 4.89


@pytest.mark.parametrize("p", [2.0, 4.0])
def test_sliced_wasserstein_of_a_shift(p):
    """Every direction sees |<u, m>|, whose even moments on the sphere are known:
    E<u,m>² = |m|²/d and E<u,m>⁴ = 3|m|⁴/(d(d+2)). Uniform directions only satisfy both."""
    d, projections = 5, 20_000
    x, m = draw(3, d), draw(1, d, seed=1)
    got = sliced_wasserstein(x, x + m, projections=projections, p=p) ** p
    moment = {2: 1 / d, 4: 3 / (d * (d + 2)), 8: 105 / (d * (d + 2) * (d + 4) * (d + 6))}
    size = float(m.norm()) ** p
    error = size * math.sqrt((moment[int(2 * p)] - moment[int(p)] ** 2) / projections)
    assert abs(got - size * moment[int(p)]) < Z * error


def test_sliced_wasserstein_between_gaussians():
    """N(0, a²) and N(m, b²): W₂² = (a-b)² + m². The samples are midpoint quantiles, so the
    only error is their discretisation, O(log n / n)."""
    q = torch.as_tensor(scipy.stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000))
    coarse = torch.as_tensor(scipy.stats.norm.ppf((np.arange(15_000) + 0.5) / 15_000))
    got = sliced_wasserstein(2.0 * q, 0.5 * coarse + 1.5, projections=2)
    assert got == pytest.approx(math.sqrt(1.5**2 + 1.5**2), rel=2e-4)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 7), (6, 4), (5, 13), (1, 9)])
def test_sliced_wasserstein_in_one_dimension_is_scipy_at_p_1(n, m):
    x, y = draw(n, 1), draw(m, 1, seed=1)
    expected = scipy.stats.wasserstein_distance(x.flatten().numpy(), y.flatten().numpy())
    assert sliced_wasserstein(x, y, p=1) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(("n", "m"), [(6, 4), (5, 7), (8, 8), (1, 5)])
@pytest.mark.parametrize("p", [2.0, 1.5])
def test_sliced_wasserstein_in_one_dimension_is_the_best_assignment(n, m, p):
    """Repeating the samples to a common size makes the coupling an assignment problem."""
    x, y = draw(n), draw(m, seed=1)
    common = math.lcm(n, m)
    cost = (x.repeat(common // n)[:, None] - y.repeat(common // m)).abs().numpy() ** p
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    expected = cost[rows, columns].mean() ** (1 / p)
    assert sliced_wasserstein(x, y, p=p) == pytest.approx(expected, rel=1e-13)


def test_blocks_of_projections_change_nothing(monkeypatch):
    x, y = draw(23, 3), draw(17, 3, seed=1)
    whole = sliced_wasserstein(x, y, projections=21)
    for limit in (1, 200):
        monkeypatch.setattr(sliced, "_MAX_PROJECTED", limit)
        assert sliced_wasserstein(x, y, projections=21) == pytest.approx(whole, rel=1e-13)
