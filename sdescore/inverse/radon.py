r"""The Radon transform of an image by parallel beams: tomography.

.. math:: (A x)(\theta, s) = \int x(s\, \theta + r\, \theta^\perp)\, dr , \qquad
   \theta = (\cos\theta, \sin\theta)

(Radon 1917; Kak & Slaney 1988, "Principles of computerized tomographic imaging", eq. 3.5). Along
each beam the image is sampled at steps of one pixel, bilinearly between pixels, and is 0 outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sdescore import checks
from sdescore.inverse.operators import Constant, Operator, numbers

__all__ = ["Radon"]


class Radon(Operator):
    """Line integrals of each channel of an image, in units of a pixel's side.

    Parameters
    ----------
    event_shape : tuple of int
        ``(*C, H, W)``. Axis W is x and axis H is y, with its origin in the middle.
    angles : sequence of float
        θ in degrees, ``(n,)``. Beams at 0° run along H.
    detectors : int, optional
        Beams an angle, one pixel apart about the middle; by default those that cover the diagonal.
        ``*M`` is ``(*C, n, detectors)``.

    Raises
    ------
    ShapeError
        An event without two axes, or angles that are no row of numbers.
    ParameterError
        A number of detectors that is no positive integer.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> scan = ss.inverse.Radon((5, 5), angles=[0.0, 90.0])
    >>> scan(torch.ones(1, 5, 5)).shape  # two angles, eight lines each
    torch.Size([1, 2, 8])
    """

    def __init__(
        self, event_shape: Sequence[int], angles: Sequence[float], detectors: int | None = None
    ) -> None:
        event = checks.shape(event_shape, "an event (*C, H, W)", 2, 0)
        theta = numbers("angles", angles, (1,), "(n,)").deg2rad()
        H, W = event[-2:]
        diagonal = math.ceil(math.hypot(H, W))
        count = diagonal if detectors is None else checks.count("detectors", detectors)
        super().__init__(event, (*event[:-2], len(theta), count))
        self._size, self._count = H * W, count
        s = torch.arange(count, device="cpu").double()[:, None] - (count - 1) / 2
        r = torch.arange(diagonal, device="cpu").double() - (diagonal - 1) / 2
        self._beams = [self._beam(angle, s, r, H, W) for angle in theta]

    @classmethod
    def examples(cls) -> Sequence[Radon]:
        return [cls((1, 4, 5), [0.0, 30.0, 135.0])]

    def _beam(
        self, angle: Tensor, s: Tensor, r: Tensor, H: int, W: int
    ) -> tuple[Tensor, Tensor, Constant]:
        """Detectors, pixels and weights of one angle: A's entries that are not 0."""
        x = s * angle.cos() - r * angle.sin() + (W - 1) / 2
        y = s * angle.sin() + r * angle.cos() + (H - 1) / 2
        detector = torch.arange(self._count, device="cpu")[:, None].expand_as(x)
        left, low = x.floor(), y.floor()
        found = []
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            column, row = left + i, low + j
            weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
            inside = (column >= 0) & (column < W) & (row >= 0) & (row < H) & (weight > 0)
            pixel = (row * W + column).long()
            found.append((detector[inside] * self._size + pixel[inside], weight[inside]))
        entries, weights = (torch.cat(part) for part in zip(*found, strict=True))
        unique, which = torch.unique(entries, return_inverse=True)
        total = torch.zeros(len(unique), dtype=torch.float64, device="cpu")
        total.index_add_(0, which, weights)
        return unique // self._size, unique % self._size, Constant(total)

    def _apply(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, self._size)
        rows = []
        for detector, pixel, weight in self._beams:
            empty = x.new_zeros(len(flat), self._count)
            parts = flat[:, pixel.to(x.device)] * weight.like(x)
            rows.append(empty.index_add(1, detector.to(x.device), parts))
        return torch.stack(rows, 1).reshape(len(x), *self.measurement_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        rows = y.reshape(-1, len(self._beams), self._count)
        x = y.new_zeros(len(rows), self._size)
        for k, (detector, pixel, weight) in enumerate(self._beams):
            parts = rows[:, k, detector.to(y.device)] * weight.like(y)
            x = x.index_add(1, pixel.to(y.device), parts)
        return x.reshape(len(y), *self.event_shape)
