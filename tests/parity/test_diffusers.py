"""Parity with diffusers on the same tables, the same network and the same noise.

In float32, and in float64 where the scheduler computes in the dtype of its tables and its state:
DDPM, DDIM and the variance-exploding one. The others round the state to float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss

diffusers = pytest.importorskip("diffusers")

SHAPE = (3, 2, 4, 4)
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-10}
DTYPES = pytest.mark.parametrize("dtype", CLOSE)


def epsilon_net(x: Tensor, level: Tensor) -> Tensor:
    """Smooth, not linear, dependent on the level: a stand-in for a trained network."""
    phase = level.reshape(-1, *[1] * (x.ndim - 1)).to(x) / 100
    return torch.tanh(0.7 * x + torch.sin(phase)) + 0.1 * torch.roll(x, 1, -1)


class Typed(nn.Module):
    """A function as a network that computes in ``dtype``."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.function, self.like = function, nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.function(x, c)


def noises(count: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=dtype)


def of_dtype(scheduler, dtype: torch.dtype):
    """The scheduler with its table, that of its float32 betas, in ``dtype``."""
    if dtype == torch.float64:
        scheduler.betas = scheduler.betas.double()
        scheduler.alphas = 1 - scheduler.betas
        scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
        scheduler.one = scheduler.final_alpha_cumprod = torch.ones((), dtype=dtype)
    return scheduler


def inject(monkeypatch: pytest.MonkeyPatch, module: object, z: Tensor) -> None:
    """The scheduler's draws are ``z[0]``, ``z[1]``, …"""
    draws = iter(z)

    def randn_tensor(shape, generator=None, device=None, dtype=None, layout=None) -> Tensor:
        return next(draws).to(dtype)

    monkeypatch.setattr(module, "randn_tensor", randn_tensor)


def table_of(scheduler) -> ss.DiscreteVPSDE:
    return ss.DiscreteVPSDE(betas=scheduler.betas.double())


@DTYPES
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_ddpm_ancestral(schedule: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.schedulers import scheduling_ddpm

    N = 60
    scheduler: Any = diffusers.DDPMScheduler(
        num_train_timesteps=N,
        beta_schedule=schedule,
        beta_start=5e-3,  # the peer has 1 − ᾱ in float32, and few digits of it at 1e-4
        beta_end=0.2,
        clip_sample=False,
        variance_type="fixed_small",
    )
    scheduler = of_dtype(scheduler, dtype)
    scheduler.set_timesteps(N)
    z = noises(N, dtype)
    inject(monkeypatch, scheduling_ddpm, z[1:])
    x = z[0].clone()
    states = []
    for t in scheduler.timesteps:
        x = scheduler.step(epsilon_net(x, t[None]), t, x).prev_sample
        states.append(x)

    sde = table_of(scheduler)
    sampler = ss.PredictorCorrector(sde, predictor=ss.Ancestral())
    model = ss.ScoreModel(Typed(epsilon_net, dtype), sde, "epsilon", "level")
    start = z[0]
    ours = list(sampler.iterate(model, init=start, noise=ss.noise.ReplayNoise(z), dtype=dtype))
    assert len(ours) == len(states) == N
    scale = 1.0
    for mine, theirs in zip(ours, states, strict=True):
        scale = max(scale, theirs.abs().max().item())
        torch.testing.assert_close(mine.x, theirs, rtol=CLOSE[dtype], atol=CLOSE[dtype] * scale)


@DTYPES
@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_ddim(eta: float, spacing: str, steps: int, dtype: torch.dtype) -> None:
    """Any subset of the levels. With ``leading`` the grid starts below T.

    The last step goes to ᾱ = 1, where eq. 12 is the last denoise: x̂₀ without noise.
    """
    scheduler: Any = diffusers.DDIMScheduler(
        num_train_timesteps=100, beta_end=0.1, clip_sample=False, timestep_spacing=spacing
    )
    scheduler = of_dtype(scheduler, dtype)
    scheduler.set_timesteps(steps)
    levels = scheduler.timesteps
    z = noises(steps + 1, dtype)
    x = z[0].clone()
    for k, t in enumerate(levels):
        last = k == len(levels) - 1
        noise = torch.zeros(SHAPE, dtype=dtype) if last else z[k + 1]
        output = epsilon_net(x, t[None])
        x = scheduler.step(output, t, x, eta=eta, variance_noise=noise if eta else None).prev_sample

    sde = table_of(scheduler)
    sampler = ss.PredictorCorrector(sde, predictor=ss.DDIM(eta), grid=sde.level_times()[levels])
    model = ss.ScoreModel(Typed(epsilon_net, dtype), sde, "epsilon", "level")
    got = sampler.sample(model, init=z[0], noise=ss.noise.ReplayNoise(z), dtype=dtype)
    scale = max(1.0, x.abs().max().item())
    torch.testing.assert_close(got, x, rtol=CLOSE[dtype], atol=CLOSE[dtype] * scale)


def score_net(x: Tensor, sigma: Tensor) -> Tensor:
    sigma = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x)
    return -(x - torch.sin(x)) / (0.5 + sigma**2)


@DTYPES
@pytest.mark.parametrize("inner", [0, 1, 2])
def test_ve_predictor_and_corrector(
    inner: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reverse diffusion and Langevin of ScoreSdeVeScheduler, corrector first, batch norms.

    It is right at all but the last step. There its ``get_adjacent_sigma`` takes σ = 0 below
    the smallest level, so its mean is x + σ² s, our last denoise; its returned sample has
    noise of σ_min on top, and its ``prev_sample_mean`` is compared. Its level index
    ``(t (N − 1)).long()`` is right on its own grid alone, so that grid is used.
    """
    from diffusers.schedulers import scheduling_sde_ve

    N, snr = 24, 0.16
    scheduler = diffusers.ScoreSdeVeScheduler(
        num_train_timesteps=N, snr=snr, sigma_min=0.05, sigma_max=6.0, sampling_eps=1e-5
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler.set_timesteps(N)
        scheduler.set_sigmas(N)
    scheduler.discrete_sigmas = scheduler.discrete_sigmas.to(dtype)
    used = (scheduler.timesteps * (N - 1)).long().tolist()
    assert used == list(range(N))[::-1] or used[1:] == list(range(N - 1))[::-1]
    z = noises(1 + N * (1 + inner), dtype)
    inject(monkeypatch, scheduling_sde_ve, z[1:])
    # It multiplies a Langevin step by torch.ones, of the default dtype.
    monkeypatch.setattr(scheduling_sde_ve.torch, "ones", partial(torch.ones, dtype=dtype))
    x = start = scheduler.discrete_sigmas[-1] * z[0]
    sigmas = scheduler.discrete_sigmas.flip(0)
    for k, t in enumerate(scheduler.timesteps):
        for _ in range(inner):
            x = scheduler.step_correct(score_net(x, sigmas[k][None]), x).prev_sample
        step = scheduler.step_pred(score_net(x, sigmas[k][None]), t, x)
        x = step.prev_sample
    theirs = step.prev_sample_mean
    monkeypatch.undo()

    sde = ss.DiscreteVESDE(sigmas=sigmas.double())
    sampler = ss.PredictorCorrector(
        sde,
        predictor=ss.ReverseDiffusion(),
        corrector=ss.Langevin(snr=snr, steps=inner, norm="batch") if inner else ss.NoCorrector(),
        corrector_first=True,
    )
    model = ss.ScoreModel(Typed(score_net, dtype), sde, "score", "sigma")
    got = sampler.sample(model, init=start, noise=ss.noise.ReplayNoise(z), dtype=dtype)
    torch.testing.assert_close(got, theirs, rtol=CLOSE[dtype], atol=CLOSE[dtype])
