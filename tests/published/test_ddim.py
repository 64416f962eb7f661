"""DDIM against equations 12 and 16 of its paper, as a loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.chain import BETAS, level
from tests.helpers.published import Network, difference, draw, noises


def generalised_steps(net: Network, z: Tensor, visited: list[int], eta: float) -> Tensor:
    """DDIM's eqs. 12 and 16, with ᾱ = 1 after the last level; z is drawn at every step."""
    abar = torch.cumprod(1 - BETAS, 0).tolist()
    x = z[0]
    for k, i in enumerate(visited):
        a, b = abar[i], abar[visited[k + 1]] if k + 1 < len(visited) else 1.0
        e = net(x, level(i))
        x0 = (x - math.sqrt(1 - a) * e) / math.sqrt(a)
        c = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        noise = c * z[k + 1] if c else 0.0
        x = math.sqrt(b) * x0 + math.sqrt(1 - b - c**2) * e + noise
    return x


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    ("skip_type", "timesteps", "visited"),
    [
        ("uniform", 10, [54, 48, 42, 36, 30, 24, 18, 12, 6, 0]),
        ("uniform", 40, list(range(59, -1, -1))),
        ("quad", 6, [47, 30, 17, 7, 1, 0]),  # √48² is below 48 in float64, as in the code
    ],
)
def test_ddim(
    skip_type: str, timesteps: int, visited: list[int], eta: float, dtype: torch.dtype
) -> None:
    net, z = Network(dtype), noises(61, dtype)
    model = ss.ScoreModel(net, ss.DiscreteVPSDE(betas=tuple(BETAS.tolist())), "epsilon", "level")
    sampler = ss.published.ddim(model, timesteps, eta, skip_type)
    theirs = generalised_steps(Network(), z.double(), visited, eta)
    assert difference(draw(sampler, model, z), theirs) < (1e-12 if dtype == torch.float64 else 1e-5)
