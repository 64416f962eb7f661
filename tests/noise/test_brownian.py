"""Brownian paths: functions of time that every grid sees alike."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import sdescore as ss
from sdescore.noise.counter import Domain
from tests.helpers.draws import numbers

ALPHA = 1e-6  # false-positive rate of each statistical test here


@given(
    st.lists(st.floats(0, 2), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
    st.integers(0, 99),
)
@settings(max_examples=50)
def test_a_path_is_a_function_of_time(times: list[float], shuffle, seed: int) -> None:
    one = ss.noise.BrownianPath(seed, range(3), (2,), 2.0)
    values = {t: one.value(t) for t in times}
    shuffle.shuffle(times)
    two = ss.noise.BrownianPath(seed, [1], (2,), 2.0)
    for t in times:
        assert torch.equal(two.value(t)[0], values[t][1])
    assert (one.value(0.0) == 0).all()


@pytest.mark.parametrize(
    ("depth", "times"),
    [(24, [0.0, 0.1, 0.25, 0.3, 0.50001, 0.75, 1.1, 1.5]), (1, [0.0, 0.3, 0.75, 1.1, 1.5])],
)
def test_increments_are_brownian_and_independent(depth: int, times: list[float], monkeypatch):
    """Variances by χ² and correlations by z, 20,000 paths, α = 1e-6 with Bonferroni.

    With a depth of 1 two of the times are drawn inside a leaf of the tree.
    """
    monkeypatch.setattr(ss.noise.BrownianPath, "depth", depth)
    n = 20_000
    path = ss.noise.BrownianPath(2, range(n), (), 1.5)
    at = torch.stack([path.value(t) for t in times])
    increments = at.diff(dim=0) / torch.tensor(times, dtype=torch.float64).diff().sqrt()[:, None]
    low, high = stats.chi2.ppf([ALPHA / 14, 1 - ALPHA / 14], n)
    sums = increments.square().sum(1)
    assert ((low < sums) & (sums < high)).all()
    correlation = np.corrcoef(increments.numpy())[np.triu_indices(len(times) - 1, 1)]
    assert abs(correlation).max() < stats.norm.isf(ALPHA / 2 / len(correlation)) / math.sqrt(n)


def test_a_finer_grid_sees_the_same_path() -> None:
    def stream(grid: list[float]) -> tuple:
        spans = [None, *itertools.pairwise(grid)]
        source = ss.noise.BrownianNoise(4, T=1.0)
        return spans, source.open(
            range(5), (2,), spans, dtype=torch.float64, device=torch.device("cpu")
        )

    def total(grid: list[float]) -> torch.Tensor:
        spans, noise = stream(grid)
        return sum(
            noise.draw(k) * math.sqrt(spans[k][0] - spans[k][1]) for k in range(1, len(spans))
        )

    coarse, fine = total([1.0, 0.2]), total([1.0, 0.9, 0.77, 0.31, 0.2])
    torch.testing.assert_close(coarse, fine, rtol=1e-12, atol=1e-12)
    path = ss.noise.BrownianPath(4, range(5), (2,), 1.0)
    torch.testing.assert_close(coarse, path.value(1.0) - path.value(0.2), rtol=1e-12, atol=1e-12)


def test_draws_without_time_are_seeded_and_not_the_path() -> None:
    device = torch.device("cpu")
    spans = [None, (1.0, 0.5), None]
    stream = ss.noise.BrownianNoise(4).open(
        range(3), (2,), spans, dtype=torch.float32, device=device
    )
    plain = ss.noise.SeededNoise(4).open(range(3), (2,), spans, dtype=torch.float32, device=device)
    assert torch.equal(stream.draw(0), plain.draw(0))
    assert torch.equal(stream.draw(2), plain.draw(2))
    assert not torch.equal(stream.draw(1), plain.draw(1))


def test_a_path_is_one_path_in_every_role_and_other_draws_are_not() -> None:
    first, second = (
        numbers(ss.noise.BrownianNoise(7), domain) for domain in (Domain.SAMPLER, Domain.RESTART)
    )
    assert torch.equal(first[1:3], second[1:3])
    assert not (first[[0, 3]] == second[[0, 3]]).any()
