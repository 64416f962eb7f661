"""Data that the tests of methods given by their weights share."""

from __future__ import annotations

import torch
from torch import Tensor

import sdescore as ss

F64 = torch.float64


ADAMS = ss.ExponentialAdams(points=2, corrector_points=3)


def mixture(sde: ss.LinearSDE) -> ss.MixtureScore:
    means = torch.tensor([[-2.0, 0.0], [1.5, 1.0]])
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.05, 0.0], [0.0, 0.4]]])
    return ss.MixtureScore(torch.tensor([0.3, 0.7]), means, covariances, sde)


def noise(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def narrow_and_wide() -> Tensor:
    """2000 data of two modes, (±2, ±2), wide along the first axis."""
    pick = torch.rand(2000, generator=torch.Generator().manual_seed(1)) < 0.3
    wide = torch.tensor([0.5, 0.05], dtype=F64) * noise(2000, 2, 2)
    return wide + torch.where(pick, -2.0, 2.0)[:, None]
