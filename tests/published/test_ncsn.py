"""Annealed Langevin dynamics as NCSN's and NCSNv2's codes loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.chain import level
from tests.helpers.published import Network, difference, draw, noises

SIGMAS = [10.0 * 1000 ** (-i / 9) for i in range(10)]


def annealed_langevin(net: Network, z: Tensor, step_lr: float, T: int, denoise: bool) -> Tensor:
    """The codes' loop: a step α of the score and a noise √(2α)."""
    draws = iter(z)
    x = SIGMAS[0] * next(draws)
    for i, sigma in enumerate(SIGMAS):
        alpha = step_lr * (sigma / SIGMAS[-1]) ** 2
        for _ in range(T):
            x = x - alpha * net(x, level(i)) / sigma + math.sqrt(2 * alpha) * next(draws)
    return x - SIGMAS[-1] * net(x, level(9)) if denoise else x


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("denoise", [False, True])
def test_annealed_langevin(denoise: bool, dtype: torch.dtype) -> None:
    net, z = Network(dtype), noises(41, dtype)
    sde = ss.DiscreteVESDE(sigmas=tuple(SIGMAS))
    model = ss.ScoreModel(net, sde, "epsilon", "level")
    sampler = ss.published.ncsnv2(model, 3e-5, 4) if denoise else ss.published.ncsn(model, 3e-5, 4)
    theirs = annealed_langevin(Network(), z.double(), 3e-5, 4, denoise)
    assert difference(draw(sampler, model, z), theirs) < (1e-12 if dtype == torch.float64 else 1e-5)
    assert sampler.evaluations == 40 + denoise


def test_the_defaults_are_those_of_the_codes() -> None:
    sde = ss.DiscreteVESDE(sigmas=tuple(SIGMAS))
    first, second = ss.published.ncsn(sde), ss.published.ncsnv2(sde)
    assert first.corrector == ss.AnnealedLangevin(epsilon=4e-5, steps=100)
    assert second.corrector == ss.AnnealedLangevin(epsilon=2 * 6.2e-6, steps=5)
    assert (first.denoise, second.denoise) == (False, True)
