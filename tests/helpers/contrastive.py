"""Energies that the tests of the contrastive loss share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import sdescore as ss

NAN, INF = math.nan, math.inf


ENERGY = ss.EnergyModel(lambda x: x.sum(-1))


def noise(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator)
