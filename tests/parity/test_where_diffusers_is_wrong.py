"""Where diffusers 0.42.1 differs from the exact answer, and this library does not.

The data are Gaussian, so the network is exact, and so is the end of the probability flow: a state
keeps its quantile, x_0 = x_T s_0/s_T with s² = α² v + σ².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss

diffusers = pytest.importorskip("diffusers")
pytestmark = [
    pytest.mark.skipif(diffusers.__version__ != "0.42.1", reason="of this version alone"),
    pytest.mark.filterwarnings("ignore"),  # diffusers warns of the combinations below
]

VARIANCE = torch.tensor([[0.05, 0.3, 1.5]], dtype=torch.float64)  # of the data
START = torch.ones(1, 3, dtype=torch.float64)


def epsilon(x: Tensor, alpha_bar: Tensor) -> Tensor:
    """E[ε | x] of the Gaussian data at a level."""
    return (1 - alpha_bar).sqrt() * x / spread(alpha_bar) ** 2


def spread(alpha_bar: Tensor) -> Tensor:
    """Standard deviation of the states at a level."""
    return (alpha_bar * VARIANCE + 1 - alpha_bar).sqrt()


def even_levels(count: int) -> tuple[Tensor, Tensor]:
    """β and ᾱ of levels that are equally far apart in log(α/σ), from 2.5 to −2.5."""
    bar = torch.sigmoid(torch.linspace(5, -5, count, dtype=torch.float64))
    return 1 - bar / torch.cat([bar.new_ones(1), bar[:-1]]), bar


def theirs(scheduler: Any, steps: int, alpha_bar: Tensor) -> Tensor:
    """The end of diffusers' loop; its state is float32, as its own table is."""
    scheduler.set_timesteps(steps)
    x = START.float()
    for t in scheduler.timesteps:
        output = epsilon(x.double(), alpha_bar[int(t)]).float()
        x = scheduler.step(output, t, x).prev_sample
    return x


def ours(predictor: ss.Predictor, sde: ss.DiscreteVPSDE, times: Tensor) -> Tensor:
    """The end of the same steps here, at the last level of ``times``, without a denoise."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        return epsilon(x, (sde.marginal(t)[0] ** 2)[:, None])

    sampler = ss.PredictorCorrector(sde, predictor, grid=times, denoise=False)
    model = ss.ScoreModel(net, sde, "epsilon", "t")
    return sampler.sample(model, init=START, dtype=torch.float64)


def error(x: Tensor, alpha_bar: Tensor) -> float:
    """The largest relative distance from the exact end at level 0."""
    exact = START * spread(alpha_bar[0]) / spread(alpha_bar[-1])
    return (x / exact - 1).abs().max().item()


def errors(
    kind: Callable[..., Any], predictor: ss.Predictor, **options: Any
) -> tuple[list[float], list[float]]:
    """Theirs and ours in 32, 64 and 128 steps over levels equally far apart in log(α/σ)."""
    found: tuple[list[float], list[float]] = [], []
    for steps in (32, 64, 128):
        betas, bar = even_levels(steps + 1)
        options |= {"num_train_timesteps": steps + 1, "trained_betas": betas.numpy()}
        found[0].append(error(theirs(kind(**options), steps, bar), bar))
        sde = ss.DiscreteVPSDE(betas=betas)
        found[1].append(error(ours(predictor, sde, sde.level_times().flip(0)), bar))
    return found


THIRD = {"solver_order": 3, "lower_order_final": False, "timestep_spacing": "linspace"}


def test_dpm_solvers_third_order_is_the_second() -> None:
    """It counts the second difference by half."""
    one, two = errors(
        diffusers.DPMSolverMultistepScheduler,
        ss.ExponentialAdams(points=3),
        final_sigmas_type="sigma_min",
        **THIRD,
    )
    assert abs(math.log2(one[1] / one[2]) - 2) < 0.2
    assert abs(math.log2(two[1] / two[2]) - 3) < 0.2
    assert two[2] < one[2] / 5


def test_deis_of_the_third_order_loses_its_digits() -> None:
    """Its weights are differences of antiderivatives in float32, so its error grows with N."""
    one, two = errors(
        diffusers.DEISMultistepScheduler, ss.ExponentialAdams(points=3, output="epsilon"), **THIRD
    )
    assert one[2] > one[1] > one[0]
    assert two[2] < two[1] / 4 < two[0] / 16
    assert two[2] < one[2] / 1000


def test_ddims_linspace_starts_a_step_where_the_last_one_did_not_end() -> None:
    """A step goes down by N // steps levels, and the next one starts from another level.

    So the error grows with the number of steps, up to that of a state that has hardly moved.
    """
    one, two = [], []
    for steps in (300, 600):
        scheduler = diffusers.DDIMScheduler(
            timestep_spacing="linspace", clip_sample=False, set_alpha_to_one=False
        )
        betas = scheduler.betas.double()
        bar = torch.cumprod(1 - betas, 0)
        one.append(error(theirs(scheduler, steps, bar), bar))
        sde = ss.DiscreteVPSDE(betas=betas)
        two.append(error(ours(ss.DDIM(), sde, sde.level_times()[scheduler.timesteps]), bar))
    assert 0.1 < one[0] < one[1] / 3
    assert two[1] < two[0] / 1.7 < 0.02  # of order 1
