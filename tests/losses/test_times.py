"""Distributions of the training times."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

import sdescore as ss
from sdescore.losses import (
    ImportanceTimes,
    LogNormalTimes,
    LogSNRTimes,
)
from sdescore.losses.times import TimeDistribution
from tests.helpers.weightings import (
    SDES,
    generator,
    integral,
    log_level,
    rate,
    truncated_normal,
)


def quantiles(sde: ss.LinearSDE, t: Tensor) -> list[float]:
    """∫ g²/σ² from t_min up to each of the rising ``t``, over the whole."""
    ends = [sde.t_min, *t.tolist(), sde.T]
    parts = [integral(lambda u: rate(sde, u), a, b, sde) for a, b in itertools.pairwise(ends)]
    rising = np.cumsum(parts)
    return list(rising[:-1] / rising[-1])


@SDES
def test_the_density_is_g2_over_sigma2(sde: ss.LinearSDE) -> None:
    """Stratified times cut the integral of g²/σ² into equal parts: exact, no statistics."""
    n = 12
    t = ImportanceTimes(stratified=True).sample(sde, n, generator())
    assert torch.equal(t, LogSNRTimes(stratified=True).sample(sde, n, generator()))
    assert t.dtype == torch.float64 and t.shape == (n,)
    parts = quantiles(sde, t.sort().values)
    assert 0 <= parts[0] < 1 / n
    np.testing.assert_allclose(np.diff(parts), 1 / n, rtol=1e-9)


@SDES
@pytest.mark.parametrize("distribution", [LogSNRTimes(), ImportanceTimes()])
def test_log_snr_distributions(distribution: TimeDistribution, sde: ss.LinearSDE) -> None:
    """Kolmogorov–Smirnov against the integral of g²/σ² on a fine grid, alpha = 1e-6."""
    nodes = torch.linspace(sde.t_min, sde.T, 20_001, dtype=torch.float64)
    if sde.t_min > 0:
        geometric = torch.logspace(
            math.log10(sde.t_min), math.log10(sde.T), 2001, dtype=torch.float64
        ).clamp(sde.t_min, sde.T)
        nodes = torch.cat([nodes, geometric]).unique()
    density = (sde.rates(nodes)[1] / sde.marginal(nodes)[1].square()).numpy()
    cdf = scipy.integrate.cumulative_trapezoid(density, nodes.numpy(), initial=0)
    t = distribution.sample(sde, 5000, generator(1)).numpy()
    assert sde.t_min <= t.min() and t.max() <= sde.T
    result = scipy.stats.kstest(t, lambda u: np.interp(u, nodes.numpy(), cdf / cdf[-1]))
    assert result.pvalue > 1e-6


@SDES
@pytest.mark.parametrize("mean", [-1.2, 0.8])
def test_log_normal_distribution(sde: ss.LinearSDE, mean: float) -> None:
    """Stratified: exact quantiles. Independent: Kolmogorov–Smirnov, alpha = 1e-6."""
    distribution, n = LogNormalTimes(mean, 1.2, stratified=True), 500
    t = distribution.sample(sde, n, generator()).sort().values
    parts = truncated_normal(sde, distribution).cdf(log_level(sde, t))
    assert -1e-9 < parts[0] < 1 / n and sde.t_min <= t.min() and t.max() <= sde.T
    np.testing.assert_allclose(np.diff(parts), 1 / n, rtol=1e-6)
    distribution = LogNormalTimes(mean, 1.2)
    t = distribution.sample(sde, 5000, generator(1))
    assert (
        scipy.stats.kstest(log_level(sde, t), truncated_normal(sde, distribution).cdf).pvalue > 1e-6
    )


@pytest.mark.parametrize("mean", [-36.0, -12.0, 0.1, 12.0, 36.0])
def test_log_normal_far_from_the_range(mean: float) -> None:
    """log σ in [−1, 1]: the tail of the distribution is drawn as such, nothing piles up at an
    end."""
    sde = ss.EDMSDE(sigma_min=math.exp(-1), sigma_max=math.exp(1))
    distribution, n = LogNormalTimes(mean, 1.0, stratified=True), 1000
    t = distribution.sample(sde, n, generator()).sort().values
    parts = truncated_normal(sde, distribution).cdf(log_level(sde, t))
    assert len(t.unique()) == n
    np.testing.assert_allclose(np.diff(parts), 1 / n, rtol=1e-5)


DISTRIBUTIONS = (LogSNRTimes, LogNormalTimes, ImportanceTimes)


@SDES
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_ends_are_kept(distribution: type, sde: ss.LinearSDE) -> None:
    """The first and the last number of [0, 1), which no seed is likely to draw."""
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    first, last = distribution().quantile(sde, ends).tolist()
    assert sde.t_min <= first <= sde.t_min + 1e-6 * sde.T
    assert first < last <= sde.T


def test_log_normal_reaches_where_the_normal_underflows() -> None:
    sde = ss.VESDE(sigma_min=math.exp(-34), sigma_max=math.exp(34))  # 68 standard deviations off
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    first, last = LogNormalTimes(0.0, 0.5).quantile(sde, ends).tolist()
    assert first == 0 and 0.55 < last <= 1  # Φ(8) is the last that differs from 1


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_stratified_times_keep_their_distribution(distribution: type) -> None:
    """The 4th time of a batch of 5 against independent times, two-sample KS, alpha = 1e-6."""
    sde, g = ss.VPSDE(), generator()
    one = distribution(stratified=True)
    t = torch.stack([one.sample(sde, 5, g)[3] for _ in range(4000)])
    independent = distribution().sample(sde, 100_000, g)
    assert scipy.stats.ks_2samp(t.numpy(), independent.numpy()).pvalue > 1e-6


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_stratified_times_reduce_the_variance(distribution: type) -> None:
    sde, g = ss.VPSDE(), generator()
    spread = [
        torch.stack(
            [distribution(stratified=s).sample(sde, 32, g).mean() for _ in range(100)]
        ).std()
        for s in (False, True)
    ]
    assert spread[1] < 0.3 * spread[0]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("stratified", [False, True])
def test_a_generator_decides_the_times(distribution: type, stratified: bool) -> None:
    sde, times = ss.VPSDE(), distribution(stratified=stratified)
    assert torch.equal(times.sample(sde, 6, generator(1)), times.sample(sde, 6, generator(1)))
    assert not torch.equal(times.sample(sde, 6, generator(1)), times.sample(sde, 6, generator(2)))
    assert times.sample(sde, 0).shape == (0,)


def test_on_a_geometric_ladder_uniform_is_uniform_in_log_snr() -> None:
    """VE's log σ is linear in t, so all three distributions are one and the weight is 1."""
    sde = ss.VESDE()
    t = ss.losses.UniformTimes().sample(sde, 100, generator())
    for distribution in (LogSNRTimes(), ImportanceTimes()):
        torch.testing.assert_close(
            distribution.sample(sde, 100, generator()), t, rtol=1e-9, atol=1e-12
        )
    weight = ImportanceTimes().importance_weight(sde, t)
    torch.testing.assert_close(weight, torch.ones_like(t), rtol=1e-12, atol=0)
