"""A network of diffusers, and noise for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

SHAPE = (2, 3, 8, 8)


def unet(**options: Any) -> Any:
    """A small network of diffusers, with random weights."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **options,
    )  # fmt: skip
    return net.eval()


def noise(seed: int = 1) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
