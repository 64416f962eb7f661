"""Blocks of a RefineNet's decoder (Lin et al. 2017, arXiv:1611.06612, section 3.2).

They are called as those of :mod:`sdescore.nets.blocks_ncsn`, and have the official code's names.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sdescore.nets.blocks_ncsn import Activation, Normalization, conv

POOLED = 5


class ResidualConvolutions(nn.Module):
    """Residual units of two convolutions."""

    def __init__(self, channels: int, units: int, act: Activation, norm: Normalization) -> None:
        super().__init__()
        self.units, self.act, self.levels = units, act, norm.levels
        for i in range(1, units + 1):
            for j in (1, 2):
                if norm.levels is not None:
                    self.add_module(f"{i}_{j}_norm", norm(channels))
                self.add_module(f"{i}_{j}_conv", conv(channels, channels, bias=False))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Like ``x`` ``(B, C, H, W)``; ``c`` is ``(B,)``."""
        for i in range(1, self.units + 1):
            h = x
            for j in (1, 2):
                if self.levels is not None:
                    h = getattr(self, f"{i}_{j}_norm")(h, c)
                h = getattr(self, f"{i}_{j}_conv")(self.act(h))
            x = x + h
        return x


class Fusion(nn.Module):
    """Multi-resolution fusion: maps of several sizes, brought to the first one's and added."""

    def __init__(self, channels: int, outputs: int, norm: Normalization) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(channels, outputs) for _ in range(2))
        if norm.levels is not None:
            self.norms = nn.ModuleList(norm(channels) for _ in range(2))
        self.levels = norm.levels

    def forward(self, xs: list[Tensor], c: Tensor) -> Tensor:
        """The fine and the coarse map → ``(B, outputs, H, W)`` of the fine one."""
        if self.levels is not None:
            xs = [layer(x, c) for layer, x in zip(self.norms, xs, strict=True)]
        fine, coarse = (layer(x) for layer, x in zip(self.convs, xs, strict=True))
        if coarse.shape != fine.shape:
            size = fine.shape[2:]
            coarse = F.interpolate(coarse, size=size, mode="bilinear", align_corners=True)
        total: Tensor = fine + coarse
        return total


class ChainedPooling(nn.Module):
    """Chained residual pooling: by maxima without levels, by means with them."""

    def __init__(self, channels: int, act: Activation, norm: Normalization) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(channels, channels, bias=False) for _ in range(2))
        if norm.levels is not None:
            self.norms = nn.ModuleList(norm(channels) for _ in range(2))
        self.act, self.levels = act, norm.levels

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Like ``x`` ``(B, C, H, W)``; ``c`` is ``(B,)``."""
        x = path = self.act(x)
        for i, layer in enumerate(self.convs):
            if self.levels is None:
                path = F.max_pool2d(path, POOLED, stride=1, padding=POOLED // 2)
            else:
                path = self.norms[i](path, c)
                path = F.avg_pool2d(path, POOLED, stride=1, padding=POOLED // 2)
            path = layer(path)
            x = x + path
        return x


class Refine(nn.Module):
    """A block of the decoder: the encoder's map and the coarser block's become one map."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        act: Activation,
        norm: Normalization,
        *,
        inputs: int = 2,
        end: bool = False,
    ) -> None:
        super().__init__()
        self.adapt_convs = nn.ModuleList(
            ResidualConvolutions(channels, 2, act, norm) for _ in range(inputs)
        )
        self.output_convs = ResidualConvolutions(outputs, 3 if end else 1, act, norm)
        if inputs > 1:
            self.msf = Fusion(channels, outputs, norm)
        self.crp = ChainedPooling(outputs, act, norm)

    def forward(self, xs: list[Tensor], c: Tensor) -> Tensor:
        """The maps, the fine one first → ``(B, outputs, H, W)`` of the fine one."""
        hs = [layer(x, c) for layer, x in zip(self.adapt_convs, xs, strict=True)]
        h = self.msf(hs, c) if len(hs) > 1 else hs[0]
        y: Tensor = self.output_convs(self.crp(h, c), c)
        return y
