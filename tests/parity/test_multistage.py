"""Multistage predictors against diffusers and EDM's algorithm 2."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.predictors.exponential_runge_kutta import ExponentialRungeKutta
from sdescore.predictors.runge_kutta import Heun
from sdescore.score.mixture import GaussianScore
from tests.helpers.multistage import (
    MEAN,
    VARIANCE,
    chain,
)

SHAPE = (3, 2, 4, 4)


def epsilon_net(x: Tensor, level: Tensor) -> Tensor:
    phase = level.reshape(-1, *[1] * (x.ndim - 1)).to(x) / 10
    return torch.tanh(0.7 * x + torch.sin(phase)) + 0.1 * torch.roll(x, 1, -1)


@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_parity_with_diffusers_single_step(stages: int, algorithm: str) -> None:
    """A table whose levels are equally far apart in λ, for the scheduler evaluates at grid times
    only. Its order 3 takes one ``solver_type`` for the state at 2/3 and for the end; the papers'
    algorithm is "heun" at the first, "midpoint" at the second, and so set here."""
    diffusers = pytest.importorskip("diffusers")
    lam = torch.linspace(3.0, -3.0, 13, dtype=torch.float64)
    bar = torch.sigmoid(2 * lam)
    betas = 1 - bar / torch.cat([torch.ones(1).double(), bar[:-1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = diffusers.DPMSolverSinglestepScheduler(
            num_train_timesteps=13,
            trained_betas=betas.numpy(),
            solver_order=stages,
            algorithm_type=algorithm,
            final_sigmas_type="sigma_min",
        )
        scheduler.set_timesteps(timesteps=list(range(12, 0, -1)))
        x = start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
        for k, t in enumerate(scheduler.timesteps):
            inside = stages == 3 and k % 3 == 1
            scheduler.register_to_config(solver_type="heun" if inside else "midpoint")
            x = scheduler.step(epsilon_net(x, t[None]), t, x).prev_sample
    sde = ss.DiscreteVPSDE(betas=betas)
    output = {"dpmsolver": "epsilon", "dpmsolver++": "x0"}[algorithm]
    predictor = ExponentialRungeKutta(0.0, stages, output)
    sampler = chain(sde, predictor, sde.level_times().flip(0)[::stages])
    assert sampler.evaluations == 12
    model = ss.ScoreModel(epsilon_net, sde, "epsilon", "level")
    torch.testing.assert_close(sampler.sample(model, init=start), x, rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("steps", [2, 7])
def test_parity_with_diffusers_heun(steps: int) -> None:
    """The scheduler's state is x/α, and its last, first-order step is the last denoise."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.HeunDiscreteScheduler(num_train_timesteps=60, beta_end=0.1)
    scheduler.set_timesteps(steps)
    levels = scheduler.timesteps[[0, *range(1, 2 * steps - 1, 2)]].round().long()
    scheduler.set_timesteps(timesteps=levels.tolist())
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    sde = ss.DiscreteVPSDE(betas=scheduler.betas.double())
    x = start / sde.marginal(sde.level_times()[levels[0]])[0].float()
    for t in scheduler.timesteps:
        output = epsilon_net(scheduler.scale_model_input(x, t), t[None])
        x = scheduler.step(output, t, x).prev_sample
    sampler = ss.PredictorCorrector(sde, predictor=Heun(), grid=sde.level_times()[levels])
    model = ss.ScoreModel(epsilon_net, sde, "epsilon", "level")
    assert sampler.evaluations == 2 * steps - 1
    torch.testing.assert_close(sampler.sample(model, init=start), x, rtol=3e-5, atol=3e-5)


def test_parity_with_edms_algorithm_2() -> None:
    """The whole loop, with a range of churn. Below the paper's σ_max, which it may exceed, and
    above its last step, where it may churn before the denoise."""
    sde, N = ss.EDMSDE(sigma_min=0.02, sigma_max=10.0), 9
    predictor = Heun(s_churn=2.0, s_min=0.05, s_max=6.0, s_noise=1.01)
    sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=ss.KarrasGrid(), steps=N)
    z = torch.randn(len(sampler.program.spans), 4, 3, dtype=torch.float64)
    score = GaussianScore(MEAN, VARIANCE, sde)

    def denoiser(x: Tensor, t: float) -> Tensor:
        return x + t**2 * score(x, torch.tensor(t, dtype=torch.float64))

    x, draw, kicked = 10.0 * z[0], 1, []
    for now, to in itertools.pairwise([*sampler.times.tolist(), 0.0]):
        gamma = min(2.0 / N, math.sqrt(2) - 1) if 0.05 <= now <= 6.0 else 0.0
        later = now + gamma * now
        if gamma:
            x = x + math.sqrt(later**2 - now**2) * 1.01 * z[draw]
            draw += 1
        kicked.append(later)
        d = (x - denoiser(x, later)) / later
        y = x + (to - later) * d
        if to:
            y = x + (to - later) * (0.5 * d + 0.5 * (y - denoiser(y, to)) / to)
        x = y
    got = sampler.sample(score, (4, 3), noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    torch.testing.assert_close(got, x, rtol=1e-11, atol=1e-11)
    assert draw == len(z) < N
    assert sampler.program.times[::2] == pytest.approx(kicked, rel=1e-12)
