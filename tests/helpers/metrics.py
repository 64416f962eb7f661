"""Clouds that the tests of the metrics share."""

from __future__ import annotations

import functools

import torch

from sdescore.metrics import (
    energy_distance,
    mmd,
    sliced_wasserstein,
)

DISTANCES = {
    "sliced": functools.partial(sliced_wasserstein, projections=32),
    "energy": energy_distance,
    "mmd": functools.partial(mmd, bandwidth=1.3),
}


def draw(n: int, *event: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *event, generator=generator, dtype=torch.float64)
