"""Data of known covariance that the tests of the principal axes share."""

from __future__ import annotations

import torch
from torch import Tensor

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def uneven(n: int, d: int, seed: int = 0) -> Tensor:
    """Data of unequal variances along no axis in particular, around no particular place."""
    turn = torch.linalg.qr(normal(d, d, seed=seed + 1)).Q
    return normal(n, d, seed=seed) * torch.logspace(0, -2, d, dtype=F64) @ turn + 3.0


def variances_of(x: Tensor) -> Tensor:
    """By singular values, d of them."""
    found = torch.linalg.svdvals(x - x.mean(0)).square() / (len(x) - 1)
    return torch.cat([found, torch.zeros(max(0, x.shape[1] - len(x)), dtype=F64)])
