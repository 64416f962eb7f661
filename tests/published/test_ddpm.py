"""DDPM against its paper's algorithm 2, as a loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.chain import BETAS, LEVELS, level
from tests.helpers.published import Network, difference, draw, noises


def ancestral_sampling(net: Network, z: Tensor, large: bool, clip: bool) -> Tensor:
    """The posterior mean of eq. 7 at x̂₀, which the code clips, and noise but at the last step."""
    abar = [1.0, *torch.cumprod(1 - BETAS, 0).tolist()]
    x = z[0]
    for k, i in enumerate(reversed(range(LEVELS))):
        beta, a, b = BETAS[i].item(), abar[i + 1], abar[i]
        x0 = (x - math.sqrt(1 - a) * net(x, level(i))) / math.sqrt(a)
        x0 = x0.clamp(-1, 1) if clip else x0
        mean = (math.sqrt(b) * beta * x0 + math.sqrt(1 - beta) * (1 - b) * x) / (1 - a)
        variance = beta if large else beta * (1 - b) / (1 - a)
        x = mean + math.sqrt(variance) * z[k + 1] if i else mean
    return x


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("var_type", ["fixedlarge", "fixedsmall"])
def test_ddpm(var_type: str, clip: bool, dtype: torch.dtype) -> None:
    z, net = noises(LEVELS + 1, dtype), Network(dtype)
    model = ss.ScoreModel(net, ss.DiscreteVPSDE(betas=tuple(BETAS.tolist())), "epsilon", "level")
    sampler = ss.published.ddpm(model, var_type)
    theirs = ancestral_sampling(Network(), z.double(), var_type == "fixedlarge", clip)
    ours = draw(sampler, ss.guidance.clipped(model) if clip else model, z)
    assert difference(ours, theirs) < (1e-12 if dtype == torch.float64 else 1e-5)
