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
    start = len(taps) // 2 - 1 - beyond  # of the images wanted in the whole convolution
    cut = max(start, 0)
    kernel = _kernel(x, taps, 2.0)
    y = nn.functional.conv_transpose2d(x, kernel, stride=2, padding=cut, groups=x.shape[1])
    margins: list[int] = []
    for axis in (3, 2):
        missing = 2 * (x.shape[axis] + beyond) - y.shape[axis]
        margins += [cut - start, missing - (cut - start)]
    return nn.functional.pad(y, margins) if any(margins) else y


def filtered(x: Tensor, taps: Sequence[float], before: int, after: int, step: int = 1) -> Tensor:
    """Every ``step``-th value of the convolution of images, between margins of zeros.

    ``before`` is at least ``after``.
    """
    kernel = _kernel(x, taps[::-1], 1.0)
    y = nn.functional.conv2d(x, kernel, stride=step, padding=before, groups=x.shape[1])
    rows, columns = ((n + before + after - len(taps)) // step + 1 for n in x.shape[2:])
    return y[:, :, :rows, :columns]


def _kernel(x: Tensor, taps: Sequence[float], total: float) -> Tensor:
    """The taps of either axis, scaled to a sum, as the kernel ``(C, 1, K, K)`` of every channel."""
    # Filled on the device: a copy from the host would stop the capture of a CUDA graph.
    scale = total / math.fsum(taps)
    row = torch.cat([x.new_full((1,), scale * tap) for tap in taps])
    return torch.outer(row, row).expand(x.shape[1], 1, -1, -1)
