"""Spectra and blobs that the tests of the exact error share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import sdescore as ss

F64 = torch.float64


def erring(
    score: ss.GaussianScore, sde: ss.LinearSDE, error: float, spread: float | None = None
) -> Callable:
    """A score whose ε is off by normal errors of its own in every call; with ``spread``, where they
    make x₀ wrong by more than that."""
    generator = torch.Generator().manual_seed(3)

    def found(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = sde.marginal(t)
        off = error * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        if spread is not None:
            off = off / (1 + (spread * alpha / (sigma * error)) ** 2)
        return score(x, t) - off / sigma

    return found


def two_blobs(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(2, (n, 1), generator=generator) * 2.0 - 1.0
    z = torch.randn(n, 3, generator=generator, dtype=F64)
    return sign * torch.tensor([2.0, 0.0, 0.0]) + z * torch.tensor([0.3, 0.2, 0.1])
