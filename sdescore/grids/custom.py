"""A grid of your own times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.errors import ScheduleError
from sdescore.grids.base import Grid, Timeline, require_falling

__all__ = ["CustomGrid"]


def as_floats(values: Sequence[float] | Tensor, expected: str) -> tuple[float, ...]:
    """A one-dimensional sequence of at least one number, as floats."""
    try:
        flat = torch.as_tensor(values, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise ScheduleError(f"expected {expected}, got {values!r:.200}") from None
    if flat.ndim != 1 or len(flat) < 1:
        raise ScheduleError(f"expected {expected}, one-dimensional, got shape {tuple(flat.shape)}")
    return tuple(flat.tolist())


@dataclass(frozen=True)
class CustomGrid(Grid):
    """Your own times, from ``T`` (or below) falling to the last evaluation.

    Parameters
    ----------
    values : sequence of float
        Strictly falling; a tensor is accepted and kept as floats.

    Raises
    ------
    ScheduleError
        Not a one-dimensional sequence of numbers.
    """

    values: tuple[float, ...]

    def __init__(self, values: Sequence[float] | Tensor) -> None:
        numbers = as_floats(values, "a Grid instance or a sequence of times")
        object.__setattr__(self, "values", numbers)

    def times(self, sde: Timeline, n: int | None) -> Tensor:
        """The given times, checked against the SDE's range.

        Raises
        ------
        ScheduleError
            ``n`` is given and differs from their number, or they do not fall.
        TimeError
            A time lies outside ``[0, T]``.
        """
        if n is not None and n != len(self.values):
            raise ScheduleError(
                f"expected no steps= beside your own grid, or {len(self.values)}, got {n}"
            )
        own = torch.tensor(self.values, dtype=torch.float64, device="cpu")
        return require_falling(own, sde.T)

    def _times(self, sde: Timeline, n: int) -> Tensor:
        return self.times(sde, n)
