"""Discrete tables: exact at their levels, monotone between, and tending to the continuous SDEs."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator
from scipy.spatial.distance import pdist

import sdescore as ss
from sdescore.sde.discrete import largest_distance
from tests.helpers.strategies import (
    EPS,
    discrete_sdes,
    discrete_ve_sdes,
    discrete_vp_sdes,
    log_uniform,
)

pytestmark = pytest.mark.fast


@pytest.mark.guards("T06")
@given(discrete_vp_sdes(max_levels=200))
def test_vp_levels_are_the_table(sde: ss.DiscreteVPSDE) -> None:
    bar, expected = mpmath.mpf(1), []
    with mpmath.workdps(40):
        for beta in sde.betas:
            bar *= 1 - mpmath.mpf(beta)
            expected.append((float(mpmath.sqrt(bar)), float(mpmath.sqrt(1 - bar))))
    alpha, sigma = sde.marginal(sde.level_times())
    bound = EPS * (8 + 2 * len(sde.betas))  # a sum of N logarithms
    np.testing.assert_allclose(alpha.numpy(), [e[0] for e in expected], rtol=bound * 20)
    np.testing.assert_allclose(sigma.numpy(), [e[1] for e in expected], rtol=bound)


@given(discrete_ve_sdes())
def test_ve_levels_are_the_ladder(sde: ss.DiscreteVESDE) -> None:
    alpha, sigma = sde.marginal(sde.level_times())
    np.testing.assert_allclose(sigma.numpy(), sde.sigmas, rtol=16 * EPS)
    assert bool((alpha == 1).all())


@pytest.mark.guards("M02")
@pytest.mark.parametrize("count", [1, 2, 3, 22, 49, 100, 999, 1000, 1001])
def test_levels_are_integers_in_every_dtype(count: int) -> None:
    """(i/N)·N is not i in floating point for most N; a level must be an integer all the same."""
    ddpm = ss.DiscreteVPSDE(betas=(0.01,) * count)
    times = ddpm.level_times()
    assert times.shape == (count,) and times[-1] == ddpm.T and times[0] == ddpm.t_min
    for t in (times, times.float()):
        assert torch.equal(ddpm.level(t), torch.arange(count, dtype=torch.float64))
    assert ddpm.level(0.0) == -1 and ddpm.levels == count
    if count >= 2:
        ncsn = ss.DiscreteVESDE.geometric(sigma_max=10.0, sigma_min=0.01, levels=count)
        times = ncsn.level_times()
        assert times[0] == ncsn.T and times[-1] == 0 == ncsn.t_min and ncsn.levels == count
        for t in (times, times.float()):
            assert torch.equal(ncsn.level(t), torch.arange(count, dtype=torch.float64))


@given(st.data(), discrete_sdes())
def test_level_is_linear_between(data: st.DataObject, sde: ss.LinearSDE) -> None:
    times = sde.level_times()
    if len(times) < 2:
        return
    i = data.draw(st.integers(0, len(times) - 2))
    part = data.draw(st.floats(0.01, 0.99))
    t = (1 - part) * times[i] + part * times[i + 1]
    assert sde.level(t).item() == pytest.approx(i + part, rel=1e-12, abs=1e-12)


@given(st.data(), discrete_sdes())
def test_between_levels_monotone_and_scipys_interpolant(
    data: st.DataObject, sde: ss.LinearSDE
) -> None:
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    f, g2 = sde.rates(t)
    assert bool((g2 >= 0).all()) and bool((f <= 0).all())
    assert bool((torch.diff(sde.log_snr(t)[1:]) < 0).all())
    u = data.draw(st.floats(1e-3, 1.0))
    alpha, sigma = (v.item() for v in sde.marginal(u))
    if hasattr(sde, "betas"):
        knots = np.arange(len(sde.betas) + 1) / len(sde.betas)
        B = np.concatenate([[0.0], -np.cumsum(np.log1p(-np.array(sde.betas)))])
        expected = PchipInterpolator(knots, B)(u)
        assert -2 * math.log(alpha) == pytest.approx(expected, rel=1e-12, abs=1e-15)
        assert sigma == pytest.approx(math.sqrt(-math.expm1(-expected)), rel=1e-12)
        slope = PchipInterpolator(knots, B).derivative()(u)
        assert sde.rates(u)[1].item() == pytest.approx(slope, rel=1e-9, abs=1e-9)
    else:
        knots = np.arange(len(sde.sigmas)) / (len(sde.sigmas) - 1)
        curve = PchipInterpolator(knots, np.log(sde.sigmas[::-1]))
        assert math.log(sigma) == pytest.approx(curve(u), rel=1e-12, abs=1e-14)
        slope = 2 * sigma**2 * curve.derivative()(u)
        assert sde.rates(u)[1].item() == pytest.approx(slope, rel=1e-9, abs=1e-9)


def test_a_rate_that_vanishes_at_a_knot_is_not_below_zero() -> None:
    """The interpolant's slope is 0 at t = 1 here, and g is its square root."""
    sde = ss.DiscreteVPSDE(betas=(0.36787944117144233, 0.0820849986238988, 0.01831563888873418))
    assert 0 <= sde.rates(1.0)[1] < 1e-12
    assert bool(sde.diffusion(torch.linspace(0, 1, 301, dtype=torch.float64)).isfinite().all())


@given(st.data(), discrete_sdes())
def test_neighbouring_times_do_not_cancel(data: st.DataObject, sde: ss.LinearSDE) -> None:
    """Over a short step of one cell the variance is ∫g² to the second order of the step."""
    times = sorted([0.0, *sde.level_times().tolist()])
    i = data.draw(st.integers(1, len(times) - 1))
    width = times[i] - times[i - 1]
    if width == 0:
        return
    s = times[i - 1] + data.draw(st.floats(0.1, 0.8)) * width
    t = s + 1e-9 * width
    middle = sde.rates(0.5 * (s + t))[1].item()
    variance = sde.transition(s, t).variance.item()
    assert variance == pytest.approx(middle * (t - s), rel=1e-8, abs=1e-17 * width)


@given(log_uniform(2.0, 1e4), log_uniform(1e-3, 1.0), st.integers(2, 40), st.floats(0.0, 1.0))
def test_geometric_ladder_is_the_continuous_ve(
    ratio: float, low: float, levels: int, t: float
) -> None:
    high = low * ratio
    ladder = ss.DiscreteVESDE.geometric(sigma_max=high, sigma_min=low, levels=levels)
    smooth = ss.VESDE(sigma_min=low, sigma_max=high)
    sigma = ladder.marginal(t)[1].item()
    assert sigma == pytest.approx(smooth.marginal(t)[1].item(), rel=1e-13)
    # the slopes are differences of stored logarithms, over cells of 1/(L − 1)
    bound = 1e-14 * levels * (1 + abs(math.log(low)) + abs(math.log(high)))
    assert ladder.rates(t)[1].item() == pytest.approx(smooth.rates(t)[1].item(), rel=bound * 10)


def test_song_and_ermon_ladder() -> None:
    """Song & Ermon 2019, section 5: L = 10, σ_1 = 1, σ_10 = 0.01, constant ratio."""
    ladder = ss.DiscreteVESDE.geometric(sigma_max=1.0, sigma_min=0.01, levels=10)
    ratios = np.array(ladder.sigmas[:-1]) / np.array(ladder.sigmas[1:])
    np.testing.assert_allclose(ratios, 100 ** (1 / 9), rtol=1e-14)
    assert ladder.sigmas[0] == pytest.approx(1.0) and ladder.sigmas[-1] == pytest.approx(0.01)


@pytest.mark.parametrize("t", [0.25, 0.5, 1.0])
def test_ddpm_tends_to_the_continuous_sde_at_first_order(t: float) -> None:
    """β_i = β(i/N)/N: the errors of log ᾱ and of σ halve as N doubles (order within 0.1 of 1)."""
    smooth = ss.VPSDE(beta_min=0.1, beta_max=20.0)
    sizes = [256, 512, 1024, 2048, 4096]
    errors = []
    for n in sizes:
        i = torch.arange(1, n + 1, dtype=torch.float64)
        chain = ss.DiscreteVPSDE(betas=(0.1 + 19.9 * i / n) / n)
        (a, s), (a_smooth, s_smooth) = chain.marginal(t), smooth.marginal(t)
        errors.append([abs((a / a_smooth).log().item()), abs((s - s_smooth).item())])
    orders = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    np.testing.assert_allclose(orders, 1.0, atol=0.1)


def test_ddpm_linear_table() -> None:
    sde = ss.DiscreteVPSDE.linear()
    assert sde.levels == 1000
    assert sde.betas[0] == 1e-4 and sde.betas[-1] == 0.02
    assert sde.betas[500] == pytest.approx(1e-4 + (0.02 - 1e-4) * 500 / 999, rel=1e-14)
    assert ss.DiscreteVPSDE.linear(levels=1, beta_start=0.5).levels == 1


def test_tables_are_kept_as_floats_and_compare() -> None:
    a = ss.DiscreteVPSDE(betas=torch.tensor([0.1, 0.2], dtype=torch.float64))
    b = ss.DiscreteVPSDE(betas=[0.1, 0.2])
    assert a == b and hash(a) == hash(b) and a.betas == (0.1, 0.2)
    assert ss.DiscreteVESDE(sigmas=np.array([2.0, 1.0])) == ss.DiscreteVESDE(sigmas=(2.0, 1.0))
    a.marginal(0.5)  # the cached interpolant takes no part in equality
    assert a == b and hash(a) == hash(b) and "interpolant" not in repr(a)


@pytest.mark.parametrize(("n", "block"), [(2, 2048), (50, 7), (50, 25), (300, 2048)])
def test_the_largest_distance_is_scipy_s(n: int, block: int) -> None:
    data = torch.randn(n, 3, 2, generator=torch.Generator().manual_seed(n)) + 100.0
    expected = pdist(data.reshape(n, -1).double().numpy()).max()
    assert largest_distance(data, block) == pytest.approx(expected, rel=1e-6)


def test_a_ladder_from_data_starts_at_the_largest_distance() -> None:
    data = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]])
    sde = ss.DiscreteVESDE.from_data(data, sigma_min=0.05, levels=3)
    assert sde.sigmas == pytest.approx((5.0, 0.5, 0.05))
    for bad in (data[:1], data.long(), torch.full((3, 2), torch.nan), torch.zeros(3, 2)):
        with pytest.raises(ss.SDEScoreError):
            ss.DiscreteVESDE.from_data(bad, levels=3)


def test_a_time_at_a_log_snr_does_not_know_its_companions() -> None:
    """Newton's method takes as many turns as its slowest element needs."""
    for sde in (ss.DiscreteVPSDE(betas=(0.1, 0.5, 0.2)), ss.DiscreteVESDE(sigmas=(9.0, 1.0, 0.99))):
        levels = sde.log_snr(torch.logspace(-16, 0, 200, dtype=torch.float64))
        alone = torch.cat([sde.time_at_log_snr(level[None]) for level in levels])
        assert torch.equal(sde.time_at_log_snr(levels), alone)


def test_an_sde_that_is_first_used_inside_a_transform_works_afterwards() -> None:
    """What an SDE stores at its first use is no tensor of the transform."""
    for sde in (ss.DiscreteVPSDE(betas=(0.1, 0.2)), ss.DiscreteVESDE(sigmas=(9.0, 1.0))):

        def level(x: torch.Tensor, sde: ss.LinearSDE = sde) -> torch.Tensor:
            return torch.func.grad(lambda z: (z * sde.marginal(0.3 * z)[1]).sum())(x)

        x = torch.ones((), dtype=torch.float64)
        inside = torch.func.grad(level)(x)
        torch.testing.assert_close(torch.func.grad(level)(x), inside)
        assert sde.marginal(0.3)[1].numpy() > 0
