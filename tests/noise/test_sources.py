"""The noise: addresses, distributions, replay, and Brownian paths that refine."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import sdescore as ss
from sdescore.noise import counter, sources
from sdescore.noise.counter import Domain, NormalStream, standard_normal
from tests.helpers.draws import numbers
from tests.helpers.state import torch_default, under_each_default

ALPHA = 1e-6  # false-positive rate of each statistical test here


# Addresses.


@given(
    seed=st.integers(-(2**70), 2**70),
    samples=st.lists(st.integers(0, 2**40), min_size=1, max_size=5),
    first=st.integers(0, 200_000),
    count=st.integers(1, 9),
    event=st.lists(st.integers(1, 4), max_size=3).map(tuple),
)
def test_a_number_is_a_function_of_its_address(seed, samples, first, count, event) -> None:
    many = standard_normal(seed, samples, range(first, first + count), event)
    assert many.shape == (count, len(samples), *event)
    for (k, draw), (i, sample) in itertools.product(
        enumerate(range(first, first + count)), enumerate(samples)
    ):
        one = standard_normal(seed, [sample], range(draw, draw + 1), event)
        assert torch.equal(one[0, 0], many[k, i])


@pytest.mark.parametrize("numel", [1, 3, 2**15, 2**16 - 1, 2**16 + 1, 2**17 + 3])
def test_addresses_across_blocks_and_chunks(numel: int) -> None:
    length = counter.block_length(numel)
    assert length % 2 == 0 and length >= 2
    around = range(max(0, length - 3), length + 3)
    many = standard_normal(3, range(3), around, (numel,))
    for k, draw in enumerate(around):
        for i in range(3):
            assert torch.equal(
                standard_normal(3, [i], range(draw, draw + 1), (numel,))[0, 0], many[k, i]
            )
    # No draw is another's copy (24-bit numbers repeat by chance, whole rows do not).
    rows = many.flatten(0, 1)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(rows, 2)) or numel == 1


def test_seeds_domains_and_shapes_are_told_apart() -> None:
    base = standard_normal(7, range(4), range(4), (8,))
    for seed in (8, -7, 7 + 2**32, 6):
        assert not (standard_normal(seed, range(4), range(4), (8,)) == base).any()
    other = NormalStream(7, range(4), (8,), domain=1).draw(range(4))
    assert not (other == base).any()
    assert torch.equal(standard_normal(7 + 2**64, range(4), range(4), (8,)), base)


@pytest.mark.parametrize("domain", [0, 1])
def test_seed_and_sample_play_different_parts(domain: int) -> None:
    """Hashed symmetrically, sample 1 of seed 0 would be sample 0 of seed 1."""
    rows = {
        (seed, sample): NormalStream(seed, [sample], (4,), domain=domain).draw(range(2)).flatten()
        for seed in range(12)
        for sample in range(12)
    }
    assert len(torch.stack(list(rows.values())).unique(dim=0)) == len(rows)


def test_the_numbers_stay_what_they_are() -> None:
    """A seed in a user's notebook means the same samples in the next release."""
    got = standard_normal(0, [0, 5], range(3), (2,)).flatten()
    again = standard_normal(0, range(6), range(3), (2,))[:, [0, 5]].flatten()
    assert torch.equal(got, again)
    assert got.dtype == torch.float32


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize("event", [(), (0,), (2, 0, 3)])
def test_empty_draws(batch: int, event: tuple[int, ...]) -> None:
    assert standard_normal(0, range(batch), range(3), event).shape == (3, batch, *event)


# Distributions.


def blocks() -> dict[str, np.ndarray]:
    """100,000 numbers along each axis of the address."""
    n = 100_000
    return {
        "elements": standard_normal(1, [0], range(1), (n,)).numpy().ravel(),
        "draws": standard_normal(1, [0], range(n), (1,)).numpy().ravel(),
        "samples": standard_normal(1, range(n), range(1), (1,)).numpy().ravel(),
        "odd draws": standard_normal(1, [3], range(2 * n), (1,)).numpy().ravel()[1::2],
        "seeds": np.array(
            [standard_normal(seed, [0], range(1), (1,)).item() for seed in range(5_000)]
        ),
    }


def test_normal_along_every_axis_and_uncorrelated() -> None:
    """Kolmogorov–Smirnov, moments, tails and lag correlations of x and x², α = 1e-6 each."""
    for name, x in blocks().items():
        n = len(x)
        assert stats.kstest(x.astype(float), "norm").pvalue > ALPHA, name
        z = stats.norm.isf(ALPHA / 2)
        assert abs(x.mean()) < z / math.sqrt(n), name
        assert abs((x**2).mean() - 1) < z * math.sqrt(2 / n), name
        assert abs((x**4).mean() - 3) < z * math.sqrt(96 / n), name
        for threshold in (2.0, 3.0):
            p = 2 * stats.norm.sf(threshold)
            assert stats.binomtest(int((abs(x) > threshold).sum()), n, p).pvalue > ALPHA, name
        for lag in (1, 2, 3, 4, 7, 8, 64):
            for y in (x, x**2 - 1):
                correlation = (y[lag:] * y[:-lag]).sum() / (y * y).sum()
                assert abs(correlation) < z / math.sqrt(n - lag) * 1.01, (name, lag)


def test_neighbouring_streams_are_independent() -> None:
    """Samples, seeds and draws next to each other, α = 1e-6 each (Bonferroni over pairs)."""
    n = 20_000
    streams = [
        standard_normal(seed, [sample], range(draw, draw + 1), (n,)).flatten()
        for seed in (0, 1, 2**32)
        for sample in (0, 1, 2**31)
        for draw in (0, 1, 2)
    ]
    x = torch.stack(streams).double()
    for y in (x, x.square() - 1):
        correlation = np.corrcoef(y.numpy())
        off = correlation[np.triu_indices(len(x), 1)]
        assert abs(off).max() < stats.norm.isf(ALPHA / 2 / len(off)) / math.sqrt(n)


def test_a_float64_state_sees_the_same_noise() -> None:
    sde = ss.VPSDE()
    sampler = ss.PredictorCorrector(sde, predictor=ss.ReverseDiffusion(), steps=5)

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -x

    wide = sampler.sample(score, (4, 2), seed=3, dtype=torch.float64)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(sampler.sample(score, (4, 2), seed=3), wide.float())


@pytest.mark.parametrize("buffer", [1, 7, 64, 1 << 18])
def test_the_buffer_changes_no_number(buffer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_BUFFER", buffer)
    monkeypatch.setattr(counter, "_BLOCK", 32)
    spans = [None] * 37
    source = ss.noise.SeededNoise(5).open(
        range(2, 6), (3,), spans, dtype=torch.float32, device=torch.device("cpu")
    )
    expected = standard_normal(5, range(2, 6), range(37), (3,))
    for k in (*range(37), 4, 3, 36, 0):  # in order, backwards, again
        assert torch.equal(source.draw(k), expected[k])


# Replay.


def test_replay_gives_each_chunk_its_samples() -> None:
    values = torch.randn(4, 6, 2)
    stream = ss.noise.ReplayNoise(values).open(
        range(2, 5), (2,), [None] * 4, dtype=torch.float64, device=torch.device("cpu")
    )
    for k in range(4):
        assert torch.equal(stream.draw(k), values[k, 2:5].double())


# Brownian paths.


def test_numpy_numbers_are_numbers() -> None:
    source = ss.noise.BrownianNoise(np.int64(3), T=np.float32(0.5))
    assert source == ss.noise.BrownianNoise(3, T=0.5)
    assert (type(source.seed), type(source.T)) == (int, float)
    assert type(ss.noise.SeededNoise(np.int64(2)).seed) is int
    one = standard_normal(np.int64(3), [0], range(1), (4,))
    assert torch.equal(one, standard_normal(3, [0], range(1), (4,)))


# Domains and the caller's defaults.


def test_each_role_of_a_seed_has_numbers_of_its_own() -> None:
    """Two roles share no number, and are uncorrelated at α = 1e-6 (Bonferroni over pairs)."""
    roles = torch.stack([numbers(ss.noise.SeededNoise(7), domain).flatten() for domain in Domain])
    assert len(roles.unique()) == roles.numel()
    n = 20_000
    x = torch.stack([standard_normal(0, [0], range(1), (n,), domain=d).flatten() for d in Domain])
    correlation = np.corrcoef(x.double().numpy())[np.triu_indices(len(x), 1)]
    assert abs(correlation).max() < stats.norm.isf(ALPHA / 2 / len(correlation)) / math.sqrt(n)


def test_replayed_numbers_have_no_role() -> None:
    source = ss.noise.ReplayNoise(torch.arange(4.0 * 5 * 6).reshape(4, 5, 3, 2))
    assert torch.equal(numbers(source, Domain.SAMPLER), numbers(source, Domain.RESTART))


@under_each_default
def test_a_seed_means_the_same_numbers_whatever_torchs_defaults(default) -> None:
    def all_numbers() -> list[torch.Tensor]:
        path = ss.noise.BrownianPath(5, range(3), (2,), 1.0)
        return [
            standard_normal(3, range(40), range(7), (5,)),
            standard_normal(3, [1], range(1), (70_001,)),
            numbers(ss.noise.SeededNoise(1), Domain.SAMPLER),
            numbers(ss.noise.BrownianNoise(1), Domain.SAMPLER),
            *(path.value(t) for t in (0.0, 0.3, 1.0)),
            ss.VPSDE().prior_sample((6, 2), seed=4),
        ]

    expected = all_numbers()
    with torch_default(default):
        got = all_numbers()
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype and one.device == other.device
        assert torch.equal(one, other)
