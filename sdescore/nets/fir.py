r"""Images at half or twice their resolution through a finite impulse response (FIR) filter.

The taps ``k`` along either axis let no frequency be folded onto another (Zhang 2019,
arXiv:1904.11486). With ``k`` of sum 1,

.. math::

    \mathrm{down}(x)_n &= \textstyle\sum_j k_j\, x_{2n + a - j} \\
    \mathrm{up}(x)_n &= 2 \textstyle\sum_i k_{n + b - 2i}\, x_i

with x = 0 outside the image. The shifts a and b centre the taps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__: list[str] = []


def fir_down(x: Tensor, taps: Sequence[float]) -> Tensor:
    """Images ``(B, C, H, W)`` at half their resolution, each axis through the same taps."""
    margin = len(taps) - 2
    return filtered(x, taps, (margin + 1) // 2, margin // 2, step=2)


def fir_up(x: Tensor, taps: Sequence[float], beyond: int = 0) -> Tensor:
    """Images at twice their resolution, with ``beyond`` more pixels on every side."""
    for axis in (2, 3):
        x = _up(x, taps, axis, beyond)
    return x


def filtered(x: Tensor, taps: Sequence[float], before: int, after: int, step: int = 1) -> Tensor:
    """Every ``step``-th value of a convolution of zero-padded images with the taps."""
    total = math.fsum(taps)
    for axis in (2, 3):
        margins = (before, after) if axis == 3 else (0, 0, before, after)
        x = nn.functional.pad(x, margins)
        last = x.shape[axis] - len(taps)
        x = _weighted(
            [_cut(x, axis, j, j + last + 1, step) for j in range(len(taps))],
            [tap / total for tap in reversed(taps)],
        )
    return x


def _up(x: Tensor, taps: Sequence[float], axis: int, beyond: int) -> Tensor:
    # Zeros between the pixels would meet every other tap, so the even results and the odd ones are
    # sums over half of the taps each.
    total, shift = math.fsum(taps) / 2, (len(taps) - 1) // 2 + 1 + beyond
    edge = len(taps) // 2 + beyond + 1
    margins = (edge, edge) if axis == 3 else (0, 0, edge, edge)
    length = x.shape[axis] + beyond
    x = nn.functional.pad(x, margins)
    halves = []
    for odd in (0, 1):
        used = range((shift + odd) % 2, len(taps), 2)
        starts = [edge + (odd + j - shift) // 2 for j in used]
        halves.append(
            _weighted(
                [_cut(x, axis, start, start + length, 1) for start in starts],
                [taps[len(taps) - 1 - j] / total for j in used],
            )
        )
    return torch.stack(halves, axis + 1).flatten(axis, axis + 1)


def _cut(x: Tensor, axis: int, start: int, stop: int, step: int) -> Tensor:
    return x[:, :, start:stop:step] if axis == 2 else x[..., start:stop:step]


def _weighted(parts: list[Tensor], weights: list[float]) -> Tensor:
    y = weights[0] * parts[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        y = torch.add(y, part, alpha=weight)
    return y
