"""A small network, noise and a comparison, for the samplers of papers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.typing import Score

SHAPE = (5, 2, 3)


class Network(nn.Module):
    """Smooth, not linear, mixes elements, and depends on its time: in place of a trained one."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7, dtype=dtype))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        c = c.reshape(-1, *[1] * (x.ndim - 1)).to(x)
        return torch.tanh(self.gain * x + torch.sin(0.01 * c)) + 0.1 * torch.roll(x, 1, -1)


def noises(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """``(count, *SHAPE)`` standard normal numbers; the first starts a chain."""
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=dtype)


def draw(sampler: PredictorCorrector, model: Score, z: Tensor) -> Tensor:
    """Samples with the noise ``z``, in its dtype."""
    source = ss.noise.ReplayNoise(z)
    return sampler.sample(model, SHAPE, noise=source, dtype=z.dtype)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
