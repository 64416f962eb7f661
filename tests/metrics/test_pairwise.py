"""Distances by pairs: energy and maximum mean discrepancy, against closed forms and scipy."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

import sdescore.metrics.pairwise as pairwise
from sdescore.metrics import energy_distance, median_bandwidth, mmd, mmd_squared
from tests.helpers.metrics import draw


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


def test_rotation_leaves_the_pair_metrics_alone():
    x, y = draw(20, 3), draw(15, 3, seed=1)
    q = torch.linalg.qr(draw(3, 3, seed=2))[0]
    assert energy_distance(x @ q, y @ q) == pytest.approx(energy_distance(x, y), rel=1e-10)
    assert mmd(x @ q, y @ q) == pytest.approx(mmd(x, y), rel=1e-10)
