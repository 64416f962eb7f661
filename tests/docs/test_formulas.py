"""Formulas that are often printed wrong: the theory pages' form holds, and the slip does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdescore as ss
from tests.helpers import ROOT


def test_the_equations_named_here_stand_on_a_theory_page() -> None:
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs" / "theory").glob("*.md"))
    named = re.findall(r"\{eq\}`([\w-]+)`", Path(__file__).read_text("utf-8"))
    assert len(named) > 9 and all(pages.count(f"$$ ({label})\n") == 1 for label in named)


SCALARS = st.floats(0.1, 0.9)


def gaussian_log_prob(x: torch.Tensor, mean: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.distributions.Normal(mean, sigma).log_prob(x).sum()


@given(sigma=SCALARS)
def test_the_kernels_score_has_sigma_once(sigma: float) -> None:
    """{eq}`score-expectation`."""
    clean, z = torch.randn(2, 7, dtype=torch.float64).unbind()
    noised = clean + sigma * z
    score = torch.func.grad(gaussian_log_prob)(noised, clean, sigma)
    assert torch.allclose(score, -z / sigma)
    assert not torch.allclose(score, -z / sigma**2)
    sde = ss.EDMSDE(sigma_min=0.01, sigma_max=1.0)
    assert torch.allclose(sde.kernel(sigma)(clean[None]).score(noised[None])[0], score)


@given(beta=SCALARS, before=SCALARS)
def test_the_posterior_mean_has_sigma_with_epsilon_only(beta: float, before: float) -> None:
    """{eq}`bridge-score`. The oracle is the posterior in x₀, {eq}`bridge-x0`."""
    x0, epsilon = torch.randn(2, 5, dtype=torch.float64).unbind()
    alpha, bar = 1 - beta, before * (1 - beta)
    x = bar**0.5 * x0 + (1 - bar) ** 0.5 * epsilon
    oracle = (alpha**0.5 * (1 - before) * x + before**0.5 * beta * x0) / (1 - bar)
    score = -epsilon / (1 - bar) ** 0.5
    assert torch.allclose((x + beta * score) / alpha**0.5, oracle)
    assert torch.allclose((x - beta / (1 - bar) ** 0.5 * epsilon) / alpha**0.5, oracle)
    slip = (x - beta / (1 - bar) ** 0.5 * score) / alpha**0.5
    assert not torch.allclose(slip, oracle)
    sde = ss.DiscreteVPSDE(betas=(1 - before, beta))
    for form in ({"x0": x0}, {"epsilon": epsilon}, {"score": score}):
        given_one = {name: value[None] for name, value in form.items()}
        assert torch.allclose(sde.bridge(0.5, 1.0)(x[None], **given_one).mean[0], oracle)


def test_only_the_squared_norm_is_least_at_the_score() -> None:
    """{eq}`esm`. Data at 0 or 1: the square's minimiser is the score, the plain norm's a median."""
    sde, x, t = ss.EDMSDE(sigma_min=0.01, sigma_max=5.0), 0.9, 1.0
    score = ss.EmpiricalScore(torch.tensor([[0.0], [1.0]], dtype=torch.float64), sde)
    exact = score(torch.tensor([[x]], dtype=torch.float64), t).item()
    targets = torch.tensor([-(x - 0.0), -(x - 1.0)], dtype=torch.float64) / t**2
    weights = torch.softmax(torch.tensor([-(x**2) / 2, -((x - 1) ** 2) / 2]).double(), 0)
    candidates = torch.linspace(-1, 0.2, 1201, dtype=torch.float64)
    misfit = candidates[:, None] - targets
    squared = candidates[(misfit.square() @ weights).argmin()].item()
    plain = candidates[(misfit.abs() @ weights).argmin()].item()
    assert abs(squared - exact) <= 0.001
    assert abs(plain - exact) > 0.1


def test_a_rising_ladder_is_refused() -> None:
    """{eq}`overlap`."""
    assert ss.DiscreteVESDE(sigmas=(1.0, 0.1, 0.01)).level(0.0).item() == 2
    with pytest.raises(ss.errors.ScheduleError, match="strictly decreasing"):
        ss.DiscreteVESDE(sigmas=(0.01, 0.1, 1.0))


def test_the_kernels_score_is_the_marginals_only_in_expectation() -> None:
    """{eq}`score-expectation`."""
    sde = ss.VPSDE()
    data = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    x = torch.tensor([[0.3]], dtype=torch.float64)
    alpha, sigma = sde.marginal(0.4)
    kernel = -(x - alpha * data) / sigma**2  # one for each datum
    likelihood = torch.softmax(-((x - alpha * data) ** 2) / (2 * sigma**2), dim=0)
    marginal = ss.EmpiricalScore(data, sde)(x, 0.4)
    assert torch.allclose((likelihood * kernel).sum(0, keepdim=True), marginal)
    assert (kernel - marginal).abs().min() > 0.1


def test_the_noised_distribution_is_centred_on_the_shrunk_datum() -> None:
    """{eq}`discrete-marginals`."""
    sde = ss.DiscreteVPSDE.linear()
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    kernel = sde.kernel(sde.level_times())
    assert torch.allclose(kernel.scale, bar.sqrt(), rtol=1e-12)
    assert torch.allclose(kernel.variance, 1 - bar, rtol=1e-9)
    assert (kernel.scale[500] - 1).abs() > 0.5


def test_the_euler_step_shrinks_by_one_minus_half_beta_dt() -> None:
    """{eq}`vp-limit`."""
    sde, h = ss.VPSDE(), 1e-4
    beta = sde.rates(0.5)[1].item()
    x = torch.ones(1, 1, dtype=torch.float64)
    exact = sde.transition(0.5, 0.5 + h).scale.item()
    step = ss.simulate(
        sde, x, times=[0.5, 0.5 + h], noise=ss.noise.ReplayNoise(torch.zeros(2, 1, 1))
    ).item()
    assert abs(1 - 0.5 * beta * h - exact) < 1e-6
    assert abs(step - (1 - 0.5 * beta * h)) < 1e-12
    assert abs((1 - 0.5 * beta) * h - exact) > 0.9


@given(tau=SCALARS)
def test_one_langevin_step_in_both_conventions(tau: float) -> None:
    """{eq}`langevin-epsilon`: ε = 2τ, and the noise of one with the drift of the other differs."""
    x, s, z = torch.randn(3, 4, dtype=torch.float64).unbind()
    epsilon = 2 * tau
    one = x + tau * s + (2 * tau) ** 0.5 * z
    assert torch.allclose(one, x + 0.5 * epsilon * s + epsilon**0.5 * z)
    assert not torch.allclose(one, x + tau * s + tau**0.5 * z)
    sde, times = ss.EDMSDE(sigma_min=0.5, sigma_max=2.0), torch.tensor([2.0, 1.0, 0.5]).double()
    numbers = ss.AnnealedLangevin(epsilon=epsilon, steps=1).tableau(sde, times)
    assert torch.allclose(numbers.b.flatten()[-1:], torch.tensor([tau]).double())
    assert torch.allclose(numbers.c.flatten().square(), 2 * numbers.b.flatten())
    stationary = 2 * tau / (1 - (1 - tau) ** 2)  # on N(0, 1)
    assert abs(stationary - 1 / (1 - tau / 2)) < 1e-12


def test_the_two_losses_differ_by_a_constant() -> None:
    """{eq}`dsm`. Two data, by quadrature: J_DSM − J_ESM is one number for two scores, not 0."""
    sde, t = ss.VPSDE(), 0.3
    data = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    exact = ss.EmpiricalScore(data, sde)
    alpha, sigma = (v.item() for v in sde.marginal(t))
    x = torch.linspace(-8, 8, 40001, dtype=torch.float64)[:, None]
    dx = (x[1] - x[0]).item()
    weight = 0.5 * torch.distributions.Normal(alpha * data.T, sigma).log_prob(x).exp() * dx
    kernel = -(x - alpha * data.T) / sigma**2
    density = weight.sum(1, keepdim=True)
    constant = 0.5 * (alpha**2 / sigma**4) * (density * exact.covariance(x, t)[:, 0]).sum().item()
    for score in (-x, torch.sin(x)):
        dsm = 0.5 * (weight * (score - kernel).square()).sum().item()
        esm = 0.5 * (density * (score - exact(x, t)).square()).sum().item()
        assert abs(dsm - esm - constant) < 1e-8 * constant
    assert constant > 0.1
