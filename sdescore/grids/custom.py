"""A grid of your own times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError
from sdescore.grids.base import Grid, require_falling

if TYPE_CHECKING:
    from sdescore.sde.base import SDE

__all__ = ["CustomGrid"]


@dataclass(frozen=True)
class CustomGrid(Grid):
    """Your own falling times, from ``T`` or below to the time of the last evaluation.

    Parameters
    ----------
    values : sequence of float
        Strictly falling; a tensor is accepted and stored as floats.

    Raises
    ------
    ScheduleError
        Not a one-dimensional sequence of finite numbers.
    """

    values: tuple[float, ...]

    def __init__(self, values: Sequence[float] | Tensor) -> None:
        vars(self).update(
            values=checks.numbers("a Grid instance, or times", values, error=ScheduleError)
        )

    def times(self, sde: SDE, n: int | None) -> Tensor:
        """The times, ``(n,)`` float64, refused unless they fall within the SDE's range.

        Raises
        ------
        ScheduleError
            ``n`` differs from their number, or they do not fall.
        TimeError
            A time lies outside ``[0, T]``.
        """
        if n is not None and n != len(self.values):
            expected = f"no steps= beside your own grid, or {len(self.values)}"
            checks.refuse(expected, n, ScheduleError)
        times = torch.tensor(self.values, dtype=torch.float64, device="cpu")
        return require_falling(times, sde.T)
