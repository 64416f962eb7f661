"""The same samples by a plain loop, and by diffusers."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import diffusers
import torch
from torch import Tensor, nn

STEPS = 5  # of a sampler; with a corrector it makes twice as many evaluations
SNR = 0.16


def langevin_step(x: Tensor, score: Tensor) -> Tensor:
    """Algorithms 4 and 5 of the paper, by the mean norms of the batch."""
    z = torch.randn_like(x)
    z_norm, s_norm = (v.flatten(1).norm(dim=1).mean() for v in (z, score))
    step = 2 * (SNR * z_norm / s_norm) ** 2
    return x + step * score + (2 * step).sqrt() * z


def plain_ve(net: nn.Module, shape: tuple[int, ...]) -> Callable[[], object]:
    """The paper's sampler for VE: reverse diffusion, its corrector first."""
    sigmas = torch.logspace(1.69897, -2, STEPS + 1)  # 50 … 0.01

    @torch.no_grad()
    def task() -> Tensor:
        x = sigmas[0] * torch.randn(shape)
        for sigma, after in itertools.pairwise(sigmas):
            level = sigma.expand(shape[0])
            x = langevin_step(x, net(x, level))
            g2 = sigma**2 - after**2
            x = x + g2 * net(x, level) + g2.sqrt() * torch.randn_like(x)
        return x

    return task


def plain_vp(net: nn.Module, shape: tuple[int, ...]) -> Callable[[], object]:
    """The paper's sampler for VP: reverse diffusion, its corrector first."""
    betas = torch.linspace(0.1, 20.0, 1000).flip(0)[:: 1000 // STEPS] / 1000
    levels = torch.arange(999.0, -1.0, -(1000 // STEPS))

    @torch.no_grad()
    def task() -> Tensor:
        x = torch.randn(shape)
        for beta, level in zip(betas, levels, strict=True):
            c, sigma = level.expand(shape[0]), 0.5
            x = langevin_step(x, -net(x, c) / sigma)
            score = -net(x, c) / sigma
            x = (2 - (1 - beta).sqrt()) * x + beta * score + beta.sqrt() * torch.randn_like(x)
        return x

    return task


def diffusers_ve(net: nn.Module, shape: tuple[int, ...]) -> Callable[[], object]:
    """The loop of diffusers' pipeline for score_sde's VE."""
    scheduler = diffusers.ScoreSdeVeScheduler(snr=SNR, sigma_max=50.0)
    scheduler.set_timesteps(STEPS)
    scheduler.set_sigmas(STEPS)

    @torch.no_grad()
    def task() -> Tensor:
        x = scheduler.init_noise_sigma * torch.randn(shape)
        for i, t in enumerate(scheduler.timesteps):
            level = scheduler.sigmas[i].expand(shape[0])
            x = scheduler.step_correct(net(x, level), x).prev_sample
            x = scheduler.step_pred(net(x, level), t, x).prev_sample
        return x

    return task


def diffusers_ddpm(net: nn.Module, shape: tuple[int, ...], steps: int) -> Callable[[], object]:
    """The loop of diffusers' DDPM pipeline."""
    scheduler = diffusers.DDPMScheduler(clip_sample=False)
    scheduler.set_timesteps(steps)

    @torch.no_grad()
    def task() -> Tensor:
        x = torch.randn(shape)
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t.float().expand(shape[0])), t, x).prev_sample
        return x

    return task
