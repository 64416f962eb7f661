"""The same samples by a plain loop, and by diffusers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

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


def plain_ncsnv2(
    net: nn.Module, shape: tuple[int, ...], sigmas: Sequence[float], step_lr: float = 6.2e-6
) -> Callable[[], object]:
    """Annealed Langevin dynamics with one step a level (Song & Ermon 2020, arXiv:2006.09011)."""
    levels = [torch.full(shape[:1], float(i)) for i in range(len(sigmas))]

    @torch.no_grad()
    def task() -> Tensor:
        x = sigmas[0] * torch.randn(shape)
        for level, sigma in zip(levels, sigmas, strict=True):
            step = step_lr * (sigma / sigmas[-1]) ** 2
            x = x + step * net(x, level) + (2 * step) ** 0.5 * torch.randn_like(x)
        return x

    return task


def plain_edm(net: nn.Module, shape: tuple[int, ...]) -> Callable[[], object]:
    """EDM's algorithm 1 in float32, with the denoiser of its eq. 7 for data of deviation 0.5."""
    largest, smallest = (v ** (1 / 7) for v in (80.0, 0.002))
    sigmas = [*(torch.linspace(largest, smallest, STEPS) ** 7).tolist(), 0.0]

    def slope(x: Tensor, sigma: float) -> Tensor:
        """(x − D(x; σ))/σ."""
        n = (sigma**2 + 0.25) ** 0.5
        y = net(x / n, torch.full(shape[:1], 0.25 * math.log(sigma)))
        return (x - (0.25 / n**2 * x + 0.5 * sigma / n * y)) / sigma

    @torch.no_grad()
    def task() -> Tensor:
        x = sigmas[0] * torch.randn(shape)
        for sigma, after in itertools.pairwise(sigmas):
            d = slope(x, sigma)
            there = x + (after - sigma) * d
            if after > 0:
                there = x + (after - sigma) * 0.5 * (d + slope(there, after))
            x = there
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
