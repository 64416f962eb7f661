r"""A box cut into equal cells.

Cells are numbered in C order. A face is named by its normal axis and the two cells it parts;
those on the box's wall let nothing through and do not appear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError

MAX_DIMENSIONS = 3


@dataclass(frozen=True)
class Box:
    """``bounds[a][0] <= x_a <= bounds[a][1]``, cut into ``cells[a]`` equal parts along axis a."""

    bounds: tuple[tuple[float, float], ...]
    cells: tuple[int, ...]

    def __post_init__(self) -> None:
        pairs = isinstance(self.bounds, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 for pair in self.bounds
        )
        if not (
            pairs
            and isinstance(self.cells, tuple)
            and 1 <= len(self.bounds) == len(self.cells) <= MAX_DIMENSIONS
        ):
            checks.refuse(
                f"bounds as a tuple of one to {MAX_DIMENSIONS} pairs (low, high) and cells as a "
                "tuple of as many integers, such as ((-5.0, 5.0),) and (200,)",
                f"{self.bounds!r:.200} and {self.cells!r:.200}",
                ShapeError,
            )
        bounds = []
        for low, high in self.bounds:
            low = checks.number("low", low)
            bounds.append((low, checks.number("high", high, above=low)))
        cells = [checks.count("cells", count, at_least=3) for count in self.cells]
        vars(self).update(bounds=tuple(bounds), cells=tuple(cells))

    @property
    def widths(self) -> tuple[float, ...]:
        """A cell's extent along each axis."""
        pairs = zip(self.bounds, self.cells, strict=True)
        return tuple((high - low) / count for (low, high), count in pairs)

    @property
    def volume(self) -> float:
        """A cell's volume."""
        return math.prod(self.widths)

    @cached_property
    def centres(self) -> Tensor:
        """``(*cells, d)`` float64."""
        return self._lattice()

    def faces(self, axis: int) -> Tensor:
        """Centres of the inner faces normal to an axis, ``(faces, d)`` float64."""
        return self._lattice(axis).flatten(0, -2)

    def sides(self, axis: int) -> tuple[Tensor, Tensor]:
        """Numbers of the cells before and behind each face of :meth:`faces`, ``(faces,)``."""
        number = torch.arange(math.prod(self.cells), dtype=torch.int64, device="cpu")
        number = number.reshape(self.cells)
        inner = self.cells[axis] - 1
        before, behind = number.narrow(axis, 0, inner), number.narrow(axis, 1, inner)
        return before.flatten(), behind.flatten()

    @cached_property
    def outermost(self) -> Tensor:
        """``(*cells,)`` bool: the cells that touch the wall."""
        touching = torch.zeros(self.cells, dtype=torch.bool, device="cpu")
        for axis, count in enumerate(self.cells):
            touching.select(axis, 0).fill_(True)
            touching.select(axis, count - 1).fill_(True)
        return touching

    def _lattice(self, normal: int | None = None) -> Tensor:
        """Centres of all cells, or of the inner faces of one normal axis, ``(…, d)``."""
        lines = []
        for axis, ((low, _), width) in enumerate(zip(self.bounds, self.widths, strict=True)):
            count, offset = self.cells[axis], 0.5
            if axis == normal:
                count, offset = count - 1, 1.0
            steps = torch.arange(count, dtype=torch.float64, device="cpu") + offset
            lines.append(low + steps * width)
        return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1)
