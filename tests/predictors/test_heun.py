"""Heun's churn."""

from __future__ import annotations

import math

import pytest
import torch

from sdescore.predictors.runge_kutta import Heun
from sdescore.score.mixture import GaussianScore
from tests.helpers.multistage import (
    MEAN,
    VARIANCE,
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
