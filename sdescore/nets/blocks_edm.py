r"""The blocks of EDM's networks (Karras et al. 2022, arXiv:2206.00364, appendix C.1 and F).

A block is a residual pair of convolutions, told the noise level between them, with self-attention
where asked for. ``SONG`` and ``ADM`` say in what the blocks of Song et al. 2021 and of
Dhariwal & Nichol 2021 differ. Names of parts are those of EDM's files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sdescore import checks

MAX_GROUPS = 32
CHANNELS_PER_GROUP = 4
CHANNELS_PER_HEAD = 64
SLOWEST = 1e-4  # positional frequency, radians per unit of c; the fastest is 1
FOURIER_TURNS = 16.0  # standard deviation of Fourier frequencies, turns per unit of c
FILTERS = ((1, 1), (1, 3, 3, 1))

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)
GAINS = {"inner": 1.0, "attention": math.sqrt(0.2), "last": 1e-5}


@dataclass(frozen=True)
class Style:
    """In what the blocks of two papers differ."""

    epsilon: float  # of the group norms
    adaptive: bool  # the embedding scales and shifts; else it is added before the second norm
    scale: float  # of the sum of a branch and its skip
    project: bool  # a 1×1 convolution on the skip of every block that resamples
    heads: int | None  # of attention; None is one for 64 channels
    xavier: bool  # initial weights uniform in fan-in and fan-out, of the gains in GAINS

    def initial(self, layer: Layer, role: str = "inner") -> Layer:
        """A layer with the weights that training starts from."""
        if self.xavier:
            nn.init.xavier_uniform_(layer.weight, GAINS[role])
        elif role == "last":
            nn.init.zeros_(layer.weight)
        if layer.bias is not None and (self.xavier or role == "last"):
            nn.init.zeros_(layer.bias)
        return layer


SONG = Style(epsilon=1e-6, adaptive=False, scale=math.sqrt(0.5), project=True, heads=1, xavier=True)
ADM = Style(epsilon=1e-5, adaptive=True, scale=1.0, project=False, heads=None, xavier=False)


def group_norm(channels: int, epsilon: float) -> nn.GroupNorm:
    """Groups of at least 4 channels, 32 at most."""
    groups = min(MAX_GROUPS, channels // CHANNELS_PER_GROUP)
    expected = f"channels in {max(groups, 1)} equal groups of at least {CHANNELS_PER_GROUP}"
    advice = "take model_channels=32 or a multiple of it"
    checks.that(groups > 0 and channels % groups == 0, expected, f"{channels}; {advice}")
    return nn.GroupNorm(groups, channels, epsilon)


class Resample(nn.Module):
    r"""Up- or down-sampling by 2 with a separable FIR filter, each channel by itself.

    With taps :math:`f` of sum 1, :math:`2n` of them, down-sampling is
    :math:`y_i = \sum_k f_k x_{2i+k-n+1}` along each axis, and up-sampling is 4 times its
    transpose, which leaves a constant image as it is. Outside the image is 0.
    """

    resample_filter: Tensor

    def __init__(self, up: bool, taps: Sequence[int]) -> None:
        super().__init__()
        self.up = up
        self.register_buffer("resample_filter", separable(taps))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` at twice or half its resolution."""
        return resampled(x, self.resample_filter, self.up)


class ResampledConv(nn.Conv2d):
    """A convolution after up- or down-sampling; ``fused`` down-samples after it instead.

    Outside the image is 0. So at its edge the fused filter meets what the convolution makes of 0s
    and the image, where a filter by itself would meet 0.
    """

    resample_filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        up: bool,
        taps: Sequence[int],
        fused: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.up, self.fused = up, fused
        self.register_buffer("resample_filter", separable(taps))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` → ``(B, outputs, ·, ·)`` at twice or half its resolution."""
        if not self.fused:
            return super().forward(resampled(x, self.resample_filter, self.up))
        reach = (self.resample_filter.shape[-1] - 1) // 2
        padding = self.kernel_size[0] // 2 + reach
        y = nn.functional.conv2d(x, self.weight, self.bias, padding=padding)
        return resampled(y, self.resample_filter, up=False, padding=0)


def separable(taps: Sequence[int]) -> Tensor:
    """The outer square of the taps with sum 1, ``(1, 1, n, n)``."""
    line = torch.tensor(taps, dtype=torch.float32, device=torch.get_default_device())
    return (torch.outer(line, line) / line.sum().square())[None, None]


def resampled(x: Tensor, kernel: Tensor, up: bool, padding: int | None = None) -> Tensor:
    """``x`` ``(B, C, H, W)`` at twice or half its resolution."""
    channels = x.shape[1]
    if padding is None:
        padding = (kernel.shape[-1] - 1) // 2
    each = kernel.to(x.dtype).expand(channels, -1, -1, -1)
    if not up:
        return nn.functional.conv2d(x, each, stride=2, padding=padding, groups=channels)
    return nn.functional.conv_transpose2d(x, 4 * each, stride=2, padding=padding, groups=channels)


class Block(nn.Module):
    """Residual block, then residual self-attention where asked for."""

    skip: nn.Module | None

    def __init__(
        self,
        style: Style,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        taps: Sequence[int],
        *,
        up: bool = False,
        down: bool = False,
        attend: bool = False,
    ) -> None:
        super().__init__()
        self.style, self.dropout = style, dropout
        self.in_channels, self.out_channels = inputs, outputs

        def convolution(inputs: int, kernel: int) -> nn.Conv2d:
            if up or down:
                return ResampledConv(inputs, outputs, kernel, up=up, taps=taps)
            return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

        self.norm0 = group_norm(inputs, style.epsilon)
        self.conv0 = style.initial(convolution(inputs, 3))
        self.affine = style.initial(nn.Linear(embedding, outputs * (2 if style.adaptive else 1)))
        self.norm1 = group_norm(outputs, style.epsilon)
        self.conv1 = style.initial(nn.Conv2d(outputs, outputs, 3, padding=1), "last")
        if inputs != outputs or (style.project and (up or down)):
            self.skip = style.initial(convolution(inputs, 1))
        else:
            self.skip = Resample(up, taps) if up or down else None
        self.heads = 0
        if attend:
            self.heads = style.heads or outputs // CHANNELS_PER_HEAD
        if self.heads:
            divides = outputs % self.heads == 0
            checks.that(divides, f"channels in {self.heads} equal heads of attention", outputs)
            self.norm2 = group_norm(outputs, style.epsilon)
            self.qkv = style.initial(nn.Conv2d(outputs, 3 * outputs, 1), "attention")
            self.proj = style.initial(nn.Conv2d(outputs, outputs, 1), "last")

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` and the embedding ``(B, ·)`` → ``(B, outputs, ·, ·)``."""
        silu = nn.functional.silu
        h: Tensor = self.conv0(silu(self.norm0(x)))
        level = self.affine(embedding)[:, :, None, None]
        if self.style.adaptive:
            scale, shift = level.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm1(h), 1 + scale)
        else:
            h = self.norm1(h + level)
        h = self.conv1(nn.functional.dropout(silu(h), self.dropout, self.training))
        h = self.style.scale * (h + (x if self.skip is None else self.skip(x)))
        if self.heads:
            h = self.style.scale * (h + self.proj(self.attention(h)))
        return h

    def attention(self, h: Tensor) -> Tensor:
        """Among all positions (Vaswani et al. 2017, Eq. 1), in at least float32, like ``h``."""
        qkv = self.qkv(self.norm2(h)).flatten(2)
        qkv = qkv.unflatten(1, (self.heads, h.shape[1] // self.heads, 3))
        # Written out: the fused kernels have no second derivative and no forward mode. Positions
        # come before channels: torch.compile fuses another order into a kernel whose bfloat16
        # gradient is NaN on the CPU (torch 2.13).
        q, k, v = (part.transpose(2, 3) for part in qkv.unbind(3))  # (B, heads, positions, ·)
        precision = torch.promote_types(q.dtype, torch.float32)
        scaled = (k * k.shape[-1] ** -0.5).to(precision)
        weight = (q.to(precision) @ scaled.transpose(2, 3)).softmax(dim=-1).to(v.dtype)
        y: Tensor = (weight @ v).transpose(2, 3).reshape(h.shape)
        return y


class PositionalEmbedding(nn.Module):
    """Cosines, then sines, of ``c`` at geometric frequencies from 1 to 1e-4.

    The slowest is reached with ``endpoint`` alone; without, it would be the next one.
    """

    def __init__(self, features: int, endpoint: bool) -> None:
        super().__init__()
        self.count, self.endpoint = features // 2, endpoint

    def forward(self, c: Tensor) -> Tensor:
        """``(B,)`` → ``(B, features)`` in at least float32."""
        index = torch.arange(self.count, dtype=torch.float32, device=c.device)
        frequencies = SLOWEST ** (index / (self.count - (1 if self.endpoint else 0)))
        return waves(c, frequencies)


class FourierEmbedding(nn.Module):
    """Cosines, then sines, of ``c`` at Gaussian frequencies, which are a buffer."""

    freqs: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        turns = torch.randn(features // 2, dtype=torch.float32, device="cpu")
        self.register_buffer("freqs", (FOURIER_TURNS * turns).to(torch.get_default_device()))

    def forward(self, c: Tensor) -> Tensor:
        """``(B,)`` → ``(B, features)`` in at least float32."""
        return waves(c, 2 * math.pi * self.freqs)


def waves(c: Tensor, frequencies: Tensor) -> Tensor:
    """Cosines and sines of the products, in at least float32."""
    precision = torch.promote_types(c.dtype, torch.float32)
    angle = torch.outer(c.to(precision), frequencies.to(precision))
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def one_hot(label: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """``(B,)`` → ``(B, classes)``; zeros for "no label", the index ``classes``."""
    index = torch.arange(classes, dtype=torch.int64, device=label.device)
    return (label[:, None] == index).to(dtype)


def decode(part: Any, h: Tensor, vector: Tensor, skips: list[Tensor]) -> Tensor:
    """One block of a decoder, which takes the next skip where it has room for it."""
    if h.shape[1] != part.in_channels:
        h = torch.cat([h, skips.pop()], dim=1)
    y: Tensor = part(h, vector)
    return y
