"""Marginals, rates and log-SNR of every linear SDE."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import sdescore as ss
from tests.helpers.sdes import relative
from tests.helpers.strategies import (
    EPS,
    REPRESENTATIVES,
    continuous_sdes,
    discrete_sdes,
    linear_sdes,
    marginal_sdes,
    ordered_times,
    paper_marginal,
)

fast = pytest.mark.fast  # but not what solves an ODE or differentiates a function of one's own

SMALL_TIMES = (1e-7, 1e-5, 1e-3, 0.02, 0.3, 0.7, 0.95, 1.0)


def moments(sde: ss.LinearSDE, times: np.ndarray) -> list[tuple[float, float]]:
    """``(α, σ)`` from ``α' = fα, (σ²)' = 2fσ² + g²``, cell by cell where rates have kinks."""

    def field(t: float, y: np.ndarray) -> list[float]:
        f, g2 = (r.item() for r in sde.rates(t))
        return [f * y[0], 2 * f * y[1] + g2]

    knots = sde.level_times().tolist() if hasattr(sde, "level_times") else []
    y = np.array([1.0, sde.marginal(0.0)[1].item() ** 2])
    now, found = 0.0, {}
    for t in sorted({*times.tolist(), *knots}):
        if t > now:
            y = solve_ivp(field, (now, t), y, method="DOP853", rtol=1e-13, atol=1e-30).y[:, -1]
        now, found[t] = t, (y[0], math.sqrt(y[1]))
    return [found[t] for t in times.tolist()]


@cache
def solved(name: str) -> list[tuple[torch.Tensor, tuple[float, float]]]:
    """Times that float32 holds, and the moments there."""
    sde = REPRESENTATIVES[name]
    t32 = torch.from_numpy(np.geomspace(1e-5, sde.T, 9)).float().clamp(max=sde.T)
    t32 = torch.where(t32.double() > sde.T, torch.nextafter(t32, torch.zeros(())), t32)
    return list(zip(t32, moments(sde, t32.double().numpy()), strict=True))


@pytest.mark.guards("B01")
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_marginal_solves_the_moment_equations(name: str) -> None:
    for t, (alpha, sigma) in solved(name):
        got = [v.item() for v in REPRESENTATIVES[name].marginal(t.double())]
        assert relative(got[0], alpha) <= 1e-11, t
        assert relative(got[1], sigma) <= 1e-11, t


@pytest.mark.guards("M01", "T01", "B01")
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_float32_times_give_four_float32_eps(name: str) -> None:
    for t, (alpha, sigma) in solved(name):
        got = [v.float().item() for v in REPRESENTATIVES[name].marginal(t)]
        assert relative(got[0], alpha) <= 4 * torch.finfo(torch.float32).eps
        assert relative(got[1], sigma) <= 4 * torch.finfo(torch.float32).eps


@fast
@pytest.mark.guards("T07")
@given(continuous_sdes(), st.sampled_from(SMALL_TIMES))
def test_marginal_rates_and_log_snr_against_the_papers(sde: ss.LinearSDE, u: float) -> None:
    """mpmath differentiates the papers' α and σ, so a consistent error in both is caught."""
    t = u * sde.T
    marginal = paper_marginal(sde)
    exact = mpmath.mpf(t)
    alpha, sigma = marginal(exact)
    f = mpmath.diff(lambda r: mpmath.log(marginal(r)[0]), exact)
    g2 = mpmath.diff(lambda r: marginal(r)[1] ** 2, exact) - 2 * f * sigma**2
    got_alpha, got_sigma = sde.marginal(t)
    got_f, got_g2 = sde.rates(t)
    assert relative(got_alpha.item(), float(alpha)) <= 1e-13
    assert relative(got_sigma.item(), float(sigma)) <= 1e-13
    assert abs(got_f.item() - float(f)) <= 1e-12 * abs(float(f)) + 1e-20
    assert relative(got_g2.item(), float(g2)) <= 1e-12
    assert sde.diffusion(t).item() == pytest.approx(math.sqrt(g2), rel=1e-12)
    log_snr = float(2 * mpmath.log(alpha / sigma))
    assert abs(sde.log_snr(t).item() - log_snr) <= 1e-13 * (1 + abs(log_snr))


@fast
@given(st.data(), st.one_of(discrete_sdes(), marginal_sdes()))
def test_rates_are_derivatives_of_the_marginal(data: st.DataObject, sde: ss.LinearSDE) -> None:
    """Central differences, on tables and user pairs; the truncation error is (h/t)²."""
    t = 0.95 * data.draw(ordered_times(sde, 1, low=1e-3))[0]
    h = 1e-5 * t
    if hasattr(sde, "level_times"):  # the second derivative jumps at a level
        times = sde.level_times()
        nearest = times[(times - t).abs().argmin()].item()
        t += 3 * h if abs(nearest - t) < 2 * h and t + 4 * h < sde.T else 0.0
        if abs(nearest - t) < 2 * h:
            t = nearest - 3 * h
    (a_low, s_low), (a_high, s_high) = sde.marginal(t - h), sde.marginal(t + h)
    f, g2 = sde.rates(t)
    sigma2 = sde.marginal(t)[1].square()
    slope = (a_high.log() - a_low.log()) / (2 * h)
    assert torch.isclose(f, slope, rtol=1e-5, atol=1e-9 / h)
    growth = (s_high - s_low) * (s_high + s_low) / (2 * h)
    scale = (growth.abs() + (2 * f * sigma2).abs()).item()
    assert abs((growth - 2 * f * sigma2 - g2).item()) <= 2e-5 * scale + 1e-9 * sigma2.item() / h
    assert g2 >= 0


# from_marginal against closed forms.


CLOSED_FORMS = {
    "marginal-straight": lambda t: (-1 / (1 - t), 2 * t / (1 - t)),
    "marginal-trigonometric": lambda t: (-1.5 * math.tan(1.5 * t), 3.0 * math.tan(1.5 * t)),
    "marginal-constant-beta": lambda t: (-2.5, 5.0),
    "marginal-power": lambda t: (0.0, 12.0 * (0.01 + t) ** 2),
}


@fast
@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("t", [1e-7, 1e-3, 0.2, 0.9])
def test_from_marginal_rates_against_closed_forms(name: str, t: float) -> None:
    f, g2 = REPRESENTATIVES[name].rates(torch.tensor([t, t]))
    expected_f, expected_g2 = CLOSED_FORMS[name](torch.tensor(t).double().item())
    assert f.shape == g2.shape == (2,)
    assert f[1].item() == pytest.approx(expected_f, rel=1e-12, abs=1e-18)
    assert g2[1].item() == pytest.approx(expected_g2, rel=1e-12)


@fast
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_from_marginal_rates_at_zero_are_the_limit(name: str) -> None:
    f, g2 = REPRESENTATIVES[name].rates(0.0)
    expected_f, expected_g2 = CLOSED_FORMS[name](0.0)
    assert f.item() == pytest.approx(expected_f, abs=1e-10)
    assert g2.item() == pytest.approx(expected_g2, rel=1e-3, abs=1e-10)


@given(st.data(), continuous_sdes())
def test_from_marginal_of_a_known_sde_is_that_sde(data: st.DataObject, sde: ss.LinearSDE) -> None:
    copy = ss.LinearSDE.from_marginal(
        lambda t: sde._marginal(t)[0], lambda t: sde._marginal(t)[1], T=sde.T, t_min=0.0
    )
    s, t = data.draw(ordered_times(sde, 2, low=1e-3))
    for got, expected in zip(copy.rates(t), sde.rates(t), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    a, b = copy.transition(s, t), sde.transition(s, t)
    torch.testing.assert_close(a.scale, b.scale, rtol=1e-13, atol=0)
    bound = 64 * EPS * sde.marginal(t)[1].square().item()
    torch.testing.assert_close(a.variance, b.variance, rtol=1e-13, atol=bound)
    level = sde.log_snr(t)
    torch.testing.assert_close(
        copy.time_at_log_snr(level), sde.time_at_log_snr(level), rtol=1e-9, atol=0
    )


# Log-SNR.


@fast
@given(st.data(), linear_sdes())
def test_log_snr_round_trip(data: st.DataObject, sde: ss.LinearSDE) -> None:
    """Conditioning: a time error δ moves λ by λ'δ, and λ itself is known to eps (1 + |λ|)."""
    times = data.draw(ordered_times(sde, 3))
    t = torch.tensor(times, dtype=torch.float64)
    level = sde.log_snr(t)
    back = sde.time_at_log_snr(level)
    assert bool((torch.diff(level) < 0).all()) or min(np.diff(times)) < 1e-9 * sde.T
    slope = sde.rates(t)[1] / sde.marginal(t)[1].square()  # −dλ/dt
    known = 64 * EPS * (1 + level.abs())
    # pchip may be flat at a level, where λ does not fix t beyond a cube root
    assert bool(((sde.log_snr(back) - level).abs() <= known + 8 * EPS * t * slope).all())
    steep = slope * t > 0.05
    assert bool(((back - t).abs()[steep] <= (8 * known / slope + 8 * EPS * t)[steep]).all())


@fast
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_log_snr_inverse_at_the_ends(name: str) -> None:
    sde = REPRESENTATIVES[name]
    ends = torch.tensor([0.0, sde.T], dtype=torch.float64)
    back = sde.time_at_log_snr(sde.log_snr(ends))
    torch.testing.assert_close(back, ends, rtol=1e-9, atol=1e-14)
    assert back[0] >= 0 and back[1] <= sde.T
    assert sde.time_at_log_snr(float(sde.log_snr(sde.T))).shape == ()
    with pytest.raises(ss.errors.TimeError, match="log-SNR"):
        sde.time_at_log_snr(sde.log_snr(sde.T) - 1.0)


@pytest.mark.parametrize(
    ("alpha", "sigma", "got"),
    [
        (lambda t: 1.0, lambda t: t, "1.0"),
        (lambda t: torch.ones(()).double(), lambda t: t, r"float64 \(\)"),
        (lambda t: torch.ones_like(t), lambda t: t.float(), r"float32 \(3,\)"),
    ],
)
def test_a_marginal_unlike_its_times_is_refused(alpha: Any, sigma: Any, got: str) -> None:
    class Own(ss.LinearSDE):
        T = 1.0

        def _marginal(self, t: torch.Tensor) -> Any:
            return alpha(t), sigma(t)

    with pytest.raises(ss.errors.IncompatibleError, match=f"_marginal.* of Own .*; got .*{got}"):
        Own().marginal(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
