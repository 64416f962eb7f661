"""The blocks of NCSN++ and DDPM++ (Song et al. 2021, arXiv:2011.13456, appendix H).

Names of parts and parameters are those of the official code, so that its checkpoints load.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdescore.nets.fir import filtered, fir_down, fir_up
from sdescore.nets.layers_ncsnpp import NIN, convolution, initialised, joined, linear, norm

__all__: list[str] = []


class Attention(nn.Module):
    """Self-attention over all pixels, one head (Ho et al. 2020, appendix B)."""

    def __init__(self, channels: int, scale: float, groups: int | None, skip_rescale: bool) -> None:
        super().__init__()
        self.skip_rescale = skip_rescale
        self.GroupNorm_0 = norm(channels, groups)
        self.NIN_0, self.NIN_1, self.NIN_2 = (NIN(channels, channels) for _ in range(3))
        self.NIN_3 = NIN(channels, channels, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Like ``x`` ``(B, C, H, W)``."""
        h = self.GroupNorm_0(x)
        q, k, v = (part(h).flatten(2).mT for part in (self.NIN_0, self.NIN_1, self.NIN_2))
        # Written out, for the fused kernels have no second derivative; pixels before channels, for
        # compiled bfloat16 had NaN gradients the other way round.
        weight = (q @ (k * x.shape[1] ** -0.5).mT).softmax(dim=-1)
        h = self.NIN_3((weight @ v).mT.reshape(x.shape))
        return joined(x, h, self.skip_rescale)


class Resample(nn.Module):
    """Half or twice the resolution, with or without a convolution and an FIR filter."""

    def __init__(
        self,
        direction: str,
        taps: Sequence[float] | None,
        inputs: int | None = None,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.up, self.taps = direction == "up", taps
        self.convolves = inputs is not None
        if inputs is None:
            return
        # An FIR-filtered image has its margins already; without one they are zeros after the image.
        padding, stride = int(self.up and taps is None), 1 if self.up else 2
        layer = nn.Conv2d(inputs, outputs or inputs, 3, stride=stride, padding=padding)
        self.add_module("Conv_0" if taps is None else "Conv2d_0", initialised(layer))

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        """``(B, C, H, W)`` → ``(B, C', H/2, W/2)`` or ``(B, C', 2H, 2W)``; no time enters."""
        if self.taps is None:
            if self.up:
                x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
            elif self.convolves:
                x = nn.functional.pad(x, (0, 1, 0, 1))
            else:
                x = nn.functional.avg_pool2d(x, 2)
        elif self.up:
            x = fir_up(x, self.taps, beyond=int(self.convolves))
        elif self.convolves:
            margin = len(self.taps)
            x = filtered(x, self.taps, (margin + 1) // 2, margin // 2)
        else:
            x = fir_down(x, self.taps)
        for layer in self.children():
            x = layer(x)
        return x


class Combine(nn.Module):
    """The network's input, resampled, joins the stream: added ("sum") or appended ("cat")."""

    def __init__(self, inputs: int, outputs: int, method: str) -> None:
        super().__init__()
        self.Conv_0 = convolution(inputs, outputs, 1)
        self.method = method

    def forward(self, image: Tensor, h: Tensor) -> Tensor:
        """``(B, C, H, W)``, with C twice that of ``h`` for "cat"."""
        y: Tensor = self.Conv_0(image)
        return y + h if self.method == "sum" else torch.cat([y, h], dim=1)


class ResidualBlock(nn.Module):
    """Norm, activation and convolution, twice, with the time between them.

    ``kind`` is ``"ddpm"`` (Ho et al. 2020) or ``"biggan"`` (Brock et al. 2019), which can resample
    the stream and its branch: ``resample`` is None, ``"up"`` or ``"down"``.
    """

    def __init__(
        self,
        kind: str,
        inputs: int,
        outputs: int,
        embedding: int,
        *,
        act: nn.Module,
        dropout: float,
        scale: float,
        groups: int | None,
        skip_rescale: bool,
        resample: Resample | None = None,
    ) -> None:
        super().__init__()
        self.skip_rescale = skip_rescale
        self.act, self.resample = act, resample
        self.GroupNorm_0 = norm(inputs, groups)
        self.Conv_0 = convolution(inputs, outputs)
        self.Dense_0 = linear(embedding, outputs)
        self.GroupNorm_1 = norm(outputs, groups)
        self.Dropout_0 = nn.Dropout(dropout)
        self.Conv_1 = convolution(outputs, outputs, scale=scale)
        if kind == "biggan" and (inputs != outputs or resample is not None):
            self.Conv_2 = convolution(inputs, outputs, 1)
        elif inputs != outputs:
            self.NIN_0 = NIN(inputs, outputs)

    def forward(self, x: Tensor, vector: Tensor | None) -> Tensor:
        """The stream after the block; ``vector`` ``(B, embedding)`` is the time's."""
        h = self.act(self.GroupNorm_0(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.Conv_0(h)
        if vector is not None:
            h = h + self.Dense_0(self.act(vector))[:, :, None, None]
        h = self.Conv_1(self.Dropout_0(self.act(self.GroupNorm_1(h))))
        if hasattr(self, "Conv_2"):
            x = self.Conv_2(x)
        elif hasattr(self, "NIN_0"):
            x = self.NIN_0(x)
        return joined(x, h, self.skip_rescale)
