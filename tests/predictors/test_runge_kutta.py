"""Heun's and Kutta's methods on the probability flow: one step by hand, and churn."""

from __future__ import annotations

import math

import pytest
import torch

import sdescore as ss
from sdescore.predictors.runge_kutta import Heun, RungeKutta4
from sdescore.score.mixture import GaussianScore
from tests.helpers.by_hand import ByHand, Paper, one_step_is
from tests.helpers.multistage import (
    MEAN,
    SDES,
    VARIANCE,
    VP,
    chain,
)
from tests.helpers.strategies import REPRESENTATIVES


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_no_churn_is_no_churn_bit_for_bit(name: str) -> None:
    sde = REPRESENTATIVES[name]
    score = GaussianScore(MEAN, VARIANCE, sde)
    grid = torch.linspace(sde.T, 0.05 * sde.T, 6, dtype=torch.float64)
    plain = chain(sde, Heun(), grid).sample(score, (4, 3), seed=3)
    assert torch.equal(
        chain(sde, Heun(s_churn=0.0, s_noise=1.2), grid).sample(score, (4, 3), seed=3), plain
    )
    nowhere = Heun(s_churn=5.0, s_max=0.0)
    assert torch.equal(chain(sde, nowhere, grid).sample(score, (4, 3), seed=3), plain)
    assert len(chain(sde, nowhere, grid).program.spans) == 1


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_churn_stays_within_the_sdes_time(name: str) -> None:
    sde = REPRESENTATIVES[name]
    grid = sde.T * torch.tensor([1.0, 0.999, 0.5, 0.2], dtype=torch.float64)
    numbers = Heun(s_churn=100.0).tableau(sde, grid)
    first = numbers.times[:, 0]
    assert first[0] == sde.T and numbers.start[1][0] == 0 and numbers.start[0][0] == 1
    assert (first[1:] > grid[1:-1]).all() and (first <= sde.T).all()
    noise_ratio = (-0.5 * sde.log_snr(torch.stack([grid[2], first[2]]))).exp()
    most = min(math.sqrt(2), ((-0.5 * sde.log_snr(sde.T)).exp() / noise_ratio[0]).item())
    assert noise_ratio[1] / noise_ratio[0] == pytest.approx(most, rel=1e-9)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_the_churned_state_has_the_exact_marginal(name: str) -> None:
    sde = REPRESENTATIVES[name]
    grid = sde.T * torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    numbers = Heun(s_churn=0.5).tableau(sde, grid)
    (alpha, sigma), (alpha_later, sigma_later) = (
        sde.marginal(grid[:-1]),
        sde.marginal(numbers.times[:, 0]),
    )
    a, c = numbers.start[0], numbers.start[1][:, 0]
    torch.testing.assert_close(a * alpha, alpha_later, rtol=1e-12, atol=0.0)
    torch.testing.assert_close((a * sigma) ** 2 + c**2, sigma_later**2, rtol=1e-10, atol=0.0)


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


def edm_algorithm_2(churn: float, noise: float) -> Paper:
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
    ("Kutta", VP, RungeKutta4(), classical_runge_kutta),
    ("Kutta flow", SDES["flow"], RungeKutta4(), classical_runge_kutta),
    ("EDM", HALF, Heun(), edm_algorithm_2(0.0, 1.0)),
    # Two grid times are N = 2.
    ("EDM churn", HALF, Heun(s_churn=0.4, s_noise=1.1), edm_algorithm_2(0.2, 1.1)),
    ("EDM most churn", HALF, Heun(s_churn=9.0), edm_algorithm_2(math.sqrt(2) - 1, 1.0)),
]


@pytest.mark.parametrize(
    ("sde", "predictor", "paper"), [c[1:] for c in STEPS], ids=[c[0] for c in STEPS]
)
def test_one_step_is_the_papers(sde: ss.LinearSDE, predictor: ss.Predictor, paper: Paper) -> None:
    one_step_is(paper, sde, predictor)


def test_churn_draws_are_off_the_path() -> None:
    sampler = ss.PredictorCorrector(VP, predictor=Heun(s_churn=3.0), steps=5)
    assert sampler.program.spans == [None] * 5  # the start, three moves below T, the last denoise
    x = sampler.sample(GaussianScore(MEAN, VARIANCE, VP), (2, 3), noise=ss.noise.BrownianNoise(1))
    assert torch.equal(x, sampler.sample(GaussianScore(MEAN, VARIANCE, VP), (2, 3), seed=1))
