"""Networks that the tests of the denoising loss share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Affine(nn.Module):
    """Any network output, with known numbers."""

    def __init__(self, dim: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, dim, dtype=dtype)
        self.calls = 0

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls += 1
        shift = 0 if label is None else label[:, None]
        return self.layer(x) * c[:, None].cos() + shift
