"""The betas of a short DDPM, and its levels as a network takes them."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 60
BETAS = torch.linspace(1e-3, 0.2, LEVELS, dtype=torch.float64)


def level(i: int) -> Tensor:
    return torch.tensor([i])
