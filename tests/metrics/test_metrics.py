"""Distances against closed forms and other libraries; invariances."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdescore.metrics.pairwise as pairwise
import sdescore.metrics.sliced as sliced
from sdescore.metrics import (
    energy_distance,
    median_bandwidth,
    mmd,
    mmd_squared,
    sliced_wasserstein,
)
from tests.helpers.metrics import DISTANCES, draw

Z = 4.89


# At x = y the root turns a rounding of 1e-16 into 1e-8.
ROOT_ROUNDING = 1e-6


# Closed forms and other libraries


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


@pytest.mark.parametrize(("n", "m"), [(1, 1), (20, 20), (15, 33)])
def test_energy_distance_in_one_dimension_is_scipy(n, m):
    x, y = draw(n), draw(m, seed=1) + 0.5
    expected = scipy.stats.energy_distance(x.numpy(), y.numpy())
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-10)


def gaussian_kernel_mean(shift: torch.Tensor, variance: float, h: float) -> float:
    """E k(X, Y) for X - Y ~ N(shift, variance I), by completing the square."""
    total = h**2 + variance
    scale = (h**2 / total) ** (len(shift) / 2)
    return scale * math.exp(-float(shift.square().sum()) / (2 * total))


def test_mmd_squared_between_gaussians():
    """80 independent estimates; their mean against the closed form, in standard errors."""
    h, d, sd, repeats = 1.7, 3, 0.6, 80
    shift = torch.tensor([0.3, -0.4, 0.2], dtype=torch.float64)
    expected = (
        gaussian_kernel_mean(0 * shift, 2.0, h)
        + gaussian_kernel_mean(0 * shift, 2 * sd**2, h)
        - 2 * gaussian_kernel_mean(shift, 1 + sd**2, h)
    )
    values = [
        mmd_squared(draw(150, d, seed=2 * i), sd * draw(90, d, seed=2 * i + 1) + shift, h)
        for i in range(repeats)
    ]
    # Student's quantile: the standard error comes from 80 values.
    bound = scipy.stats.t.isf(5e-7, repeats - 1) * np.std(values, ddof=1) / math.sqrt(repeats)
    assert abs(np.mean(values) - expected) < bound
    assert bound < 0.2 * expected


@pytest.mark.parametrize("sizes", [(30, 30), (25, 60)])
def test_bias_of_the_v_statistics(sizes):
    """Two sets from one distribution: E[MMD²] = (1 - E k)(1/N + 1/M), E[D²] = E|X-X'| (1/N +
    1/M)."""
    h, d, repeats = 1.1, 2, 200
    rate = 1 / sizes[0] + 1 / sizes[1]
    expected = {
        "mmd": (1 - gaussian_kernel_mean(torch.zeros(d), 2.0, h)) * rate,
        # |X - X'| / √2 is Rayleigh distributed in the plane.
        "energy": math.sqrt(2) * math.sqrt(math.pi / 2) * rate,
    }
    metrics = {"mmd": functools.partial(mmd, bandwidth=h), "energy": energy_distance}
    for name, metric in metrics.items():
        values = [
            metric(draw(sizes[0], d, seed=2 * i), draw(sizes[1], d, seed=2 * i + 1)) ** 2
            for i in range(repeats)
        ]
        bound = scipy.stats.t.isf(5e-7, repeats - 1) * np.std(values, ddof=1) / repeats**0.5
        assert abs(np.mean(values) - expected[name]) < bound


def test_mmd_by_an_explicit_double_loop():
    x, y, h = draw(7, 2), draw(5, 2, seed=1), 0.8

    def k(a, b):
        return math.exp(-sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / (2 * h * h))

    a, b = x.tolist(), y.tolist()
    aa, bb = [[k(p, q) for q in a] for p in a], [[k(p, q) for q in b] for p in b]
    ab = np.mean([[k(p, q) for q in b] for p in a])
    biased = np.mean(aa) + np.mean(bb) - 2 * ab
    unbiased = (np.sum(aa) - 7) / 42 + (np.sum(bb) - 5) / 20 - 2 * ab
    assert mmd(x, y, h) == pytest.approx(math.sqrt(biased), rel=1e-12)
    assert mmd_squared(x, y, h) == pytest.approx(unbiased, rel=1e-12)


def test_median_bandwidth_is_the_median_of_the_pooled_pairs():
    x, y = draw(12, 3), draw(9, 3, seed=1)
    pooled = torch.cat([x, y]).numpy()
    pairs = [np.linalg.norm(pooled[i] - pooled[j]) for i in range(21) for j in range(i)]
    assert len(pairs) % 2 == 0  # torch takes the lower of the two middle values
    assert median_bandwidth(x, y) == pytest.approx(sorted(pairs)[len(pairs) // 2 - 1], rel=1e-13)
    assert median_bandwidth(x, y) == median_bandwidth(y, x)
    assert mmd(x, y) == mmd(x, y, bandwidth=median_bandwidth(x, y))


def test_median_bandwidth_of_many_samples_looks_at_a_seeded_subsample():
    """|X - X'| / √2 has the Rayleigh median √(2 ln 2) in the plane. The sample median of
    500 points spreads by about 0.05, estimated here from 20 other seeds."""
    x = draw(5000, 2)
    values = [median_bandwidth(x, seed=seed) for seed in range(20)]
    assert len(set(values)) == 20
    assert median_bandwidth(x) == values[0]
    error = np.std(values, ddof=1) / 20**0.5
    assert np.mean(values) == pytest.approx(2 * math.sqrt(math.log(2)), abs=7.4 * error + 0.03)


# Blocks


def test_blocks_of_pairs_change_nothing(monkeypatch):
    x, y = draw(23, 2), draw(17, 2, seed=1)
    whole = energy_distance(x, y), mmd(x, y, 1.0), mmd_squared(x, y, 1.0)
    largest = []
    original = torch.cdist

    def watched(u, v, **options):
        largest.append(max(len(u), len(v)))
        return original(u, v, **options)

    monkeypatch.setattr(pairwise.torch, "cdist", watched)
    monkeypatch.setattr(pairwise, "_BLOCK", 5)
    blocks = energy_distance(x, y), mmd(x, y, 1.0), mmd_squared(x, y, 1.0)
    assert blocks == pytest.approx(whole, rel=1e-11)
    assert max(largest) == 5


def test_blocks_of_projections_change_nothing(monkeypatch):
    x, y = draw(23, 3), draw(17, 3, seed=1)
    whole = sliced_wasserstein(x, y, projections=21)
    for limit in (1, 200):
        monkeypatch.setattr(sliced, "_MAX_PROJECTED", limit)
        assert sliced_wasserstein(x, y, projections=21) == pytest.approx(whole, rel=1e-13)


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


def test_rotation_leaves_the_pair_metrics_alone():
    x, y = draw(20, 3), draw(15, 3, seed=1)
    q = torch.linalg.qr(draw(3, 3, seed=2))[0]
    assert energy_distance(x @ q, y @ q) == pytest.approx(energy_distance(x, y), rel=1e-10)
    assert mmd(x @ q, y @ q) == pytest.approx(mmd(x, y), rel=1e-10)


def test_seed_sets_the_directions_and_float32_is_measured_in_float64(distance):
    x, y = draw(20, 3), draw(15, 3, seed=1)
    assert sliced_wasserstein(x, y, seed=1) == sliced_wasserstein(x, y, seed=1)
    assert sliced_wasserstein(x, y, seed=1) != sliced_wasserstein(x, y, seed=2)
    assert distance(x.float(), y.float()) == distance(x.float().double(), y.float().double())
    assert type(distance(x, y)) is float
