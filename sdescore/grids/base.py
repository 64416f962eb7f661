r"""Time grids: where a sampler evaluates the score.

A grid is a falling sequence of times that starts at ``T`` exactly and ends at ``t_min``
exactly, in float64; only those made of your own numbers keep their own ends. Its points follow
from an SDE and a number; nothing else knows ``dt``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from sdescore.errors import IncompatibleError, ScheduleError, TimeError
from sdescore.typing import Time

__all__ = ["Grid"]


class Timeline(Protocol):
    """What a grid needs of an SDE."""

    @property
    def T(self) -> float: ...
    @property
    def t_min(self) -> float: ...


class Grid(ABC):
    """A rule that places ``n`` times on ``[t_min, T]``."""

    def times(self, sde: Timeline, n: int | None) -> Tensor:
        """``(n,)`` float64, strictly falling, first ``T`` and last ``t_min``; ``n = 1`` is ``[T]``.

        Raises
        ------
        ScheduleError
            ``n`` is not a positive integer, or the points are too dense to differ.
        """
        if n is None:
            raise ScheduleError(
                f"expected a number of steps for {type(self).__name__}, got none; pass steps="
            )
        require_steps(n)
        if n == 1:
            return torch.tensor([sde.T], dtype=torch.float64)
        times = self._times(sde, n)
        times[0], times[-1] = sde.T, sde.t_min
        return require_falling(times, sde.T)

    @abstractmethod
    def _times(self, sde: Timeline, n: int) -> Tensor:
        """``n >= 2`` falling times; the end points are set exactly afterwards."""


def require_steps(n: int) -> None:
    """Refuse a number of steps that is no positive integer."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ScheduleError(f"expected steps to be a positive integer, got {n!r}")


def require_falling(times: Tensor, T: float) -> Tensor:
    """``times``, refused unless strictly falling within ``[0, T]``."""
    if not bool(((times >= 0) & (times <= T)).all()):
        raise TimeError(
            f"expected grid times in [0, {T:g}], got "
            f"[{times.min().item():g}, {times.max().item():g}]"
        )
    if not bool((torch.diff(times) < 0).all()):
        raise ScheduleError(
            "expected strictly falling grid times (noise to data); some step is zero or rises. "
            "Pass the times from T downwards, or use fewer steps"
        )
    return times


class LogSNRTimeline(Timeline, Protocol):
    """What a grid in log-SNR needs of an SDE."""

    def log_snr(self, t: Time) -> Tensor: ...
    def time_at_log_snr(self, log_snr: Time) -> Tensor: ...


def require_log_snr(sde: Timeline, grid: Grid) -> LogSNRTimeline:
    """``sde``, refused unless it has a log-SNR."""
    if not hasattr(sde, "time_at_log_snr"):
        raise IncompatibleError(
            f"expected a LinearSDE for {type(grid).__name__}, got {type(sde).__name__}, which has "
            "no log-SNR; use UniformGrid() or your own times"
        )
    linear: LogSNRTimeline = sde  # type: ignore[assignment]
    return linear


def log_snr_ends(sde: Timeline, grid: Grid) -> tuple[float, float, LogSNRTimeline]:
    """The log-SNR at ``T`` and ``t_min``, refused unless both are finite."""
    linear = require_log_snr(sde, grid)
    ends = linear.log_snr(torch.tensor([sde.T, sde.t_min], dtype=torch.float64))
    if not bool(ends.isfinite().all()):
        raise ScheduleError(
            f"expected finite log-SNR at T and t_min for {type(grid).__name__}, got "
            f"{ends.tolist()}; raise t_min above 0"
        )
    return ends[0].item(), ends[1].item(), linear
