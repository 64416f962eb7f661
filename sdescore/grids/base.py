r"""Time grids: where a sampler evaluates the score.

A grid is a falling sequence of times in float64. It starts at ``T`` exactly and ends at ``t_min``
exactly; a grid made of your own numbers keeps its own ends. The times are a function of an SDE and
of the number of steps. No other code sets a step size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError, TimeError

if TYPE_CHECKING:
    from sdescore.sde.base import SDE

__all__ = ["CustomGrid", "Grid", "UniformGrid"]

NO_LOG_SNR = "which has no log-SNR; use UniformGrid() or your own times"
MOST = 10**7  # steps: more is a slip, and beyond int64 no tensor


class Grid(ABC):
    """A rule that places ``n`` times on ``[t_min, T]``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> class CubicGrid(ss.grids.Grid):
    ...     def times(self, sde, n):
    ...         u = torch.linspace(1, 0, n, dtype=torch.float64)
    ...         return sde.t_min + (sde.T - sde.t_min) * u**3
    >>> sampler = ss.PredictorCorrector(ss.VPSDE(), grid=CubicGrid(), steps=4)
    >>> round(sampler.times[0].item(), 3)
    1.0
    """

    @abstractmethod
    def times(self, sde: SDE, n: int | None) -> Tensor:
        """``(n,)`` float64, strictly falling, first ``T`` and last ``t_min``; ``n = 1`` is ``[T]``.

        Parameters
        ----------
        sde : SDE
            The SDE whose times these are.
        n : int or None
            How many times, >= 1. None for a grid that has a number of its own.

        Raises
        ------
        ScheduleError
            ``n`` is not a positive integer, or the points are too dense to differ.
        """


def step_count(grid: Grid, n: int | None) -> int:
    """``n``, refused unless it is from 1 to ``MOST``; the grid has no number of its own."""
    if n is None:
        expected = f"a number of steps for {type(grid).__name__}"
        checks.refuse(expected, "none; pass steps=", ScheduleError)
    return checks.count("steps", n, at_most=MOST, error=ScheduleError)


def from_T_to_t_min(times: Tensor, sde: SDE) -> Tensor:
    """``times`` with the ends made exact, refused unless they fall."""
    times[-1] = sde.t_min
    times[0] = sde.T  # last: a grid of one time is T
    return require_falling(times, sde.T)


def require_falling(times: Tensor, T: float) -> Tensor:
    """``times``, refused unless strictly falling within ``[0, T]``."""
    if not bool(((times >= 0) & (times <= T)).all()):
        got = f"[{times.min().item():g}, {times.max().item():g}]"
        checks.refuse(f"grid times in [0, {T:g}]", got, TimeError)
    if not bool((torch.diff(times) < 0).all()):
        checks.refuse(
            "strictly falling grid times (noise to data)",
            "a step that is zero or rises; pass the times from T downwards, or use fewer steps",
            ScheduleError,
        )
    return times


@dataclass(frozen=True)
class UniformGrid(Grid):
    """Equal steps in ``t`` (Song et al. 2021, arXiv:2011.13456, algorithms 2–3).

    Examples
    --------
    >>> import sdescore as ss
    >>> [round(v, 4) for v in ss.UniformGrid().times(ss.VPSDE(), 3).tolist()]
    [1.0, 0.5005, 0.001]
    """

    def times(self, sde: SDE, n: int | None) -> Tensor:
        count = step_count(self, n)
        times = torch.linspace(sde.T, sde.t_min, count, dtype=torch.float64, device="cpu")
        return from_T_to_t_min(times, sde)


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

    Examples
    --------
    >>> import sdescore as ss
    >>> sampler = ss.PredictorCorrector(ss.VPSDE(), grid=ss.CustomGrid([1.0, 0.5, 0.1, 0.01]))
    >>> sampler.times.tolist()
    [1.0, 0.5, 0.1, 0.01]
    """

    values: tuple[float, ...]

    def __init__(self, values: Sequence[float] | Tensor) -> None:
        values = checks.numbers("a Grid instance, or times", values, error=ScheduleError)
        vars(self).update(values=values)

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
