"""Transition and bridge kernels: semigroup, mpmath, Bayes' identity, DDPM's equations 6 and 7."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import sdescore as ss
from tests.helpers.strategies import (
    EPS,
    REPRESENTATIVES,
    continuous_sdes,
    dtypes,
    linear_sdes,
    ordered_times,
    paper_marginal,
    shapes,
    states,
)

pytestmark = pytest.mark.fast

mpmath.mp.dps = 50


def conditioning(sde: ss.LinearSDE, s: float, t: float) -> float:
    """How many eps the variance of ``x_t | x_s`` may lose beyond its formula's own.

    Closed forms lose none. A table's B (or log σ) is a stored number y, so a rise over several
    cells carries eps·|y_t| absolutely, that is eps·|y_t|/(y_t − y_s) relatively. A user's pair
    gives only σ_t² − a²σ_s², whose terms carry eps σ_t².
    """
    sigma_s, sigma_t = sde.marginal(s)[1], sde.marginal(t)[1]
    if isinstance(sde, ss.DiscreteVPSDE):
        low, high = (-2 * sde.marginal(u)[0].log().item() for u in (s, t))
        return 8 * high / max(high - low, 1e-300)
    if isinstance(sde, ss.DiscreteVESDE):
        low, high = sigma_s.log().item(), sigma_t.log().item()
        size = max(abs(math.log(v)) for v in sde.sigmas)
        return 8 * size * (1 + 1 / max(high - low, 1e-300))
    if type(sde).__name__ == "MarginalSDE":
        return 8 * (sigma_t.square() / sde.transition(s, t).variance).item()
    return 0.0


@pytest.mark.guards("B02")
@given(st.data(), linear_sdes())
def test_semigroup(data: st.DataObject, sde: ss.LinearSDE) -> None:
    r, s, t = data.draw(ordered_times(sde, 3))
    if sde.transition(r, s).variance == 0 or sde.transition(s, t).variance == 0:
        return  # times so close that a user's σ_t² − a²σ_s² is all rounding
    rs, st_, rt = sde.transition(r, s), sde.transition(s, t), sde.transition(r, t)
    eps = EPS * (32 + conditioning(sde, r, t))
    scale = (rs.scale * st_.scale).item()
    variance = (st_.scale.square() * rs.variance + st_.variance).item()
    # α = e^{−B/2}: an absolute error eps·B of a table's B is a relative one of α
    stored = -2 * sde.marginal(t)[0].log().item() if isinstance(sde, ss.DiscreteVPSDE) else 0.0
    assert abs(scale - rt.scale.item()) <= EPS * (32 + 8 * stored) * scale
    assert abs(variance - rt.variance.item()) <= eps * variance


@pytest.mark.guards("T02")
@given(st.data(), continuous_sdes())
def test_transition_against_the_papers_in_mpmath(data: st.DataObject, sde: ss.LinearSDE) -> None:
    s, t = data.draw(ordered_times(sde, 2, low=1e-7))
    marginal = paper_marginal(sde)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = marginal(mpmath.mpf(s)), marginal(mpmath.mpf(t))
    a = alpha_t / alpha_s
    variance = sigma_t**2 - a**2 * sigma_s**2
    got = sde.transition(s, t)
    assert abs(got.scale.item() / float(a) - 1) <= 32 * EPS
    assert abs(got.variance.item() / float(variance) - 1) <= 64 * EPS


@given(st.sampled_from(["flow", "cosine"]), st.floats(0.99, 0.99999), st.floats(0.99, 0.99999))
def test_transition_near_a_singular_end(name: str, u: float, v: float) -> None:
    """t + s − 2st and sin(θ_s + θ_t) cancel there; the factored forms keep every digit."""
    T = 0.9999
    sde = {"flow": ss.RectifiedFlowSDE(T=T), "cosine": ss.CosineVPSDE(T=T)}[name]
    s, t = sorted((u * T, v * T))
    if s == t:
        return
    marginal = paper_marginal(sde)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = marginal(mpmath.mpf(s)), marginal(mpmath.mpf(t))
    variance = sigma_t**2 - (alpha_t / alpha_s) ** 2 * sigma_s**2
    assert abs(sde.transition(s, t).variance.item() / float(variance) - 1) <= 16 * EPS


@given(st.data(), linear_sdes())
def test_transition_agrees_with_the_marginals(data: st.DataObject, sde: ss.LinearSDE) -> None:
    s, t = data.draw(ordered_times(sde, 2))
    kernel = sde.transition(s, t)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = sde.marginal(s), sde.marginal(t)
    torch.testing.assert_close(kernel.scale * alpha_s, alpha_t, rtol=1e-12, atol=0)
    total = kernel.scale.square() * sigma_s.square() + kernel.variance
    torch.testing.assert_close(total, sigma_t.square(), rtol=1e-12, atol=0)
    still = sde.transition(s, s)
    assert still.scale.item() == pytest.approx(1.0, abs=2 * EPS) and still.variance == 0


# The bridge.


@given(st.data(), linear_sdes(), shapes())
def test_bayes_identity(data: st.DataObject, sde: ss.LinearSDE, shape: tuple[int, ...]) -> None:
    """log p(x_s|x_t,x_0) + log p(x_t|x_0) = log p(x_t|x_s) + log p(x_s|x_0)."""
    s = data.draw(st.floats(1e-3, 0.9)) * sde.T
    t = min(s * data.draw(st.floats(1.05, 20.0)), sde.T)
    x0, e1, e2 = states(shape, torch.float64, 4, 3)
    x_s = sde.kernel(s)(x0).sample(e1)
    x_t = sde.transition(s, t)(x_s).sample(e2)
    bridge = sde.bridge(s, t)(x_t, x0=x0)
    left = bridge.log_prob(x_s) + sde.kernel(t)(x0).log_prob(x_t)
    right = sde.transition(s, t)(x_s).log_prob(x_t) + sde.kernel(s)(x0).log_prob(x_s)
    # each standardised residual carries eps |x| / std; residuals themselves are a few units
    stds = [bridge.std, sde.kernel(s)(x0).std, sde.transition(s, t)(x_s).std]
    size = max(v.abs().max().item() for v in (x0, x_s, x_t))
    bound = 1e-14 * x0[0].numel() * (100 + 200 * sum(size / v.min().item() for v in stds))
    bound += EPS * conditioning(sde, s, t) * 20 * x0[0].numel()
    assert bool(((left - right).abs() <= bound).all())


@given(st.data(), linear_sdes(), shapes())
def test_three_forms_of_the_bridge_agree(
    data: st.DataObject, sde: ss.LinearSDE, shape: tuple[int, ...]
) -> None:
    s, t = data.draw(ordered_times(sde, 2, low=1e-3))
    x0, noise = states(shape, torch.float64, 5, 2)
    alpha, sigma = sde.marginal(t)
    x = alpha * x0 + sigma * noise
    bridge = sde.bridge(s, t)
    forms = [
        bridge(x, x0=x0),
        bridge(x, epsilon=noise),
        bridge(x, score=-noise / sigma),
    ]
    a, v = bridge.scale.item(), bridge.added_variance.item()
    size = x.abs() / a + v / (sigma.item() * a) * noise.abs() + x0.abs()
    condition = EPS * conditioning(sde, s, t)
    for form in forms[1:]:
        assert bool(((form.mean - forms[0].mean).abs() <= (1e-13 + condition) * size).all())
        assert torch.equal(form.variance, forms[0].variance)


@given(st.data(), linear_sdes())
def test_bridge_at_its_own_end_is_the_state(data: st.DataObject, sde: ss.LinearSDE) -> None:
    (t,) = data.draw(ordered_times(sde, 1))
    x0, x = states((2, 3), torch.float64, 6, 2)
    distribution = sde.bridge(t, t)(x, x0=x0)
    torch.testing.assert_close(distribution.mean, x, rtol=1e-13, atol=1e-15)
    assert bool((distribution.variance == 0).all())


@pytest.mark.guards("T09")
def test_bridge_to_time_zero_is_the_datum() -> None:
    x0, x = states((2, 3), torch.float64, 7, 2)
    distribution = ss.VPSDE().bridge(0.0, 0.5)(x, x0=x0)
    torch.testing.assert_close(distribution.mean, x0, rtol=1e-14, atol=0)
    assert bool((distribution.variance == 0).all())


def test_ddpm_posterior_equations_6_and_7() -> None:
    """DDPM's own table, cumulative products in extended precision."""
    beta = np.linspace(1e-4, 0.02, 1000, dtype=np.longdouble)
    bar = np.cumprod(1 - beta)
    previous = np.concatenate([[np.longdouble(1)], bar[:-1]])
    sde = ss.DiscreteVPSDE(betas=tuple(beta.astype(float).tolist()))
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    s = torch.arange(0, 1000, dtype=torch.float64) / 1000
    got = sde.bridge(s, t)
    on_x0 = np.sqrt(previous) * beta / (1 - bar)
    on_x = np.sqrt(1 - beta) * (1 - previous) / (1 - bar)
    variance = (1 - previous) / (1 - bar) * beta
    for name, expected in (("weight_0", on_x0), ("weight_t", on_x), ("variance", variance)):
        np.testing.assert_allclose(getattr(got, name).numpy(), expected.astype(float), rtol=3e-12)
    assert got.variance[0] == 0
    kernel = sde.transition(s, t)
    np.testing.assert_allclose(kernel.variance.numpy(), beta.astype(float), rtol=3e-12)
    np.testing.assert_allclose(kernel.scale.numpy(), np.sqrt(1 - beta).astype(float), rtol=1e-14)


# Gaussians.


@given(st.data(), linear_sdes(), shapes())
def test_log_prob_and_score(data: st.DataObject, sde: ss.LinearSDE, shape: tuple[int, ...]) -> None:
    times = data.draw(st.lists(st.floats(0.01, 1.0), min_size=shape[0], max_size=shape[0]))
    t = torch.tensor(times, dtype=torch.float64) * sde.T
    x0, noise = states(shape, torch.float64, 8, 2)
    distribution = sde.kernel(t)(x0)
    x = distribution.sample(noise).requires_grad_()
    log_prob = distribution.log_prob(x)
    alpha, sigma = (v.reshape(-1, *(1,) * (len(shape) - 1)) for v in sde.marginal(t))
    expected = stats.norm(alpha * x0, sigma).logpdf(x.detach().numpy())
    expected = torch.as_tensor(expected).reshape(shape[0], -1).sum(1)
    torch.testing.assert_close(log_prob.detach(), expected, rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(log_prob.sum(), x)
    torch.testing.assert_close(distribution.score(x).detach(), gradient, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(distribution.std.square(), distribution.variance)


@given(dtypes(), st.sampled_from(["ve", "vp", "edm", "flow"]), st.floats(0.002, 1.0))
def test_kernels_keep_dtype_and_do_not_underflow(dtype: torch.dtype, name: str, u: float) -> None:
    """In float16 σ = 1e-4 squares to 0 and σ = 300 to infinity: the variance stays in float64."""
    sde = {**REPRESENTATIVES, "ve": ss.VESDE(sigma_max=3000.0, sigma_min=1e-4)}[name]
    t = u * sde.T
    alpha, sigma = (v.item() for v in sde.marginal(t))
    x0, noise = states((3, 2), dtype, 9, 2)
    distribution = sde.kernel(t)(x0)
    x = distribution.sample(noise)
    assert x.dtype == distribution.mean.dtype == distribution.score(x).dtype == dtype
    expected = alpha * x0.double() + sigma * noise.double()
    scale = alpha * x0.double().abs() + sigma * noise.double().abs()
    bound = 3 * torch.finfo(dtype).eps * scale + torch.finfo(dtype).tiny
    assert bool(((x.double() - expected).abs() <= bound).all())
    log_prob = distribution.log_prob(x)
    assert bool(log_prob.isfinite().all())
    assert log_prob.dtype == torch.promote_types(dtype, torch.float32)


def test_batch_of_times_and_batch_zero() -> None:
    sde = ss.VPSDE()
    s, t = torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.4])
    x0, x = states((2, 3), torch.float64, 10, 2)
    distribution, step = sde.bridge(s, t)(x, x0=x0), sde.transition(s, t)(x)
    mixed = sde.transition(0.1, t)(x)
    for i in range(2):
        one = sde.bridge(s[i], t[i])(x[i : i + 1], x0=x0[i : i + 1])
        torch.testing.assert_close(distribution.mean[i : i + 1], one.mean)
        torch.testing.assert_close(
            distribution.variance[i], one.variance.expand_as(distribution.variance[i])
        )
        alone = sde.transition(s[i], t[i])(x[i : i + 1])
        torch.testing.assert_close(step.mean[i : i + 1], alone.mean)
        torch.testing.assert_close(
            mixed.mean[i : i + 1], sde.transition(0.1, t[i])(x[i : i + 1]).mean
        )
    empty = torch.ones(0, 3)
    assert sde.kernel(0.5)(empty).log_prob(empty).shape == (0,)
    assert sde.bridge(0.1, 0.5)(empty, x0=empty).mean.shape == (0, 3)


def test_bridge_of_a_noiseless_state_is_refused_not_nan() -> None:
    with pytest.raises(ss.errors.TimeError, match="no noise"):
        ss.VPSDE().bridge(0.0, 0.0)
    assert ss.VESDE().bridge(0.0, 0.0).variance == 0
