r"""Time grids: where a sampler evaluates the score.

A grid is a falling sequence of times that starts at ``T`` exactly and ends at ``t_min``
exactly, in float64; only those made of your own numbers keep their own ends. Its points follow
from an SDE and a number; nothing else knows ``dt``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sdescore.errors import IncompatibleError, ScheduleError, TimeError
from sdescore.typing import Time

__all__ = [
    "CosineGrid",
    "CustomGrid",
    "Grid",
    "KarrasGrid",
    "LevelGrid",
    "LogSNRGrid",
    "QuadraticGrid",
    "UniformGrid",
]


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


@dataclass(frozen=True)
class UniformGrid(Grid):
    """Equal steps in ``t`` (Song et al. 2021, arXiv:2011.13456, algorithms 2–3)."""

    def _times(self, sde: Timeline, n: int) -> Tensor:
        return torch.linspace(sde.T, sde.t_min, n, dtype=torch.float64)


@dataclass(frozen=True)
class QuadraticGrid(Grid):
    """Equal steps in ``√t`` (Song, Meng & Ermon 2021, arXiv:2010.02502, appendix D.2)."""

    def _times(self, sde: Timeline, n: int) -> Tensor:
        return torch.linspace(sde.T**0.5, sde.t_min**0.5, n, dtype=torch.float64).square()


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


@dataclass(frozen=True)
class LogSNRGrid(Grid):
    """Equal steps in log-SNR (Lu et al. 2022, arXiv:2206.00927, section 3.3)."""

    def _times(self, sde: Timeline, n: int) -> Tensor:
        first, last, linear = log_snr_ends(sde, self)
        return linear.time_at_log_snr(torch.linspace(first, last, n, dtype=torch.float64))


@dataclass(frozen=True)
class KarrasGrid(Grid):
    r"""Equal steps in :math:`(\sigma/\alpha)^{1/\rho}` (Karras et al. 2022,
    arXiv:2206.00364, eq. 5).

    Parameters
    ----------
    rho : float
        ρ > 0; the paper's 7. Large ρ tends to :class:`LogSNRGrid`.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        number = isinstance(self.rho, int | float)
        if not number or not 0 < self.rho < math.inf:
            raise ScheduleError(f"expected a finite rho > 0, got rho={self.rho!r}")

    def _times(self, sde: Timeline, n: int) -> Tensor:
        first, last, linear = log_snr_ends(sde, self)
        # σ/α = exp(−λ/2), so its ρ-th root is exp(−λ/2ρ).
        roots = torch.tensor([first, last], dtype=torch.float64).div(-2 * self.rho).exp().tolist()
        ramp = torch.linspace(roots[0], roots[1], n, dtype=torch.float64)
        inner = (-2 * self.rho * ramp.log()).clamp(min(first, last), max(first, last))
        return linear.time_at_log_snr(inner)


@dataclass(frozen=True)
class CosineGrid(Grid):
    r"""Equal steps in the angle :math:`\arctan(\sigma/(\alpha\,\sigma_{data}))`.

    These are equal steps in the time of the cosine schedule :math:`\alpha = \cos(\pi t/2)` (Nichol
    & Dhariwal 2021, arXiv:2102.09672, eq. 17 with s = 0; Salimans & Ho 2022, arXiv:2202.00512,
    appendix D) and, with σ_data, of TrigFlow (Lu & Song 2024, arXiv:2410.11081, section 3), but on
    any SDE.

    Parameters
    ----------
    sigma_data : float
        Standard deviation of the data, > 0, in whose units σ/α is measured.
    """

    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        number = isinstance(self.sigma_data, int | float)
        if not number or not 0 < self.sigma_data < math.inf:
            raise ScheduleError(f"expected a finite sigma_data > 0, got {self.sigma_data!r}")

    def _times(self, sde: Timeline, n: int) -> Tensor:
        first, last, linear = log_snr_ends(sde, self)
        ends = torch.tensor([first, last], dtype=torch.float64)
        angles = torch.atan(torch.exp(-0.5 * ends) / self.sigma_data).tolist()
        ramp = torch.linspace(angles[0], angles[1], n, dtype=torch.float64)
        inner = -2 * torch.log(self.sigma_data * torch.tan(ramp))
        return linear.time_at_log_snr(inner.clamp(first, last))


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


def as_floats(values: Sequence[float] | Tensor, expected: str) -> tuple[float, ...]:
    """A one-dimensional sequence of at least one number, as floats."""
    try:
        flat = torch.as_tensor(values, dtype=torch.float64)
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
        return require_falling(torch.tensor(self.values, dtype=torch.float64), sde.T)

    def _times(self, sde: Timeline, n: int) -> Tensor:
        return self.times(sde, n)
