"""A box cut into equal cells, and densities on them.

Cells are numbered in C order. A face is named by its normal axis and the two cells it parts;
those on the box's wall let nothing through and do not appear.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import SDEScoreError, ShapeError

MAX_DIMENSIONS = 3
LogDensity = Callable[[Tensor], Tensor]
"""``(N, d) -> (N,)``, up to a constant."""


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
        number, inner = number.reshape(self.cells), self.cells[axis] - 1
        return number.narrow(axis, 0, inner).flatten(), number.narrow(axis, 1, inner).flatten()

    @cached_property
    def outermost(self) -> Tensor:
        """``(*cells,)`` bool: the cells that touch the wall."""
        touching = torch.ones(self.cells, dtype=torch.bool, device="cpu")
        touching[(slice(1, -1),) * len(self.cells)] = False
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

    def from_log_density(self, log_density: LogDensity) -> Tensor:
        """``exp(log_density)`` at the cells' centres, scaled to mass 1: ``(*cells,)`` float64."""
        points = self.centres.flatten(0, -2)
        with torch.no_grad():
            values = at_float64("a log density", log_density, points)
        fits = isinstance(values, Tensor) and values.shape == points.shape[:1]
        expected = f"a log density (N, d) -> (N,), with N = {len(points)} here"
        checks.that(fits, expected, _shape(values), ShapeError)
        values = values.double()
        top = values.max().item()
        expected = "a log density below +inf, finite on some cell"
        checks.that(checks.is_number(top), expected, f"a maximum {top}")
        return self.normalised((values - top).exp().reshape(self.cells))

    def normalised(self, p: Tensor) -> Tensor:
        """``p`` ``(*cells,)`` scaled to mass 1, float64; refused if it is no density."""
        fits = isinstance(p, Tensor) and p.shape == self.cells
        checks.that(fits, f"p0 as a log density or a tensor {self.cells}", _shape(p), ShapeError)
        p = p.detach().to(device="cpu", dtype=torch.float64)
        checks.that(bool((p >= 0).all()), "p0 >= 0", f"a smallest value {p.min().item():g}")
        total = p.sum()
        checks.number("sum of p0", total.item(), above=0)
        return p / (total * self.volume)

    def flat_density(self, p: Tensor) -> Tensor:
        """``(…, *cells)`` → ``(…, N)`` float64."""
        d = len(self.cells)
        fits = isinstance(p, Tensor) and p.ndim >= d and p.shape[-d:] == self.cells
        checks.that(fits, f"densities (…, *cells) with cells {self.cells}", _shape(p), ShapeError)
        return p.double().flatten(-d)


def at_float64(what: str, function: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """``function(points)`` of float64 ``points``; one that takes float32 alone is refused."""
    try:
        return function(points)
    except RuntimeError as error:
        if isinstance(error, SDEScoreError):
            raise
        try:
            function(points.float())
        except Exception:
            raise error from None
        raise ShapeError(
            f"expected {what} to take states in float64; got one that takes float32 alone "
            f"({error}); use .double() on its network"
        ) from error


def _shape(value: object) -> object:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
