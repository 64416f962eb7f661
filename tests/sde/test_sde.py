"""Every SDE against its moment equations, the papers' formulas in mpmath, and bad input."""

from __future__ import annotations

import dataclasses
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import solve_ivp

import sdescore as ss
from tests.helpers.state import torch_default, under_each_default
from tests.helpers.strategies import (
    EPS,
    REPRESENTATIVES,
    continuous_sdes,
    discrete_sdes,
    linear_sdes,
    log_uniform,
    marginal_sdes,
    ordered_times,
    paper_marginal,
    shapes,
    states,
)

pytestmark = pytest.mark.fast

mpmath.mp.dps = 50
SMALL_TIMES = (1e-7, 1e-5, 1e-3, 0.02, 0.3, 0.7, 0.95, 1.0)


def relative(got: float, expected: float) -> float:
    return abs(got - expected) / abs(expected) if expected else abs(got)


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


@pytest.mark.guards("B01")
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_marginal_solves_the_moment_equations(name: str) -> None:
    sde = REPRESENTATIVES[name]
    times = np.minimum(np.geomspace(1e-5, sde.T, 9), sde.T)
    for t, (alpha, sigma) in zip(times, moments(sde, times), strict=True):
        got = [v.item() for v in sde.marginal(t)]
        assert relative(got[0], alpha) <= 1e-11, t
        assert relative(got[1], sigma) <= 1e-11, t


@pytest.mark.guards("M01", "T01", "B01")
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_float32_times_give_four_float32_eps(name: str) -> None:
    sde = REPRESENTATIVES[name]
    t32 = torch.from_numpy(np.geomspace(1e-5, sde.T, 9)).float().clamp(max=sde.T)
    t32 = torch.where(t32.double() > sde.T, torch.nextafter(t32, torch.zeros(())), t32)
    times = t32.double().numpy()
    for t, (alpha, sigma) in zip(t32, moments(sde, times), strict=True):
        got = [v.float().item() for v in sde.marginal(t)]
        assert relative(got[0], alpha) <= 4 * torch.finfo(torch.float32).eps
        assert relative(got[1], sigma) <= 4 * torch.finfo(torch.float32).eps


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


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("t", [1e-7, 1e-3, 0.2, 0.9])
def test_from_marginal_rates_against_closed_forms(name: str, t: float) -> None:
    f, g2 = REPRESENTATIVES[name].rates(torch.tensor([t, t]))
    expected_f, expected_g2 = CLOSED_FORMS[name](torch.tensor(t).double().item())
    assert f.shape == g2.shape == (2,)
    assert f[1].item() == pytest.approx(expected_f, rel=1e-12, abs=1e-18)
    assert g2[1].item() == pytest.approx(expected_g2, rel=1e-12)


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


def test_log_snr_inverse_does_not_overflow() -> None:
    sde = ss.VPSDE(beta_min=0.1, beta_max=2000.0)
    assert sde.time_at_log_snr(sde.log_snr(1.0)).item() == pytest.approx(1.0, rel=1e-14)


def test_log_snr_above_the_data_end_is_refused() -> None:
    with pytest.raises(ss.errors.TimeError, match="got values in"):
        ss.VESDE().time_at_log_snr(100.0)


# Ends.


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_ends_of_the_forward_time(name: str) -> None:
    sde = REPRESENTATIVES[name]
    alpha_0, sigma_0 = sde.marginal(0.0)
    assert alpha_0.item() == pytest.approx(1.0, abs=1e-15)
    starts = {"ve": 0.01, "ve-small": 0.05, "discrete-ve": 0.1, "marginal-power": 2 * 0.01**1.5}
    assert sigma_0.item() == pytest.approx(starts.get(name, 0.0), rel=1e-14, abs=0)
    assert bool(sde.log_snr(0.0) == math.inf) == (name not in starts)
    assert 0 <= sde.t_min < sde.T
    assert all(bool(v.isfinite()) for v in (*sde.rates(0.0), *sde.rates(sde.T)))


def test_named_ends() -> None:
    assert ss.VESDE(sigma_min=0.01, sigma_max=50.0).marginal(1.0)[1].item() == pytest.approx(50.0)
    assert ss.EDMSDE(sigma_min=0.002, sigma_max=80.0).T == 80.0
    assert ss.EDMSDE().t_min == 0.002
    assert ss.VESDE().T == ss.VPSDE().T == ss.SubVPSDE().T == 1.0


@pytest.mark.parametrize("T", [0.999, 0.9999, 0.7])
def test_the_end_rounded_to_a_coarser_dtype_is_the_end(T: float) -> None:
    """float32(0.999) > 0.999: a sampler's float32 time must not be refused at T."""
    sde = ss.RectifiedFlowSDE(T=T)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        t = torch.tensor(T, dtype=dtype)
        assert sde.marginal(t)[1].item() <= T
        assert sde.marginal(t.float().double())[1].item() <= T if dtype == torch.float32 else True


@pytest.mark.guards("T10")
def test_cosine_near_its_singular_end_keeps_its_digits() -> None:
    sde = ss.CosineVPSDE(T=0.9999999)
    t = 0.99999990
    exact = mpmath.mpf(t)
    marginal = paper_marginal(sde)
    assert relative(sde.marginal(t)[0].item(), float(marginal(exact)[0])) <= 4 * EPS
    f = float(mpmath.diff(lambda r: mpmath.log(marginal(r)[0]), exact))
    assert relative(sde.rates(t)[0].item(), f) <= 8 * EPS


# Shapes, dtypes and perturbation.


@given(st.data(), linear_sdes(), shapes())
def test_scalars_are_float64_and_shaped_like_t(
    data: st.DataObject, sde: ss.LinearSDE, shape: tuple[int, ...]
) -> None:
    (t,) = data.draw(ordered_times(sde, 1))
    batch = torch.full(shape[:1], t, dtype=torch.float64)
    for one, many in zip(
        (*sde.marginal(t), *sde.rates(t), sde.log_snr(t), sde.diffusion(t)),
        (*sde.marginal(batch), *sde.rates(batch), sde.log_snr(batch), sde.diffusion(batch)),
        strict=True,
    ):
        assert one.dtype == many.dtype == torch.float64
        assert one.shape == () and many.shape == batch.shape
        assert one.item() == pytest.approx(many[0].item(), rel=1e-13, abs=1e-300)
    assert sde.marginal(torch.empty(0))[0].shape == (0,)


@given(st.data(), linear_sdes(), shapes(), st.sampled_from([torch.float32, torch.float64]))
def test_perturb_and_drift(
    data: st.DataObject, sde: ss.LinearSDE, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    times = data.draw(st.lists(st.floats(0.01, 1.0), min_size=shape[0], max_size=shape[0]))
    t = torch.tensor(times, dtype=torch.float64) * sde.T
    x0, noise = states(shape, dtype, 1, 2)
    got, drift = sde.perturb(x0, t, noise), sde.drift(x0, t)
    assert got.dtype == drift.dtype == dtype and got.shape == drift.shape == x0.shape
    for i in range(shape[0]):
        alpha, sigma = (v.item() for v in sde.marginal(t[i]))
        expected = alpha * x0[i].double() + sigma * noise[i].double()
        scale = alpha * x0[i].double().abs() + sigma * noise[i].double().abs()
        bound = 4 * torch.finfo(dtype).eps * scale
        assert bool(((got[i].double() - expected).abs() <= bound).all())
        f = sde.rates(t[i])[0].item()
        torch.testing.assert_close(drift[i], (f * x0[i].double()).to(dtype), rtol=1e-6, atol=0)


def test_perturb_keeps_the_dtype_of_the_data_and_batch_zero() -> None:
    sde, x0 = ss.VPSDE(), torch.ones(2, 3)
    assert sde.perturb(x0, 0.5, torch.ones(2, 3).double()).dtype == torch.float32
    assert sde.perturb(torch.ones(0, 3), torch.empty(0), torch.ones(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("noise", [torch.ones(2, 1), torch.ones(3), torch.ones(2, 3).long()])
def test_perturb_refuses_noise_that_would_broadcast(noise: torch.Tensor) -> None:
    with pytest.raises(ss.errors.ShapeError, match="noise"):
        ss.VPSDE().perturb(torch.ones(2, 3), 0.5, noise)


# Prior.


@given(st.data(), linear_sdes(), shapes(), st.floats(0.0, 3.0))
@settings(max_examples=50)
def test_prior_log_prob_against_scipy(
    data: st.DataObject, sde: ss.LinearSDE, shape: tuple[int, ...], data_std: float
) -> None:
    (x,) = states(shape, torch.float64, 3, 1)
    alpha, sigma = (v.item() for v in sde.marginal(sde.T))
    std = math.sqrt(sigma**2 + alpha**2 * data_std**2)
    assert sde.prior_std(data_std) == pytest.approx(std, rel=1e-14)
    x = std * x
    expected = stats.norm(0, std).logpdf(x.numpy()).reshape(shape[0], -1).sum(1)
    got = sde.prior_log_prob(x, data_std=data_std)
    torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-12, atol=1e-11)


def test_prior_sample_is_scaled_noise_per_sample() -> None:
    sde = ss.VESDE(sigma_max=20.0)
    x = sde.prior_sample((4000, 3), seed=5, data_std=2.0)
    assert x.dtype == torch.float32 and x.shape == (4000, 3)
    torch.testing.assert_close(
        sde.prior_sample((7, 3), seed=5, data_std=2.0), x[:7], rtol=0, atol=0
    )
    # two-sided, alpha = 1e-6: the sum of squares is chi-square with 12,000 degrees of freedom
    low, high = stats.chi2(12000).ppf([5e-7, 1 - 5e-7])
    assert low < float((x.double() / math.hypot(20.0, 2.0)).square().sum()) < high
    assert sde.prior_sample((0, 3)).shape == (0, 3)
    assert sde.prior_sample((3,)).shape == (3,)
    assert sde.prior_sample((3,), dtype=torch.float64).dtype == torch.float64
    assert not torch.equal(sde.prior_sample((3,), seed=1), sde.prior_sample((3,), seed=2))
    assert sde.prior_log_prob(torch.ones(0, 3)).shape == (0,)
    with pytest.raises(ss.errors.ShapeError, match="batch"):
        sde.prior_sample(())
    with pytest.raises(ss.errors.ShapeError, match="floating"):
        sde.prior_log_prob(torch.ones(2, 3, dtype=torch.int64))


def test_a_prior_sample_is_independent_of_the_run_that_starts_from_it() -> None:
    """Equal seeds of ``prior_sample`` and ``sample`` share no number: |corr| at α = 1e-6."""
    n, sde = 20_000, ss.VPSDE()
    prior = sde.prior_sample((n,), seed=0)
    start = ss.PredictorCorrector(sde, predictor=ss.NoPredictor(), denoise=False, steps=1)
    x = start.sample(lambda x, t: -x, (n,), seed=0)
    moved = ss.PredictorCorrector(sde, predictor=ss.Ancestral(), steps=2)
    y = moved.sample(lambda x, t: 0 * x, init=torch.zeros(n), seed=0)
    correlation = np.corrcoef(torch.stack([prior, x, y]).numpy())
    assert abs(correlation[0, 1:]).max() < stats.norm.isf(5e-7 / 2) / math.sqrt(n)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_half_log_snr_and_noise_ratio_name_the_same_time(name: str) -> None:
    """``λ = log(α/σ)``, half the log-SNR and minus the logarithm of σ/α; the inverse is one."""
    sde = REPRESENTATIVES[name]
    t = sde.T * torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    alpha, sigma = sde.marginal(t)
    lam = sde.half_log_snr(t)
    torch.testing.assert_close(lam, torch.log(alpha / sigma), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(sde.noise_ratio(t), sigma / alpha, rtol=0, atol=0)
    torch.testing.assert_close(sde.time_at_half_log_snr(lam), t, rtol=1e-10, atol=0)
    assert sde.time_at_half_log_snr(lam[0].item()).item() == pytest.approx(t[0].item(), rel=1e-10)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_the_time_of_a_log_snr_has_the_derivative_of_an_inverse(name: str) -> None:
    """dt/dλ by autograd against the central difference, on SDEs that bisect as well."""
    sde = REPRESENTATIVES[name]
    lam = sde.half_log_snr(torch.tensor([0.31, 0.77], dtype=torch.float64) * sde.T)
    lam.requires_grad_()
    t = sde.time_at_half_log_snr(lam)
    assert t.requires_grad
    slope = torch.autograd.grad(t.sum(), lam)[0]
    h = 1e-4
    rise = sde.time_at_half_log_snr(lam.detach() + h) - sde.time_at_half_log_snr(lam.detach() - h)
    torch.testing.assert_close(slope, rise / (2 * h), rtol=1e-5, atol=0)
    with torch.no_grad():
        assert not sde.time_at_half_log_snr(lam).requires_grad


ONE, ID = torch.ones_like, torch.clone

NUMPY_SDES = [
    lambda number: ss.VPSDE(beta_min=number(1), beta_max=number(20)),
    lambda number: ss.SubVPSDE(beta_min=number(1), beta_max=number(20)),
    lambda number: ss.VESDE(sigma_min=number(1), sigma_max=number(50)),
    lambda number: ss.EDMSDE(sigma_min=number(1), sigma_max=number(80)),
    lambda number: ss.CosineVPSDE(offset=number(1), T=np.float32(0.3)),
    lambda number: ss.RectifiedFlowSDE(T=np.float32(0.5)),
    lambda number: ss.LinearSDE.from_marginal(ONE, lambda t: t, T=number(2), t_min=number(1)),
    lambda number: ss.sde.LangevinSDE(torch.neg, temperature=number(2), T=number(3)),
    lambda number: ss.VPSDE().reverse(lambda x, t: -x, eta=number(1)),
    lambda number: ss.DiscreteVPSDE.linear(np.int64(5), number(1) / 1000, number(1) / 50),
    lambda number: ss.DiscreteVESDE.geometric(
        sigma_max=number(9), sigma_min=number(1), levels=np.int64(4)
    ),
]


@pytest.mark.parametrize("make", NUMPY_SDES)
@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64, np.uint8])
def test_numpy_numbers_become_floats(make, number) -> None:
    """What an SDE holds is a float, so that it can be saved and its repr rebuilds it."""
    sde = make(number)
    fields = [getattr(sde, field.name) for field in dataclasses.fields(sde)]
    flat = [v for value in fields for v in (value if isinstance(value, tuple) else (value,))]
    assert {type(v) for v in flat if isinstance(v, (float, int, np.generic))} == {float}
    assert (type(sde.T), type(sde.t_min)) == (float, float) and "np." not in repr(sde)


@pytest.mark.parametrize("ends", [(0.01, 1e30), (1e-30, 1.0), (0.01, math.nan), (1.0, 1.0)])
@pytest.mark.parametrize("kind", [ss.VESDE, ss.EDMSDE])
def test_sigmas_that_float32_cannot_square_are_refused(kind: type, ends: tuple) -> None:
    with pytest.raises(ss.errors.ScheduleError, match="sigma_m"):
        kind(sigma_min=ends[0], sigma_max=ends[1])
    with pytest.raises(ss.errors.ScheduleError, match="sigmas"):
        ss.DiscreteVESDE(sigmas=ends[::-1])
    assert kind(sigma_min=1e-15, sigma_max=1e15).marginal(0.5)[1].isfinite()


@under_each_default
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_torchs_defaults_change_no_number(name: str, default) -> None:
    sde = REPRESENTATIVES[name]

    def all_numbers() -> list[torch.Tensor]:
        s, t, x = 0.3 * sde.T, 0.7 * sde.T, torch.ones(2, 1, dtype=torch.float32, device="cpu")
        reverse = sde.reverse(lambda x, t: -x)
        bridge, transition = sde.bridge(s, t), sde.transition(s, t)
        return [
            *sde.marginal(t),
            *sde.rates(t),
            sde.log_snr(t),
            sde.time_at_log_snr(sde.log_snr(t).item()),
            transition.scale,
            transition.variance,
            bridge.variance,
            sde.kernel(t)(x).sample(x),
            sde.prior_log_prob(x),
            sde.drift(x, t),
            reverse.drift(x, t),
            reverse.diffusion(t),
        ]

    expected = all_numbers()
    with torch_default(default):
        got = all_numbers()
        rebuilt = dataclasses.replace(sde)
        assert torch.equal(rebuilt.log_snr(0.3 * sde.T), sde.log_snr(0.3 * sde.T))
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype and one.device == other.device
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_complex_times_are_refused(name: str) -> None:
    sde = REPRESENTATIVES[name]
    for t in (torch.tensor(0.5 + 0.1j), 0.5 + 0.1j, 10**400):
        with pytest.raises(ss.errors.TimeError, match="real tensor"):
            sde.marginal(t)


# Values.


@given(st.one_of(continuous_sdes(), st.just(REPRESENTATIVES["discrete-vp"])))
def test_frozen_hashable_comparable_and_rebuilt_by_repr(sde: ss.LinearSDE) -> None:
    rebuilt = eval(repr(sde), {type(sde).__name__: type(sde)})
    assert rebuilt == sde and hash(rebuilt) == hash(sde) and rebuilt is not sde
    field = dataclasses.fields(sde)[-1].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(sde, field, 0.5)
    sde.marginal(0.5 * sde.T)
    assert rebuilt == sde and hash(rebuilt) == hash(sde)


def test_different_parameters_and_classes_differ() -> None:
    assert ss.VPSDE() != ss.VPSDE(beta_max=19.0)
    assert ss.VPSDE() != ss.SubVPSDE()
    assert len({ss.VPSDE(), ss.VPSDE(), ss.SubVPSDE(), ss.VESDE()}) == 3


BAD_PARAMETERS = [
    (ss.VESDE, {"sigma_min": 0.0}, "sigma_min=0.0"),
    (ss.VESDE, {"sigma_min": -1.0}, "sigma_min=-1.0"),
    (ss.VESDE, {"sigma_min": 2.0, "sigma_max": 2.0}, "sigma_min=2.0"),
    (ss.VESDE, {"sigma_max": math.inf}, "sigma_max=inf"),
    (ss.VESDE, {"sigma_min": math.nan}, "sigma_min=nan"),
    (ss.VESDE, {"sigma_min": "0.1"}, "sigma_min='0.1', which is no Python number"),
    (ss.EDMSDE, {"sigma_max": torch.tensor(9.0)}, "tensor(9.), which is no Python number; use"),
    (ss.VPSDE, {"beta_min": -0.1}, "beta_min=-0.1"),
    (ss.VPSDE, {"beta_min": 30.0}, "beta_min=30.0"),
    (ss.VPSDE, {"beta_min": 0.0, "beta_max": 0.0}, "beta_max=0.0"),
    (ss.VPSDE, {"beta_max": math.nan}, "beta_max=nan"),
    (ss.VPSDE, {"beta_max": None}, "beta_max=None"),
    (ss.SubVPSDE, {"beta_min": -0.1}, "beta_min=-0.1"),
    (ss.SubVPSDE, {"beta_max": math.inf}, "beta_max=inf"),
    (ss.CosineVPSDE, {"offset": 0.0}, "offset=0.0"),
    (ss.CosineVPSDE, {"T": 1.0}, "T=1.0"),
    (ss.CosineVPSDE, {"T": 1e-3}, "T=0.001"),
    (ss.CosineVPSDE, {"offset": math.nan}, "offset=nan"),
    (ss.EDMSDE, {"sigma_min": 0.0}, "sigma_min=0.0"),
    (ss.EDMSDE, {"sigma_min": 3.0, "sigma_max": 1.0}, "sigma_min=3.0"),
    (ss.EDMSDE, {"sigma_max": math.inf}, "sigma_max=inf"),
    (ss.RectifiedFlowSDE, {"T": 1.0}, "T=1.0"),
    (ss.RectifiedFlowSDE, {"T": 0.0}, "T=0.0"),
    (ss.RectifiedFlowSDE, {"T": math.nan}, "T=nan"),
]


@pytest.mark.parametrize(("kind", "parameters", "got"), BAD_PARAMETERS)
def test_bad_parameters_are_schedule_errors(kind: type, parameters: dict, got: str) -> None:
    with pytest.raises(ss.errors.ScheduleError, match="expected") as caught:
        kind(**parameters)
    assert got in str(caught.value)


def test_misspelt_and_positional_parameters_are_type_errors() -> None:
    with pytest.raises(TypeError):
        ss.VPSDE(beta_mn=0.1)
    with pytest.raises(TypeError):
        ss.VPSDE(0.1, 20.0)


BAD_MARGINALS = [
    (lambda t: -ONE(t), ID, {}, r"alpha\(t\) > 0"),
    (lambda t: 1 - 2 * t, ID, {}, r"alpha\(t\) > 0"),
    (ONE, lambda t: t - 0.5, {}, r"sigma\(t\) >= 0"),
    (ONE, ONE, {}, "rise"),
    (ONE, lambda t: 1 - t, {}, "rise"),
    (ONE, lambda t: t * math.nan, {}, "nan"),
    (lambda t: 1.0, ID, {}, "float"),
    (lambda t: torch.ones(3), ID, {}, "elementwise"),
    (ONE, ID, {"T": 0.0}, "T=0.0"),
    (ONE, ID, {"T": math.inf}, "T=inf"),
    (ONE, ID, {"T": 1.0, "t_min": 1.0}, "t_min=1.0"),
    (ONE, ID, {"t_min": -0.1}, "t_min=-0.1"),
]


@pytest.mark.parametrize(("alpha", "sigma", "options", "message"), BAD_MARGINALS)
def test_bad_marginals_are_schedule_errors(alpha, sigma, options: dict, message: str) -> None:
    with pytest.raises(ss.errors.ScheduleError, match=message):
        ss.LinearSDE.from_marginal(alpha, sigma, **options)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_bad_times_are_time_errors(name: str) -> None:
    sde = REPRESENTATIVES[name]
    x = torch.ones(2, 3)
    for t in (-1e-3, sde.T * 1.001, math.nan, torch.tensor([0.1, -0.1]), "0.5", None):
        for call in (sde.marginal, sde.rates, sde.log_snr, sde.kernel, sde.diffusion):
            with pytest.raises(ss.errors.TimeError, match="expected"):
                call(t)
        with pytest.raises(ss.errors.TimeError):
            sde.drift(x, t)
        with pytest.raises(ss.errors.TimeError):
            sde.perturb(x, t, x)
    with pytest.raises(ss.errors.TimeError, match=r"T = .*got"):
        sde.marginal(sde.T + 1.0)
    for t in (torch.tensor([0.1, 0.2, 0.3]), torch.full((2, 1), 0.1)):
        with pytest.raises(ss.errors.ShapeError, match="got"):
            sde.perturb(x, t, x)


@given(log_uniform(1e-3, 1.0))
def test_a_user_sde_needs_three_members(rate: float) -> None:
    class Logistic(ss.SDE):
        T = 1.0

        def drift(self, x: torch.Tensor, t: float) -> torch.Tensor:
            return rate * x * (1 - x)

        def diffusion(self, t: float) -> torch.Tensor:
            return torch.tensor(0.3)

    sde = Logistic()
    assert sde.t_min == 0.0
    reverse = sde.reverse(lambda x, t: -x)
    x = torch.full((2, 1), 0.5)
    expected = rate * 0.25 + 0.09 * 0.5
    assert reverse.drift(x, 0.5)[0].item() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(TypeError):
        ss.SDE()
