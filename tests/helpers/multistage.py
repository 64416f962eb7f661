"""Solvers, data and chains that the tests of the multistage predictors share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import sdescore as ss
from sdescore.predictors.exponential_runge_kutta import ExponentialRungeKutta
from sdescore.predictors.runge_kutta import Heun, RungeKutta4
from sdescore.predictors.stochastic_heun import StochasticHeun
from sdescore.score.mixture import GaussianScore

VARIANCE = torch.tensor([0.5, 2.0, 0.05], dtype=torch.float64)


MEAN = torch.tensor([0.7, -1.0, 0.2], dtype=torch.float64)


SDES = {
    "ve": ss.VESDE(sigma_min=0.1, sigma_max=4.0),
    "vp": ss.VPSDE(),
    "cosine": ss.CosineVPSDE(T=0.9),
    "flow": ss.RectifiedFlowSDE(T=0.9),
    "trigonometric": ss.LinearSDE.from_marginal(
        lambda t: torch.cos(1.4 * t), lambda t: torch.sin(1.4 * t), T=1.0, t_min=0.01
    ),
}


SOLVERS = [
    ExponentialRungeKutta(eta, stages, output)
    for eta in (0.0, 0.5, 1.0)
    for stages in (1, 2, 3)
    for output in ("x0", "epsilon")
]
SOLVERS += [ExponentialRungeKutta(eta, 2, "x0", node) for eta in (0.0, 1.0) for node in (0.4, 0.9)]


DETERMINISTIC = [Heun(), RungeKutta4(), StochasticHeun(0.0), *(p for p in SOLVERS if not p.eta)]


STOCHASTIC = [
    Heun(s_churn=30.0),
    StochasticHeun(0.5),
    StochasticHeun(),
    *(p for p in SOLVERS if p.eta),
]


EVERY = [*DETERMINISTIC, *STOCHASTIC]


def chain(
    sde: ss.LinearSDE, predictor: ss.Predictor, grid: ss.grids.Grid | Sequence[float], steps=None
) -> ss.PredictorCorrector:
    return ss.PredictorCorrector(sde, predictor=predictor, grid=grid, steps=steps, denoise=False)


VP = ss.VPSDE()


def response(sampler: ss.PredictorCorrector) -> Tensor:
    """The loop's end as an affine map: ``(1 + draws, M)``, the constant and each draw's weight."""
    draws, score = len(sampler.program.spans), GaussianScore(MEAN, VARIANCE, sampler.sde)
    z = torch.zeros(draws, 1 + draws, 3, dtype=torch.float64)
    z[range(draws), range(1, 1 + draws)] = 1.0
    ends = sampler.sample(score, z.shape[1:], noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    return torch.cat([ends[:1], ends[1:] - ends[:1]])
