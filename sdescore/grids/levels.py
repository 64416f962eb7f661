"""The levels of a discrete SDE as a grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.grids.base import Grid, Timeline

__all__ = ["LevelGrid"]


@dataclass(frozen=True)
class LevelGrid(Grid):
    """The level table of a discrete SDE, or ``n`` levels spread evenly over it.

    Levels are integers picked from the table, never times rounded to a level.
    """

    def times(self, sde: Timeline, n: int | None) -> Tensor:
        """``(n,)`` float64; all levels for ``n = None``.

        Raises
        ------
        IncompatibleError
            The SDE has no levels.
        ScheduleError
            ``n`` exceeds the number of levels, or is not a positive integer.
        """
        if not hasattr(sde, "level_times"):
            raise IncompatibleError(
                f"expected a discrete SDE for LevelGrid, got {type(sde).__name__}; "
                "use DiscreteVPSDE or DiscreteVESDE, or another grid"
            )
        table = torch.sort(sde.level_times(), descending=True).values
        if n is not None and isinstance(n, int) and n > len(table):
            raise ScheduleError(
                f"expected at most {len(table)} steps, the number of levels, got {n}; "
                "UniformGrid() goes between levels"
            )
        return super().times(sde, len(table) if n is None else n)

    def _times(self, sde: Timeline, n: int) -> Tensor:
        table = torch.sort(sde.level_times(), descending=True).values  # type: ignore[attr-defined]
        picks = torch.linspace(0, len(table) - 1, n, dtype=torch.float64).round().long()
        return table[picks]
