r"""ADM, the U-Net of guided diffusion (Dhariwal & Nichol 2021, arXiv:2105.05233, section 3).

Residual blocks with group norms, self-attention at some resolutions, and skips from every block of
the encoder to the decoder. The embedding e of the level (and class) acts by scale and shift,
"adaptive group normalisation" (their eq. 3):

.. math:: \mathrm{AdaGN}(h, e) = (1 + e_s)\, \mathrm{GroupNorm}(h) + e_b .

Names and shapes of the weights are those of the released networks, which thus load strictly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.nets.learned_variance import halves
from sdescore.nets.mlp import check_label

__all__ = ["ADM"]

GROUPS = 32


def level_embedding(c: Tensor, dim: int) -> Tensor:
    """Cosines, then sines, of levels ``(B,)`` at frequencies 1 … 1/10000: ``(B, dim)``."""
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=c.device)
    angles = c.float()[:, None] * torch.exp(-math.log(10000) * index / half)
    found = torch.cat([angles.cos(), angles.sin()], 1)
    return F.pad(found, (0, dim % 2))


def zero(layer: nn.Module) -> nn.Module:
    """A layer whose weights start at 0, so that its branch starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Resample(nn.Module):
    """Twice the size by repeating pixels, or half of it by means; or with a convolution.

    The released code calls the convolution ``conv`` where the size grows and ``op`` where it falls.
    """

    def __init__(self, channels: int, up: bool, convolution: bool) -> None:
        super().__init__()
        self.up = up
        if convolution and up:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        elif convolution:
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        if self.up:
            h = F.interpolate(h, scale_factor=2, mode="nearest")
            return self.conv(h) if hasattr(self, "conv") else h
        return self.op(h) if hasattr(self, "op") else F.avg_pool2d(h, 2)


class ResBlock(nn.Module):
    """A residual block, which may also change the size (``resample`` 2 or 0.5)."""

    def __init__(
        self, channels: int, out: int, dim: int, dropout: float, shift: bool, resample: float = 1
    ) -> None:
        super().__init__()
        self.shift, changed = shift, resample != 1
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.resample = Resample(channels, resample > 1, False) if changed else nn.Identity()
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(dim, out * (2 if shift else 1)))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, out),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero(nn.Conv2d(out, out, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        norm, activation, convolution = self.in_layers
        h = convolution(self.resample(activation(norm(x))))
        e = self.emb_layers(e)[:, :, None, None]
        if self.shift:
            scale, shift = e.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + e)
        found: Tensor = self.skip_connection(self.resample(x)) + h
        return found


class AttentionBlock(nn.Module):
    """Self-attention over pixels; ``new_order`` splits into q, k, v before the heads."""

    def __init__(self, channels: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        flat = x.flatten(2)
        y = self.qkv(self.norm(flat))
        if self.new_order:
            q, k, v = y.unflatten(1, (3, self.heads, -1)).unbind(1)
        else:
            q, k, v = y.unflatten(1, (self.heads, 3, -1)).unbind(2)
        q, k, v = q.mT, k.mT, v.mT  # (B, heads, pixels, channels)
        # Written out, for the fused kernels have no second derivative.
        weight = (q @ (k * q.shape[-1] ** -0.5).mT).softmax(-1)
        found: Tensor = (flat + self.proj_out((weight @ v).mT.flatten(1, 2))).view_as(x)
        return found


class Stage(nn.Sequential):
    """Layers one after the other; those that take the embedding get it."""

    def forward(self, h: Tensor, e: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            h = layer(h, e) if isinstance(layer, ResBlock | AttentionBlock) else layer(h)
        return h


class ADM(nn.Module):
    """The network of guided diffusion for square images ``(B, channels, size, size)``.

    Parameters
    ----------
    size : int
        Height and width of the images that ``attention`` counts; others work too, if
        ``2**(len(multipliers) − 1)`` divides them.
    channels, width : int
        Channels of an image, and of the first features; every multiple of ``width`` that occurs is
        a multiple of 32.
    multipliers : sequence of float
        Features at each resolution, as multiples of ``width``.
    blocks : int
        Residual blocks at each resolution.
    attention : sequence of int
        Resolutions with self-attention, in pixels.
    heads : int
        Attention heads, where ``head_channels`` is None.
    head_channels : int, optional
        Channels of a head.
    classes : int, optional
        Number of classes. The label ``classes``, or none, means "no label": no embedding is added.
        The published class-conditional networks were trained with labels alone.
    learned_variance : bool
        Whether there are as many channels again, for the variance (:meth:`with_variance`).
    scale_shift, resample_blocks, new_attention : bool
        AdaGN, else addition; residual blocks that change the size, else convolutions; the order of
        q, k, v and heads.
    dropout : float
        In [0, 1).

    Raises
    ------
    ParameterError
        A number is out of range, or a number of channels no multiple of 32.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> net = ss.nets.ADM(size=16, width=32, multipliers=(1, 2), blocks=1, attention=(8,))
    >>> net(torch.zeros(2, 3, 16, 16), torch.tensor([0.0, 500.0])).shape
    torch.Size([2, 3, 16, 16])
    """

    config: dict[str, Any]

    def __init__(
        self,
        *,
        size: int,
        channels: int = 3,
        width: int = 128,
        multipliers: Sequence[float] = (1, 2, 3, 4),
        blocks: int = 2,
        attention: Sequence[int] = (32, 16, 8),
        heads: int = 4,
        head_channels: int | None = None,
        classes: int | None = None,
        learned_variance: bool = False,
        scale_shift: bool = True,
        resample_blocks: bool = True,
        new_attention: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        counts = {"size": size, "channels": channels, "width": width, "blocks": blocks}
        counts |= {"heads": heads}
        self.config = {name: checks.count(name, value) for name, value in counts.items()}
        self.config |= {
            "multipliers": list(checks.numbers("multipliers", multipliers)),
            "attention": [checks.count("attention", n) for n in attention],
            "head_channels": head_channels,
            "classes": None if classes is None else checks.count("classes", classes),
            "learned_variance": checks.flag("learned_variance", learned_variance),
            "scale_shift": checks.flag("scale_shift", scale_shift),
            "resample_blocks": checks.flag("resample_blocks", resample_blocks),
            "new_attention": checks.flag("new_attention", new_attention),
            "dropout": checks.number("dropout", dropout, at_least=0, below=1),
        }  # fmt: skip
        self.channels, self.width, dim = channels, width, 4 * width
        sizes = [int(m * width) for m in multipliers]
        got = f"{[n for n in sizes if n % GROUPS or n == 0]}; choose another width"
        checks.that(all(n and n % GROUPS == 0 for n in sizes), "channels in multiples of 32", got)
        self.time_embed = nn.Sequential(nn.Linear(width, dim), nn.SiLU(), nn.Linear(dim, dim))
        if classes is not None:
            self.label_emb = nn.Embedding(classes, dim)

        def block(a: int, b: int, resample: float = 1) -> ResBlock:
            return ResBlock(a, b, dim, dropout, scale_shift, resample)

        def resized(n: int, factor: float) -> nn.Module:
            return block(n, n, factor) if resample_blocks else Resample(n, factor > 1, True)

        def attend(n: int, resolution: int | None) -> list[nn.Module]:
            many = heads if head_channels is None else max(1, n // head_channels)
            here = resolution is None or resolution in attention
            return [AttentionBlock(n, many, new_attention)] if here else []

        n, resolution = sizes[0], size
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(channels, n, 3, padding=1))])
        skips = [n]
        for level, out in enumerate(sizes):
            for _ in range(blocks):
                self.input_blocks.append(Stage(block(n, out), *attend(out, resolution)))
                n = out
                skips.append(n)
            if level < len(sizes) - 1:
                self.input_blocks.append(Stage(resized(n, 0.5)))
                skips.append(n)
                resolution //= 2
        self.middle_block = Stage(block(n, n), *attend(n, None), block(n, n))
        self.output_blocks = nn.ModuleList()
        for level, out in reversed(list(enumerate(sizes))):
            for i in range(blocks + 1):
                layers = [block(n + skips.pop(), out), *attend(out, resolution)]
                n = out
                if level and i == blocks:
                    layers.append(resized(n, 2))
                    resolution *= 2
                self.output_blocks.append(Stage(*layers))
        last = zero(nn.Conv2d(n, channels * (2 if learned_variance else 1), 3, padding=1))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, n), nn.SiLU(), last)

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        """ε at ``x`` ``(B, channels, H, W)`` and levels ``c`` ``(B,)``, like ``x``.

        Raises
        ------
        ShapeError
            ``x`` has other channels or an odd size, or a label is wrong or not taken.
        """
        return self.full(x, c, label)[:, : self.channels]

    @property
    def has_variance(self) -> bool:
        """Whether the network has a learned variance."""
        learned: bool = self.config["learned_variance"]
        return learned

    def with_variance(
        self, x: Tensor, c: Tensor, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The prediction and the learned variance v, each like ``x``; see :meth:`forward`."""
        return halves(self.full(x, c, label), x)

    def full(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        """All channels: those of a learned variance after those of :meth:`forward`."""
        factor, size = 2 ** (len(self.config["multipliers"]) - 1), tuple(x.shape[1:])
        fits = x.ndim == 4 and x.shape[1] == self.channels and not any(s % factor for s in size[1:])
        expected = f"x of shape (B, {self.channels}, H, W), H and W multiples of {factor}"
        checks.that(fits, expected, tuple(x.shape), ShapeError)
        e = self.time_embed(level_embedding(c, self.width).to(x.dtype))
        if label is not None:
            classes = self.config["classes"]
            checks.that(
                classes is not None, "no label for an ADM without classes=", "one", ShapeError
            )
            check_label(label, x, classes)
            embedded = self.label_emb(label.clamp(max=classes - 1))
            e = e + torch.where((label < classes)[:, None], embedded, 0)
        h, skips = x, []
        for stage in self.input_blocks:
            h = stage(h, e)
            skips.append(h)
        h = self.middle_block(h, e)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], 1), e)
        found: Tensor = self.out(h)
        return found
