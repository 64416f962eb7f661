"""Layers of NCSN++: how they are drawn, norms, features of the time, a matrix per pixel."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError

__all__: list[str] = []

LEAST_SCALE = 1e-10  # in place of 0, as the official code has it
EPSILON = 1e-6  # of the group norm's variance


def drawn(weight: Tensor, scale: float = 1.0) -> None:
    """Draw a weight uniformly with variance ``scale`` over the mean of its fan-in and fan-out."""
    fan = (weight.shape[0] + weight.shape[1]) / 2 * math.prod(weight.shape[2:])
    bound = math.sqrt(3 * max(scale, LEAST_SCALE) / fan)
    nn.init.uniform_(weight, -bound, bound)


def convolution(inputs: int, outputs: int, size: int = 3, scale: float = 1.0) -> nn.Conv2d:
    """A convolution that keeps the resolution."""
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2)
    return initialised(layer, scale)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer, drawn as the convolutions are."""
    layer = nn.Linear(inputs, outputs)
    drawn(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def initialised(layer: nn.Conv2d, scale: float = 1.0) -> nn.Conv2d:
    """The convolution, drawn anew, its bias 0."""
    drawn(layer.weight, scale)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def norm(channels: int, groups: int | None) -> nn.GroupNorm:
    """Group norm; by default in groups of 4 channels, but at most 32 groups."""
    count = min(channels // 4, 32) if groups is None else groups
    fits = count > 0 and channels % count == 0
    expected = f"channels that {count or 1} groups of at least 4 divide"
    checks.that(fits, expected, f"{channels}; take nf as a multiple of 4, as 32 or 128")
    return nn.GroupNorm(count, channels, eps=EPSILON)


class FourierFeatures(nn.Module):
    """Sines and cosines of ``2π W c``, the Gaussian W frozen but a parameter."""

    def __init__(self, count: int, scale: float) -> None:
        super().__init__()
        dtype, device = torch.get_default_dtype(), torch.get_default_device()
        frequencies = scale * torch.randn(count, dtype=dtype, device=device)
        self.W = nn.Parameter(frequencies, requires_grad=False)

    def forward(self, c: Tensor) -> Tensor:
        """``(B,)`` → ``(B, 2 count)``."""
        angle = 2 * math.pi * torch.outer(c, self.W.to(c.dtype))
        return torch.cat([angle.sin(), angle.cos()], dim=1)


def positional_features(c: Tensor, count: int) -> Tensor:
    """Sines and cosines of ``c`` at frequencies from 1 to 1e-4 (Vaswani et al. 2017): ``count``."""
    half = count // 2
    index = torch.arange(half, dtype=c.dtype, device=c.device)
    angle = torch.outer(c, torch.exp(index * -(math.log(10_000) / (half - 1))))
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class NIN(nn.Module):
    """A matrix for the channels of every pixel ("network in network"), ``(inputs, outputs)``."""

    def __init__(self, inputs: int, outputs: int, scale: float = 0.1) -> None:
        super().__init__()
        dtype, device = torch.get_default_dtype(), torch.get_default_device()
        self.W = nn.Parameter(torch.empty(inputs, outputs, dtype=dtype, device=device))
        self.b = nn.Parameter(torch.zeros(outputs, dtype=dtype, device=device))
        drawn(self.W, scale)

    def forward(self, h: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` → ``(B, outputs, H, W)``."""
        return nn.functional.conv2d(h, self.W.T[:, :, None, None], self.b)


def joined(x: Tensor, h: Tensor, rescale: bool) -> Tensor:
    """``x + h``, or ``(x + h)/√2``, which has the variance of either."""
    return (x + h) / math.sqrt(2) if rescale else x + h


def activation(name: str) -> nn.Module:
    """The nonlinearity of this name in the official configurations."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "swish": nn.SiLU,
        "relu": nn.ReLU,
        "elu": nn.ELU,
        "lrelu": lambda: nn.LeakyReLU(0.2),
    }
    checks.choice("nonlinearity", name, sorted(makers), IncompatibleError)
    return makers[name]()
