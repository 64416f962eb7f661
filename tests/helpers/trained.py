"""Subjects and reports that the tests of the benchmark on networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VARIANCE = 0.25


def normal(n: int, *event: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *event, generator=torch.Generator().manual_seed(seed))


class ExactNet(nn.Module):
    """E[ε | x_t] of pixels N(0, VARIANCE) under a VP SDE, told the log-SNR."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        self.sizes.append(len(x))
        alpha2 = log_snr.sigmoid()
        alpha2, sigma2 = (v.reshape(-1, 1, 1, 1) for v in (alpha2, 1 - alpha2))
        return sigma2.sqrt() * x / (alpha2 * VARIANCE + sigma2)
