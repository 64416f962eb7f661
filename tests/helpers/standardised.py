"""A Gaussian whose features have scales from 1e-3 to 1e3, and a model that knows it exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import sdescore as ss

MEAN, STD = (2e-3, -5.0, 3e4), (1e-3, 2.0, 1e3)
VP = ss.VPSDE()


class MinusX(nn.Module):
    """The score of N(0, I), which VP leaves as it is; it counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls += 1
        return -x


def exact(**options: Any) -> ss.ScoreModel:
    """The exact score of N(MEAN, diag(STD²)), by standardisation."""
    options = {"data_mean": MEAN, "data_std": STD} | options
    return ss.ScoreModel(MinusX(), VP, "score", **options)


def plain() -> ss.ScoreModel:
    """The exact score of N(0, I)."""
    return ss.ScoreModel(MinusX(), VP, "score")


def by_hand(z: Tensor) -> Tensor:
    """Data of states, in float64."""
    mean, std = (torch.tensor(value, dtype=torch.float64) for value in (MEAN, STD))
    return mean + std * z.double()
