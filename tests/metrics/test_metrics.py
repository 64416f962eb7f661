"""Metrics against closed forms, scipy, optimal assignment, and their own invariances.

Statistical tests use fixed seeds and bounds of 4.89 standard errors: two-sided
false-positive rate 1e-6 each.
"""

from __future__ import annotations

import dataclasses
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
from sdescore.errors import ParameterError, ShapeError
from sdescore.metrics import (
    NoiseFloor,
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

Z = 4.89
DISTANCES = {
    "sliced": functools.partial(sliced_wasserstein, projections=32),
    "energy": energy_distance,
    "mmd": functools.partial(mmd, bandwidth=1.3),
}
# At x = y the root turns a rounding of 1e-16 into 1e-8.
ROOT_ROUNDING = 1e-6


def draw(n: int, *event: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *event, generator=generator, dtype=torch.float64)


@pytest.fixture(params=sorted(DISTANCES))
def distance(request):
    return DISTANCES[request.param]


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


# Noise floors


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


# Bad input

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
