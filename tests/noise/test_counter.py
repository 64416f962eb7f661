"""Counter-based noise: a number depends on its address alone, and the numbers are normal.

Every statistical test is two-sided or an upper tail at α = 1e-6 after Bonferroni over the
statistics it computes; the seeds are fixed.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import sdescore as ss
from sdescore.noise.counter import NormalStream, block_length, standard_normal

ALPHA = 1e-6
EVENTS = st.sampled_from([(), (1,), (2,), (3,), (5, 7), (3, 8, 8), (40000,), (70001,)])


# Address determinism.


@given(
    st.integers(-(2**70), 2**70),
    EVENTS,
    st.lists(st.integers(0, 2**40), min_size=1, max_size=5),
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.data(),
)
def test_any_part_in_any_order_gives_the_same_bits(
    seed, event, samples, first, count, data
) -> None:
    whole = standard_normal(seed, samples, range(first, first + count), event)
    assert whole.shape == (count, len(samples), *event) and whole.dtype == torch.float32
    order = data.draw(st.permutations(range(len(samples))))
    part = order[: data.draw(st.integers(1, len(order)))]
    low = data.draw(st.integers(0, count - 1))
    high = data.draw(st.integers(low + 1, count))
    draws = range(first + low, first + high)
    again = standard_normal(seed, [samples[i] for i in part], draws, event)
    assert torch.equal(again, whole[low:high][:, part])


@pytest.mark.guards("T15")
@pytest.mark.parametrize("event", [(), (1,), (3,), (64,), (3, 32, 32)])
@pytest.mark.parametrize("batch", [1, 2, 7, 64, 300])
def test_batch_and_draw_counts_do_not_matter(event: tuple[int, ...], batch: int) -> None:
    """Vectorised and scalar loops of the CPU must agree: strides and tails differ here."""
    whole = standard_normal(3, range(300 if len(event) < 3 else 64), range(9), event)
    batch = min(batch, whole.shape[1])
    for draw in (0, 4, 8):
        start = whole.shape[1] - batch
        part = standard_normal(3, range(start, start + batch), range(draw, draw + 1), event)
        assert torch.equal(part[0], whole[draw, start:])


def test_block_boundaries() -> None:
    """A block's key changes there; draws on both sides, odd ones too, are the same alone."""
    for event in ((20000,), (1,), (32768,), (40000,)):
        length = block_length(math.prod(event))
        assert length % 2 == 0 and length >= 2
        around = range(length - 3, length + 4) if length > 3 else range(0, 7)
        whole = standard_normal(1, [5, 9], around, event)
        for i, draw in enumerate(around):
            one = standard_normal(1, [9], range(draw, draw + 1), event)
            assert torch.equal(one[0, 0], whole[i, 1])
        assert len({row.numpy().tobytes() for row in whole.flatten(0, 1)}) == 2 * len(around)


def test_chunks_of_many_samples_and_of_large_events() -> None:
    """More numbers than fit one scratch buffer, in rows and in pairs of draws."""
    many = standard_normal(2, range(70000), range(2), (3,))
    assert torch.equal(many[:, 69990:], standard_normal(2, range(69990, 70000), range(2), (3,)))
    large = standard_normal(2, range(3), range(3), (150000,))
    assert torch.equal(large[1:2, 2:], standard_normal(2, [2], range(1, 2), (150000,)))


def test_the_stream_is_frozen() -> None:
    """Seeds in papers and bug reports must keep their meaning; the scalar code is written again."""

    def mix64(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    def mix32(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        return (x ^ x >> 15) * 0x846CA68B % 2**32

    gamma = 0x9E3779B97F4A7C15
    for seed, sample, draw, element, event in ((7, 3, 5, 1, (2,)), (-9, 2**33, 70001, 2, (3,))):
        length = block_length(math.prod(event))
        root = mix64((seed + gamma) % 2**64)
        stream = mix64((root + gamma * (sample + 1)) % 2**64)
        key = mix64((stream + gamma * (draw // length + 1)) % 2**64)
        words = key % 2**32, key >> 32, mix64((key + gamma) % 2**64) % 2**32
        counter = draw % length // 2 * math.prod(event) + element
        state = (counter * 0x9E3779B1 + words[0]) % 2**32
        u = (mix32(state ^ words[1]) & 0x7FFFFF80) / 2**31
        angle = mix32(state ^ words[2]) / 2**31 * math.pi
        wave = math.sin(angle) if draw % 2 else math.cos(angle)
        expected = math.sqrt(-2 * math.log1p(-u)) * wave
        got = standard_normal(seed, [sample], range(draw, draw + 1), event)[0, 0, element].item()
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)


# Edges.


def test_odd_ranges_and_empty_ones() -> None:
    whole = standard_normal(0, range(3), range(10), (2,))
    for low in range(10):
        for high in range(low, 10):
            part = standard_normal(0, range(3), range(low, high), (2,))
            assert torch.equal(part, whole[low:high])
    for draws in (range(0, 10, 2), range(5, 2), range(4, 0, -1)):
        with pytest.raises(ss.errors.ParameterError, match="consecutive"):
            standard_normal(0, range(3), draws, (2,))


def test_batch_zero_empty_event_and_zero_sized_event() -> None:
    assert standard_normal(0, range(0), range(4), (2, 3)).shape == (4, 0, 2, 3)
    assert standard_normal(0, range(5), range(3), ()).shape == (3, 5)
    assert standard_normal(0, range(5), range(3), (0, 2)).shape == (3, 5, 0, 2)
    assert torch.equal(
        standard_normal(4, range(5), range(3), ()),
        standard_normal(4, range(5), range(3), (1,))[..., 0],
    )


def test_seeds_wrap_at_64_bits_and_differ_below() -> None:
    def first(seed: int, domain: int = 0) -> torch.Tensor:
        return NormalStream(seed, range(2), (50,), domain=domain).draw(range(2))

    assert torch.equal(first(-1), first(2**64 - 1)) and torch.equal(first(5), first(5 + 2**64))
    seeds = [0, 1, 2, -1, -2, 2**31, 2**32, 2**32 + 1, 2**63, 2**63 - 1]
    assert len({first(seed).numpy().tobytes() for seed in seeds}) == len(seeds)
    assert len({first(0, domain).numpy().tobytes() for domain in range(5)}) == 5


def test_seed_and_sample_do_not_mix() -> None:
    """(seed 1, sample 0) is not (seed 0, sample 1), nor any other pair near zero."""
    found = {
        standard_normal(seed, [sample], range(1), (8,)).numpy().tobytes()
        for seed in range(-10, 15)
        for sample in range(25)
    }
    assert len(found) == 25 * 25


def test_a_stream_may_be_read_backwards() -> None:
    stream = NormalStream(3, range(4), (30000,))
    forwards = [stream.draw(range(k, k + 1)) for k in range(6)]
    backwards = [stream.draw(range(k, k + 1)) for k in reversed(range(6))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert len(stream) == 4


# Statistics.


def check_normal(x: np.ndarray, tests: int) -> None:
    """KS, mean, variance (chi-square), fourth moment: four statistics at α/(4·tests) each."""
    n, alpha = x.size, ALPHA / (4 * tests)
    assert stats.kstest(x, "norm").pvalue > alpha
    assert 2 * stats.norm.sf(abs(x.sum()) / math.sqrt(n)) > alpha
    total = np.square(x).sum()
    assert 2 * min(stats.chi2(n).cdf(total), stats.chi2(n).sf(total)) > alpha
    assert 2 * stats.norm.sf(abs((x**4).mean() - 3) / math.sqrt(96 / n)) > alpha


SLICES = {
    "one sample, many draws": lambda: standard_normal(0, [0], range(200000), (1,)),
    "many samples, one draw": lambda: standard_normal(1, range(200000), range(1), (1,)),
    "one large event": lambda: standard_normal(2, [7], range(1), (200000,)),
    "odd draws": lambda: standard_normal(3, [7], range(20000), (20,))[1::2],
    "far samples": lambda: standard_normal(5, range(0, 2**40, 2**24), range(2), (2,)),
}


@pytest.mark.parametrize("name", SLICES)
def test_marginals_are_normal(name: str) -> None:
    check_normal(SLICES[name]().double().numpy().ravel(), tests=5)


def test_first_numbers_of_many_seeds_are_normal() -> None:
    x = [standard_normal(seed, [0], range(2), (2,)).numpy() for seed in range(5000)]
    check_normal(np.array(x, dtype=float).ravel(), tests=1)


def correlations(a: np.ndarray, b: np.ndarray, tests: int) -> None:
    """Values and squares (Box–Muller's radius) uncorrelated; 3 statistics, each ~ N(0, 1/n)."""
    n = a.size
    a2, b2 = (a**2 - 1) / math.sqrt(2), (b**2 - 1) / math.sqrt(2)
    for u, v in ((a, b), (a2, b2), (a, b2)):
        assert 2 * stats.norm.sf(abs((u * v).sum()) / math.sqrt(n)) > ALPHA / (3 * tests)


def test_lags_in_every_direction_are_uncorrelated() -> None:
    """Along draws, samples and elements, at lag 1, 2, 3 and at every power of two."""
    x = standard_normal(11, range(64), range(64), (64,)).double().numpy()
    lags = [1, 2, 3, 4, 8, 16, 32]
    for axis in range(3):
        for lag in lags:
            a = np.take(x, range(64 - lag), axis).ravel()
            b = np.take(x, range(lag, 64), axis).ravel()
            correlations(a, b, tests=3 * len(lags) + 12)
    y = standard_normal(12, [3], range(2), (1 << 17,)).double().numpy().ravel()
    for power in range(5, 17):
        correlations(y[: -(1 << power)], y[1 << power :], tests=3 * len(lags) + 12)


@pytest.mark.parametrize("other", [1, 2, 2**31, 2**32, -1, 0x9E3779B97F4A7C15])
def test_seeds_are_uncorrelated(other: int) -> None:
    a = standard_normal(0, range(20), range(100), (50,)).double().numpy().ravel()
    b = standard_normal(other, range(20), range(100), (50,)).double().numpy().ravel()
    correlations(a, b, tests=6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbours_fill_the_square_evenly(axis: int) -> None:
    """2-d chi-square of (Φ(z), Φ(z')) over 32 × 32 cells, non-overlapping neighbours."""
    x = standard_normal(21, range(100), range(100), (100,)).double().numpy()
    u = np.moveaxis(stats.norm.cdf(x), axis, 0).reshape(50, 2, -1)
    counts, *_ = np.histogram2d(u[:, 0].ravel(), u[:, 1].ravel(), 32, [[0, 1], [0, 1]])
    expected = counts.sum() / 1024
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert stats.chi2(1023).sf(statistic) > ALPHA / 3
    assert stats.chi2(1023).cdf(statistic) > ALPHA / 3


def test_tails() -> None:
    """P(|z| > 4.5) = 6.8e-6 over 4 million numbers: 27 expected, Poisson; none beyond 5.8."""
    x = standard_normal(31, range(1000), range(1000), (4,))
    count = int((x.abs() > 4.5).sum())
    mean = x.numel() * 2 * stats.norm.sf(4.5)
    assert stats.poisson(mean).cdf(count) > ALPHA / 2
    assert stats.poisson(mean).sf(count - 1) > ALPHA / 2
    assert bool(x.isfinite().all()) and x.abs().max() < 5.8
