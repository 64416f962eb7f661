r"""Blocks of the encoder of Song & Ermon's RefineNets: instance norm++ and residual blocks.

Every block is called as ``block(h, c)``. The normalisations of 2019 (arXiv:1907.05600, appendix A)
have weights that are looked up by the level ``c``. Those of 2020 (arXiv:2006.09011, section 3.3) do
not use ``c``. Attributes have the official code's names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "elu": F.elu,
    "relu": F.relu,
    "lrelu": partial(F.leaky_relu, negative_slope=0.2),
    "swish": F.silu,
}
EPSILON = 1e-5
INITIAL_SPREAD = 0.02  # around 1, of the scales α and γ


def conv(inputs: int, outputs: int, dilation: int = 1, *, bias: bool = True) -> nn.Conv2d:
    """A convolution of 3×3 pixels that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=bias)


class InstanceNormPlus(nn.Module):
    r"""Instance norm++ (Song & Ermon 2019, appendix A.1), over a sample's channels k:

    .. math:: z_k = \gamma_k \left[\frac{x_k - \mu_k}{s_k}
              + \alpha_k \frac{\mu_k - m}{v}\right] + \beta_k

    :math:`\mu_k, s_k` are mean and standard deviation of a channel, m and v those of the
    :math:`\mu_k`; v with one degree of freedom less, as the official code has it.
    """

    def __init__(self, channels: int, levels: int | None = None) -> None:
        super().__init__()
        self.levels = levels
        if levels is None:
            dtype, device = torch.get_default_dtype(), torch.get_default_device()
            one = torch.ones(channels, dtype=dtype, device=device)
            self.alpha = nn.Parameter(torch.normal(one, INITIAL_SPREAD))
            self.gamma = nn.Parameter(torch.normal(one, INITIAL_SPREAD))
            self.beta = nn.Parameter(0 * one)
        else:
            self.embed = nn.Embedding(levels, 3 * channels)
            with torch.no_grad():
                self.embed.weight[:, : 2 * channels].normal_(1, INITIAL_SPREAD)
                self.embed.weight[:, 2 * channels :].zero_()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Like ``x`` ``(B, C, H, W)``; ``c`` is ``(B,)``."""
        if self.levels is None:
            alpha, gamma, beta = self.alpha, self.gamma, self.beta
        else:
            gamma, alpha, beta = self.embed(c).chunk(3, dim=1)
        mu = x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
        mu = (mu - mu.mean(1, keepdim=True)) / (mu.var(1, keepdim=True) + EPSILON).sqrt()
        shift, scale, offset = (v.to(x.dtype)[..., None, None] for v in (mu * alpha, gamma, beta))
        y: Tensor = scale * (F.instance_norm(x, eps=EPSILON) + shift) + offset
        return y


class LevelInstanceNorm(nn.Module):
    """Instance norm whose scale γ and shift β are looked up by the level."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(levels, 2 * channels)
        with torch.no_grad():
            self.embed.weight[:, :channels].uniform_()
            self.embed.weight[:, channels:].zero_()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Like ``x`` ``(B, C, H, W)``; ``c`` is ``(B,)``."""
        gamma, beta = (v.to(x.dtype)[..., None, None] for v in self.embed(c).chunk(2, dim=1))
        y: Tensor = gamma * F.instance_norm(x, eps=EPSILON) + beta
        return y


@dataclass(frozen=True)
class Normalization:
    """Which normalisation a network has; called with a number of channels, it makes one."""

    levels: int | None = None  # None: the weights do not depend on the level
    plus: bool = True  # instance norm++, else instance norm by level

    def __call__(self, channels: int) -> nn.Module:
        if self.levels is None or self.plus:
            return InstanceNormPlus(channels, self.levels)
        return LevelInstanceNorm(channels, self.levels)


class ConvMeanPool(nn.Module):
    """A convolution and the mean of every 2×2 pixels."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` → ``(B, outputs, H/2, W/2)``."""
        h: Tensor = self.conv(x)
        rows = h[:, :, ::2], h[:, :, 1::2]
        (a, b), (c, d) = ((row[..., ::2], row[..., 1::2]) for row in rows)
        return (a + c + b + d) / 4  # in the official order, which rounds as it does


class Residual(nn.Module):
    """A residual block of the encoder.

    The block that enters a stage changes the number of channels. It halves the size, or, where it
    is dilated, keeps it (Yu et al. 2017, arXiv:1705.09914).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        act: Activation,
        norm: Normalization,
        *,
        enters: bool,
        dilation: int,
    ) -> None:
        super().__init__()
        self.act, self.enters, pools = act, enters, enters and dilation == 1
        self.conv1 = conv(inputs, inputs, dilation)
        self.normalize2 = norm(inputs)
        self.conv2 = ConvMeanPool(inputs, outputs, 3) if pools else conv(inputs, outputs, dilation)
        if enters:
            self.shortcut = (
                ConvMeanPool(inputs, outputs, 1) if pools else conv(inputs, outputs, dilation)
            )
        self.normalize1 = norm(inputs)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` → ``(B, outputs, …)``; ``c`` is ``(B,)``."""
        h = self.conv1(self.act(self.normalize1(x, c)))
        h = self.conv2(self.act(self.normalize2(h, c)))
        y: Tensor = h + (self.shortcut(x) if self.enters else x)
        return y
