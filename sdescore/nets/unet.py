r"""A U-Net: encoder, decoder, and a skip from every encoder block to its decoder twin.

Ronneberger et al. 2015 with the residual blocks of Ho et al. 2020 (appendix B): GroupNorm, SiLU,
convolution with a kernel of 3 along each axis, twice. Time enters every block by scale and shift
(FiLM, Perez et al. 2018, Eq. 2):

.. math::

    u &= \mathrm{norm}\big(W_1 * \mathrm{silu}(\mathrm{norm}(h))\big) \\
    h &\leftarrow h + W_2 * \mathrm{silu}\big((1 + \gamma(c)) \odot u + \beta(c)\big)

Nothing reduces over the batch: a sample's output does not depend on the others in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.nets.mlp import Conditioning

__all__ = ["UNet"]

MAX_GROUPS = 32
CHANNELS_PER_GROUP = 4
CHANNELS_PER_HEAD = 32
CONVOLUTIONS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
SIZES = {1: "L", 2: "HW", 3: "DHW"}


def _divisor(channels: int, most: int) -> int:
    """The largest divisor of ``channels`` that is at most ``most`` (and at least 1)."""
    return max(g for g in range(1, max(1, most) + 1) if channels % g == 0)


def _norm(channels: int) -> nn.GroupNorm:
    most = min(MAX_GROUPS, channels // CHANNELS_PER_GROUP)
    return nn.GroupNorm(_divisor(channels, most), channels)


def _zero(layer: nn.Module) -> nn.Module:
    """A layer set to 0, so that the branch it ends starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class UNet(nn.Module):
    """A network for series, images or volumes ``(B, channels, *size)`` of any size, odd or even.

    Parameters
    ----------
    channels : int
        Channels of the data, and of the output.
    width : int
        Channels at full resolution.
    multipliers : sequence of int
        Width of each level over ``width``; each level after the first halves the resolution,
        rounding up.
    blocks : int
        Residual blocks per level, in the encoder and again in the decoder.
    attention : sequence of int
        Levels with self-attention after every block, among all positions; 0 is full resolution.
        Memory grows with the square of a level's number of positions.
    embedding, embedding_scale, classes
        As in :class:`sdescore.MLP`.
    embedding_dim : int or None
        Number of time features; even. None is ``2 * width``.
    dropout : float
        Probability in ``[0, 1)``, in every residual block, in training mode only.
    dimensions : int
        Axes of the data after its channels: 1 for series ``(B, channels, L)``, 2 for images
        ``(B, channels, H, W)``, 3 for volumes ``(B, channels, D, H, W)``.

    Attributes
    ----------
    config : dict[str, Any]
        JSON-able arguments; ``UNet(**net.config)`` builds the same architecture.

    Raises
    ------
    ParameterError, IncompatibleError
        As :class:`sdescore.MLP`.

    Examples
    --------
    >>> import torch
    >>> net = UNet(1, width=16, multipliers=(1, 2), blocks=1)
    >>> net(torch.randn(2, 1, 8, 8), torch.rand(2)).shape
    torch.Size([2, 1, 8, 8])
    >>> net = UNet(3, width=16, multipliers=(1, 2), blocks=1, dimensions=1)
    >>> net(torch.randn(2, 3, 101), torch.rand(2)).shape
    torch.Size([2, 3, 101])
    """

    config: dict[str, Any]

    def __init__(
        self,
        channels: int,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (),
        embedding: str = "positional",
        embedding_dim: int | None = None,
        embedding_scale: float | None = None,
        dropout: float = 0.0,
        classes: int | None = None,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        dimensions = checks.count("dimensions", dimensions, at_most=3)
        conv = CONVOLUTIONS[dimensions]
        channels, width = checks.count("channels", channels), checks.count("width", width)
        blocks = checks.count("blocks", blocks)
        dropout = checks.number("dropout", dropout, at_least=0, below=1)
        multipliers = [checks.count("every multiplier", m) for m in multipliers]
        checks.that(bool(multipliers), "at least one multiplier", "none; use (1,) for one level")
        last = len(multipliers) - 1
        attention = [
            checks.count("attention level", level, at_least=0, at_most=last) for level in attention
        ]
        dim = 2 * width if embedding_dim is None else embedding_dim
        self.condition = Conditioning(embedding, dim, embedding_scale, classes)
        dim = int(dim)
        self.config = {
            "channels": channels,
            "width": width,
            "multipliers": multipliers,
            "blocks": blocks,
            "attention": attention,
            "dropout": dropout,
            "dimensions": dimensions,
            **self.condition.config,
        }
        widths = [width * m for m in multipliers]

        def block(inputs: int, outputs: int, level: int) -> _Block:
            return _Block(dimensions, inputs, outputs, dim, dropout, attend=level in attention)

        self.first = conv(channels, width, 3, padding=1)
        self.encoder, self.down = nn.ModuleList(), nn.ModuleList()
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        above = width
        for level, here in enumerate(widths):
            if level > 0:
                self.down.append(conv(above, above, 3, stride=2, padding=1))
                self.up.append(conv(here, above, 3, padding=1))
            for i in range(blocks):
                self.encoder.append(block(above if i == 0 else here, here, level))
                self.decoder.append(block(2 * here, here, level))
            above = here
        self.middle = block(above, above, len(widths) - 1)
        self.norm = _norm(widths[0])
        self.last = _zero(conv(widths[0], channels, 3, padding=1))

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        """The output, like ``x`` ``(B, channels, *size)``; see :meth:`sdescore.MLP.forward`."""
        checks.state(x)
        channels, sizes = self.config["channels"], SIZES[self.config["dimensions"]]
        if x.ndim != 2 + len(sizes) or x.shape[1] != channels or 0 in x.shape[2:]:
            got = f"{tuple(x.shape)}; reshape x, or build the network for its dimensions"
            checks.refuse(f"x of shape (B, {channels}, {', '.join(sizes)})", got, ShapeError)
        vector = self.condition(x, c, label)
        h = self.first(x)
        levels, blocks = len(self.config["multipliers"]), self.config["blocks"]
        skips: list[Tensor] = []
        for level in range(levels):
            if level > 0:
                h = self.down[level - 1](h)
            for i in range(level * blocks, (level + 1) * blocks):
                h = self.encoder[i](h, vector)
                skips.append(h)
        h = self.middle(h, vector)
        for level in reversed(range(levels)):
            for i in range(level * blocks, (level + 1) * blocks):
                h = self.decoder[i](torch.cat([h, skips.pop()], dim=1), vector)
            if level > 0:
                # An odd size was rounded up on the way down: aim at the skip, not at twice.
                size = skips[-1].shape[2:]
                h = self.up[level - 1](nn.functional.interpolate(h, size=size, mode="nearest"))
        y: Tensor = self.last(nn.functional.silu(self.norm(h)))
        return y


class _Block(nn.Module):
    """Residual block, then self-attention where asked for."""

    def __init__(
        self,
        dimensions: int,
        inputs: int,
        outputs: int,
        embedding_dim: int,
        dropout: float,
        *,
        attend: bool,
    ) -> None:
        super().__init__()
        conv, ones = CONVOLUTIONS[dimensions], (1,) * dimensions
        self.enter = nn.Sequential(
            _norm(inputs), nn.SiLU(), conv(inputs, outputs, 3, padding=1), _norm(outputs)
        )
        self.film = nn.Sequential(
            nn.Linear(embedding_dim, 2 * outputs), nn.Unflatten(1, (2 * outputs, *ones))
        )
        self.leave = nn.Sequential(
            nn.SiLU(), nn.Dropout(dropout), _zero(conv(outputs, outputs, 3, padding=1))
        )
        self.skip = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)
        self.attention = _Attention(dimensions, outputs) if attend else nn.Identity()

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        scale, shift = self.film(vector).chunk(2, dim=1)
        branch = self.leave(torch.addcmul(shift, self.enter(h), 1.0 + scale))
        y: Tensor = self.attention(self.skip(h) + branch)
        return y


class _Attention(nn.Module):
    """Residual self-attention over all positions (Vaswani et al. 2017, Eq. 1), several heads."""

    def __init__(self, dimensions: int, channels: int) -> None:
        super().__init__()
        conv = CONVOLUTIONS[dimensions]
        self.heads = _divisor(channels, channels // CHANNELS_PER_HEAD)
        self.norm = _norm(channels)
        self.qkv = conv(channels, 3 * channels, 1)
        self.out = _zero(conv(channels, channels, 1))

    def forward(self, h: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(h)).flatten(2).unflatten(1, (3 * self.heads, -1))
        q, k, v = qkv.transpose(2, 3).chunk(3, dim=1)  # each (B, heads, positions, channels)
        # Written out: the fused kernels have no second derivative and no forward mode,
        # which score matching by derivatives and exact divergences need.
        weight = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(dim=-1)
        y: Tensor = h + self.out((weight @ v).transpose(2, 3).reshape(h.shape))
        return y
