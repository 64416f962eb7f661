"""Distributions and replayed noise that the Langevin tests share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import sdescore as ss

METHODS = ("unadjusted", "mala", "underdamped")


def gaussian(variance: Tensor, mean: float = 0.0) -> ss.EnergyModel:
    """Diagonal, ``variance`` event-shaped."""
    return ss.EnergyModel(lambda x: -0.5 * ((x - mean) ** 2 / variance).flatten(1).sum(1))


def replay(draws: int, batch: int, *event: int, seed: int = 1) -> ss.noise.ReplayNoise:
    generator = torch.Generator().manual_seed(seed)
    return ss.noise.ReplayNoise(
        torch.randn(draws, batch, *event, dtype=torch.float64, generator=generator)
    )


def spd(d: int, seed: int = 3) -> Tensor:
    """Eigenvalues from 0.4 to 2.5 along random axes: no seed makes it ill-conditioned."""
    normal = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    axes = torch.linalg.qr(normal).Q
    values = torch.logspace(math.log10(0.4), math.log10(2.5), d, dtype=torch.float64)
    return axes @ values.diag() @ axes.T


X = torch.zeros(3, 2)
