"""One step of each multistage predictor against its paper, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.predictors.exponential_runge_kutta import ExponentialRungeKutta
from sdescore.predictors.runge_kutta import Heun, RungeKutta4
from sdescore.predictors.stochastic_heun import StochasticHeun
from tests.helpers.multistage import (
    EVERY,
    SDES,
    VP,
    chain,
)
from tests.helpers.strategies import REPRESENTATIVES


def bent(x: float, t: float) -> float:
    """A score, with no distribution behind it."""
    return -math.tanh(0.8 * x) - 0.3 * x * t + 0.2 * math.cos(3 * t)


class ByHand:
    """What the papers write a step with: α, σ, λ = log(α/σ), and times at a λ."""

    def __init__(self, sde: ss.LinearSDE) -> None:
        self.sde = sde

    def alpha(self, t: float) -> float:
        return self.sde.marginal(t)[0].item()

    def sigma(self, t: float) -> float:
        return self.sde.marginal(t)[1].item()

    def lam(self, t: float) -> float:
        return math.log(self.alpha(t) / self.sigma(t))

    def at(self, lam: float) -> float:
        """Bisection on λ, which falls."""
        low, high = 0.0, self.sde.T
        for _ in range(200):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.lam(middle) > lam else (low, middle)
        return 0.5 * (low + high)

    def epsilon(self, x: float, t: float) -> float:
        return -self.sigma(t) * bent(x, t)

    def x0(self, x: float, t: float) -> float:
        return (x + self.sigma(t) ** 2 * bent(x, t)) / self.alpha(t)


def dpm_solver_2(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
    """Lu et al. 2022a, algorithm 1."""
    h = p.lam(s) - p.lam(t)
    m = p.at((p.lam(t) + p.lam(s)) / 2)
    u = p.alpha(m) / p.alpha(t) * x - p.sigma(m) * math.expm1(h / 2) * p.epsilon(x, t)
    return p.alpha(s) / p.alpha(t) * x - p.sigma(s) * math.expm1(h) * p.epsilon(u, m)


def dpm_solver_3(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
    """Lu et al. 2022a, algorithm 2, r₁ = 1/3 and r₂ = 2/3."""
    h, r1, r2 = p.lam(s) - p.lam(t), 1 / 3, 2 / 3
    s1, s2 = p.at(p.lam(t) + r1 * h), p.at(p.lam(t) + r2 * h)
    start = p.epsilon(x, t)
    u1 = p.alpha(s1) / p.alpha(t) * x - p.sigma(s1) * math.expm1(r1 * h) * start
    d1 = p.epsilon(u1, s1) - start
    u2 = (
        p.alpha(s2) / p.alpha(t) * x
        - p.sigma(s2) * math.expm1(r2 * h) * start
        - p.sigma(s2) * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
    )
    d2 = p.epsilon(u2, s2) - start
    return (
        p.alpha(s) / p.alpha(t) * x
        - p.sigma(s) * math.expm1(h) * start
        - p.sigma(s) / r2 * (math.expm1(h) / h - 1) * d2
    )


def dpm_solver_plus_2s(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
    """Lu et al. 2022b, algorithm 1, r = 1/2."""
    h, r = p.lam(s) - p.lam(t), 0.5
    m = p.at(p.lam(t) + r * h)
    u = p.sigma(m) / p.sigma(t) * x - p.alpha(m) * math.expm1(-r * h) * p.x0(x, t)
    d = (1 - 1 / (2 * r)) * p.x0(x, t) + 1 / (2 * r) * p.x0(u, m)
    return p.sigma(s) / p.sigma(t) * x - p.alpha(s) * math.expm1(-h) * d


def seeds_2(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
    """Gonzalez et al. 2023, algorithm 2, r = 1/2."""
    h = p.lam(s) - p.lam(t)
    m = p.at(p.lam(t) + h / 2)
    u = (
        p.alpha(m) / p.alpha(t) * x
        - 2 * p.sigma(m) * math.expm1(h / 2) * p.epsilon(x, t)
        + p.sigma(m) * math.sqrt(math.expm1(h)) * z[0]
    )
    noise = math.sqrt(math.exp(2 * h) - math.exp(h)) * z[0] + math.sqrt(math.expm1(h)) * z[1]
    return (
        p.alpha(s) / p.alpha(t) * x
        - 2 * p.sigma(s) * math.expm1(h) * p.epsilon(u, m)
        + p.sigma(s) * noise
    )


def seeds_3(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
    """Gonzalez et al. 2023, algorithm 3, r₁ = 1/3 and r₂ = 2/3."""
    h, r1, r2 = p.lam(s) - p.lam(t), 1 / 3, 2 / 3
    s1, s2 = p.at(p.lam(t) + r1 * h), p.at(p.lam(t) + r2 * h)
    start = p.epsilon(x, t)

    def gap(a: float, b: float) -> float:
        return math.sqrt(math.exp(2 * a * h) - math.exp(2 * b * h))

    u1 = (
        p.alpha(s1) / p.alpha(t) * x
        - 2 * p.sigma(s1) * math.expm1(r1 * h) * start
        + p.sigma(s1) * gap(r1, 0) * z[0]
    )
    d1 = p.epsilon(u1, s1) - start
    u2 = (
        p.alpha(s2) / p.alpha(t) * x
        - 2 * p.sigma(s2) * math.expm1(r2 * h) * start
        - 2 * p.sigma(s2) * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
        + p.sigma(s2) * (gap(r2, r1) * z[0] + gap(r1, 0) * z[1])
    )
    d2 = p.epsilon(u2, s2) - start
    return (
        p.alpha(s) / p.alpha(t) * x
        - 2 * p.sigma(s) * math.expm1(h) * start
        - 2 * p.sigma(s) / r2 * (math.expm1(h) / h - 1) * d2
        + p.sigma(s) * (gap(1, r2) * z[0] + gap(r2, r1) * z[1] + gap(r1, 0) * z[2])
    )


def classical_runge_kutta(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
    """Kutta's method on dy/dr = ε̂(α y, r), y = x/α, r = σ/α."""

    def slope_at(y: float, noise_ratio: float) -> float:
        time = p.at(-math.log(noise_ratio))
        return p.epsilon(p.alpha(time) * y, time)

    y, noise_ratio = x / p.alpha(t), math.exp(-p.lam(t))
    h = math.exp(-p.lam(s)) - noise_ratio
    k1 = slope_at(y, noise_ratio)
    k2 = slope_at(y + h / 2 * k1, noise_ratio + h / 2)
    k3 = slope_at(y + h / 2 * k2, noise_ratio + h / 2)
    k4 = slope_at(y + h * k3, noise_ratio + h)
    return p.alpha(s) * (y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))


def heun_on_the_reverse_sde(
    eta: float,
) -> Callable[[ByHand, float, float, float, list[float]], float]:
    def step(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
        reverse = p.sde.reverse(
            lambda y, time: y.clone().apply_(lambda v: bent(v, float(time))), eta
        )

        def drift(y: float, time: float) -> float:
            return reverse.drift(torch.tensor([y], dtype=torch.float64), time).item()

        h, g = t - s, [reverse.diffusion(u).item() for u in (t, s)]
        first = drift(x, t)
        y = x - h * first + g[0] * math.sqrt(h) * z[0]
        return x - h / 2 * (first + drift(y, s)) + (g[0] + g[1]) / 2 * math.sqrt(h) * z[0]

    return step


def edm_algorithm_2(
    churn: float, noise: float
) -> Callable[[ByHand, float, float, float, list[float]], float]:
    """Karras et al. 2022, one step of algorithm 2 for α = 1, σ = t, with γ given."""

    def step(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
        later = t + churn * t
        x = x + math.sqrt(later**2 - t**2) * noise * z[0]
        d = (x - p.x0(x, later)) / later
        y = x + (s - later) * d
        return x + (s - later) * (d + (y - p.x0(y, s)) / s) / 2

    return step


HALF = ss.EDMSDE(sigma_min=0.1, sigma_max=5.0)


STEPS = [
    ("DPM-Solver-2", VP, ExponentialRungeKutta(0.0, 2, "epsilon"), dpm_solver_2),
    ("DPM-Solver-3", VP, ExponentialRungeKutta(0.0, 3, "epsilon"), dpm_solver_3),
    ("DPM-Solver++(2S)", VP, ExponentialRungeKutta(0.0, 2, "x0"), dpm_solver_plus_2s),
    ("SEEDS-2", VP, ExponentialRungeKutta(1.0, 2, "epsilon"), seeds_2),
    ("SEEDS-3", VP, ExponentialRungeKutta(1.0, 3, "epsilon"), seeds_3),
    ("SEEDS-3 cosine", SDES["cosine"], ExponentialRungeKutta(1.0, 3, "epsilon"), seeds_3),
    ("Kutta", VP, RungeKutta4(), classical_runge_kutta),
    ("Kutta flow", SDES["flow"], RungeKutta4(), classical_runge_kutta),
    ("Roberts", VP, StochasticHeun(), heun_on_the_reverse_sde(1.0)),
    ("Roberts 0.6", SDES["flow"], StochasticHeun(0.6), heun_on_the_reverse_sde(0.6)),
    ("EDM", HALF, Heun(), edm_algorithm_2(0.0, 1.0)),
    # Two grid times are N = 2.
    ("EDM churn", HALF, Heun(s_churn=0.4, s_noise=1.1), edm_algorithm_2(0.2, 1.1)),
    ("EDM most churn", HALF, Heun(s_churn=9.0), edm_algorithm_2(math.sqrt(2) - 1, 1.0)),
]


@pytest.mark.parametrize(
    ("sde", "predictor", "paper"), [c[1:] for c in STEPS], ids=[c[0] for c in STEPS]
)
def test_one_step_is_the_papers(sde: ss.LinearSDE, predictor: ss.Predictor, paper) -> None:
    t, s = 0.6 * sde.T, 0.35 * sde.T
    sampler = chain(sde, predictor, [t, s])
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    z = torch.randn(len(sampler.program.spans), 5, dtype=torch.float64)

    def score(y: Tensor, time: Tensor) -> Tensor:
        return y.clone().apply_(lambda v: bent(v, time.item()))

    got = sampler.sample(score, init=x, noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    numbers = ByHand(sde)
    expected = [paper(numbers, x[i].item(), t, s, z[1:, i].tolist() + [0.0] * 3) for i in range(5)]
    torch.testing.assert_close(
        got, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-11
    )
    assert sampler.evaluations == predictor.evaluations
    assert predictor.stochastic == (len(sampler.program.spans) > 1)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_one_evaluation_is_ddim(name: str) -> None:
    sde = REPRESENTATIVES[name]
    times = sde.T * torch.tensor([1.0, 0.7, 0.2, 0.1], dtype=torch.float64)
    ddim = ss.DDIM().tableau(sde, times)
    sigma = sde.marginal(times[:-1])[1]
    numbers = ExponentialRungeKutta(0.0, 1, "epsilon").tableau(sde, times)
    torch.testing.assert_close(numbers.a, ddim.a, rtol=1e-12, atol=0.0)
    on_epsilon = -ddim.b[:, 0, 0] / sigma
    torch.testing.assert_close(numbers.b[:, 0, 0], on_epsilon, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "predictor", [p for p in EVERY if not isinstance(p, StochasticHeun)], ids=repr
)
@pytest.mark.parametrize("name", ["ve", "cosine", "trigonometric"])
def test_a_constant_output_has_the_exact_solution(name: str, predictor: ss.Predictor) -> None:
    """x̂₀ = m or ε̂ = m everywhere: the mean in closed form, at any step size.

    With r = σ/α, d(x/α) is (1 + η²)(x/α − m) dr/r or (1 + η²) m dr, up to noise. A churned
    step starts where the churn ends. :class:`StochasticHeun`, a method in t, is not exact.
    """
    sde, m, x = SDES[name], 0.7, 1.3
    t, s = sde.T * torch.tensor([0.8, 0.3], dtype=torch.float64)
    numbers = predictor.tableau(sde, torch.stack([t, s]))
    got = numbers.a[0, -1] * x + m * numbers.b[0, -1].sum()
    (alpha_t, _), (alpha_s, sigma_s) = sde.marginal(t), sde.marginal(s)
    alpha_start, sigma_start = sde.marginal(numbers.times[0, 0])
    ratio_start, ratio_s, k = sigma_start / alpha_start, sigma_s / alpha_s, 1.0
    if isinstance(predictor, ExponentialRungeKutta):
        k += predictor.eta**2
    if numbers.output == "x0":
        expected = m + (x / alpha_t - m) * (ratio_s / ratio_start) ** k
    else:
        expected = x / alpha_t + k * m * (ratio_s - ratio_start)
    torch.testing.assert_close(got, alpha_s * expected, rtol=1e-11, atol=1e-12)
