"""The levels of a discrete SDE as a grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.grids.base import Grid, from_T_to_t_min

if TYPE_CHECKING:
    from sdescore.sde.base import SDE

__all__ = ["LevelGrid"]


@dataclass(frozen=True)
class LevelGrid(Grid):
    """The level table of a discrete SDE, or ``n`` levels spread evenly over it.

    The levels are chosen as integers; no time is ever rounded to a level.

    Examples
    --------
    >>> import sdescore as ss
    >>> sde = ss.DiscreteVPSDE.linear()
    >>> len(ss.LevelGrid().times(sde, 1000))
    1000
    """

    def times(self, sde: SDE, n: int | None) -> Tensor:
        """``(n,)`` float64; all levels for ``n = None``.

        Raises
        ------
        IncompatibleError
            The SDE has no levels.
        ScheduleError
            ``n`` is no integer between 1 and the number of levels.
        """
        if not hasattr(sde, "level_times"):
            got = f"{type(sde).__name__}; use DiscreteVPSDE or DiscreteVESDE, or another grid"
            checks.refuse("a discrete SDE for LevelGrid", got, IncompatibleError)
        table = torch.sort(sde.level_times(), descending=True).values
        count = len(table) if n is None else n
        count = checks.count("steps", count, at_most=len(table), error=ScheduleError)
        last = len(table) - 1
        picks = torch.linspace(0, last, count, dtype=torch.float64, device="cpu").round().long()
        return from_T_to_t_min(table[picks], sde)
