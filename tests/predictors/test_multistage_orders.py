"""Orders of the multistage predictors, of the distribution and along a path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.analysis.error import gaussian_error
from sdescore.predictors.exponential_runge_kutta import ExponentialRungeKutta
from sdescore.predictors.runge_kutta import Heun, RungeKutta4
from sdescore.predictors.stochastic_heun import StochasticHeun
from sdescore.score.mixture import GaussianScore
from tests.helpers.affine import extrapolated, slope
from tests.helpers.multistage import (
    EVERY,
    MEAN,
    SDES,
    VARIANCE,
    VP,
    chain,
)


def error_of_distribution(sde: ss.LinearSDE, predictor: ss.Predictor, steps: int) -> float:
    """W2 of the end distribution to the marginal there, from the marginal at T, on equal steps in
    λ."""
    sampler = chain(sde, predictor, ss.LogSNRGrid(), steps)
    return gaussian_error(sampler, VARIANCE, mean=MEAN).w2_of_steps.item()


# Orders.


# Over a moderate range of λ the leading error shows at few steps.
SHORT = {
    "ve": ss.VESDE(sigma_min=0.3, sigma_max=2.0),
    "trigonometric": ss.LinearSDE.from_marginal(
        lambda t: torch.cos(1.4 * t), lambda t: torch.sin(1.4 * t), T=0.8, t_min=0.1
    ),
}


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("predictor", EVERY, ids=repr)
def test_every_predictor_has_its_declared_order(name: str, predictor: ss.Predictor) -> None:
    """Of the distribution: on Gaussian data the flow, the reverse SDE and churn all end in the
    marginal."""
    # Below 73 steps this churn's γ is at its largest and does not shrink with the step.
    n = 128 if isinstance(predictor, Heun) and predictor.stochastic else 64
    errors = [error_of_distribution(SHORT[name], predictor, n * k) for k in (1, 2, 4)]
    assert extrapolated(errors) == pytest.approx(predictor.order, abs=0.05)


def test_a_factor_on_the_churns_noise_leaves_an_error() -> None:
    errors = [error_of_distribution(VP, Heun(s_churn=30.0, s_noise=1.05), n) for n in (200, 400)]
    assert errors[1] > 0.9 * errors[0] > 0.001


def test_each_method_is_more_accurate_than_the_one_below_it_at_equal_cost() -> None:
    cost = 60
    errors = [
        error_of_distribution(SDES["cosine"], predictor, cost // predictor.evaluations)
        for predictor in (ss.DDIM(), Heun(), RungeKutta4())
    ]
    assert errors[0] > 3 * errors[1] > 30 * errors[2]


STRONG = ss.VESDE(sigma_min=0.3, sigma_max=3.0)


@pytest.fixture(scope="module")
def fine_end() -> tuple[Tensor, Tensor]:
    """Start, and the end of 2¹² Euler–Maruyama steps on the path of seed 5."""
    start = 3.0 * torch.randn(
        1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    return start, strong_end(ss.EulerMaruyama(), 4096, start)


def strong_end(predictor: ss.Predictor, steps: int, start: Tensor) -> Tensor:
    sampler = chain(STRONG, predictor, ss.UniformGrid(), steps)
    score = GaussianScore(MEAN, VARIANCE, STRONG)
    return sampler.sample(score, init=start, noise=ss.noise.BrownianNoise(5), dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.guards("M08")
@pytest.mark.parametrize(
    "predictor",
    [
        StochasticHeun(),
        *(ExponentialRungeKutta(1.0, p, "x0") for p in (1, 2, 3)),
        ExponentialRungeKutta(1.0, 2, "x0", 0.4),
        *(ss.ExponentialAdams(1.0, p, 0, o) for p in (1, 2) for o in ("x0", "epsilon")),
        ss.ExponentialAdams(1.0, 2, 3),
        ss.ExponentialAdams(1.0, 2, midpoint=True),
    ],
    ids=repr,
)
def test_strong_order_on_one_brownian_path(predictor: ss.Predictor, fine_end) -> None:
    """1, and no more: additive noise, and no iterated integrals of the path."""
    start, end = fine_end
    sizes = (64, 128, 256)
    errors = [(strong_end(predictor, n, start) - end).square().mean().sqrt().item() for n in sizes]
    assert slope(sizes, errors) == pytest.approx(1, abs=0.1)
