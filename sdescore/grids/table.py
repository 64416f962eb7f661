r"""A table of noise levels, at any number of steps.

Optimised schedules are published as short tables of :math:`\sigma/\alpha`, and used at other
numbers of steps by interpolating their logarithm linearly in the index (Sabour et al. 2024,
"Align Your Steps", arXiv:2404.14507, and its quick-start guide): linearly in the log-SNR
:math:`\lambda = -2\log(\sigma/\alpha)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.errors import IncompatibleError, ScheduleError, TimeError
from sdescore.grids.base import (
    Grid,
    LogSNRTimeline,
    Timeline,
    require_falling,
    require_log_snr,
    require_steps,
)
from sdescore.grids.custom import as_floats

__all__ = ["TableGrid"]

QUANTITIES = ("sigma/alpha", "log_snr", "t")

# How far past an SDE's range a printed level may lie in log-SNR: 0.1 % in σ/α.
_PRINTED = 2e-3


@dataclass(frozen=True)
class TableGrid(Grid):
    """Noise levels from a table, log-linearly interpolated in σ/α to ``n`` of them.

    The ends are the table's, not the SDE's: a prior is taken at the first level. An end that lies
    past the SDE's own by less than 0.1 % in σ/α is taken for it, since tables are printed with few
    digits. A 0 after the last level is no level: the sampler's last denoise goes there.

    Parameters
    ----------
    values : sequence of float
        At least two, from noise to data; a tensor is accepted and kept as floats.
    of : str
        What they are: ``"sigma/alpha"`` (Karras et al.'s and Align Your Steps' σ), ``"log_snr"``
        or ``"t"``.

    Raises
    ------
    ScheduleError
        Not a one-dimensional sequence of numbers, or not strictly from noise to data.
    IncompatibleError
        An unknown quantity.

    Examples
    --------
    >>> import sdescore as ss
    >>> from sdescore.grids.table import TableGrid
    >>> grid = TableGrid([10.0, 1.0, 0.01])
    >>> [round(t, 3) for t in grid.times(ss.EDMSDE(), 5).tolist()]  # σ is EDM's time
    [10.0, 3.162, 1.0, 0.1, 0.01]
    """

    values: tuple[float, ...]
    of: str = "sigma/alpha"

    def __init__(self, values: Sequence[float] | Tensor, of: str = "sigma/alpha") -> None:
        if of not in QUANTITIES:
            raise IncompatibleError(f"expected of= among {', '.join(QUANTITIES)}; got {of!r}")
        object.__setattr__(self, "values", as_floats(values, f"a table of {of}"))
        object.__setattr__(self, "of", of)
        table = torch.tensor(self.values, dtype=torch.float64)
        if len(table) < 2 or not bool(table.isfinite().all()):
            raise ScheduleError(f"expected at least two finite levels, got {values!r:.200}")
        if of == "sigma/alpha" and not bool((table > 0).all()):
            raise ScheduleError(
                f"expected sigma/alpha > 0, got {table.min().item():g}; leave a last 0 out, for "
                "the sampler's last denoise goes there"
            )
        falls = -table.diff() if of == "log_snr" else table.diff()
        if not bool((falls < 0).all()):
            order = "rising" if of == "log_snr" else "falling"
            raise ScheduleError(
                f"expected strictly {order} {of} (noise to data), got {values!r:.200}"
            )

    def times(self, sde: Timeline, n: int | None) -> Tensor:
        """``(n,)`` float64, strictly falling; the table itself for ``n = None`` or its own length.

        Raises
        ------
        IncompatibleError
            The SDE has no log-SNR.
        ScheduleError
            ``n`` is not a positive integer, or the levels are too dense to differ.
        TimeError
            A level lies outside the SDE's range.
        """
        n = len(self.values) if n is None else n
        require_steps(n)
        linear = require_log_snr(sde, self)
        table = torch.tensor(self.values, dtype=torch.float64)
        levels = self._log_snr(linear, table)
        own = table if self.of == "t" else linear.time_at_log_snr(levels)
        if n == len(own):
            return require_falling(own, sde.T)
        if n == 1:
            return own[:1]
        place = torch.linspace(0, len(own) - 1, n, dtype=torch.float64)
        left = place.long().clamp(max=len(own) - 2)
        times = linear.time_at_log_snr(torch.lerp(levels[left], levels[left + 1], place - left))
        times[0], times[-1] = own[0], own[-1]
        return require_falling(times, sde.T)

    def _log_snr(self, sde: LogSNRTimeline, table: Tensor) -> Tensor:
        """The table's log-SNRs, within the SDE's range."""
        if self.of == "t":
            levels = sde.log_snr(table)
            if not bool(levels.isfinite().all()):
                raise TimeError(
                    f"expected times of finite log-SNR, got t = {self.values[-1]:g}; end later"
                )
            return levels
        levels = table if self.of == "log_snr" else -2 * table.log()
        low, high = sde.log_snr(torch.tensor([sde.T, 0.0], dtype=torch.float64)).tolist()
        if not bool(((levels >= low - _PRINTED) & (levels <= high + _PRINTED)).all()):
            ends = torch.tensor([low, high], dtype=torch.float64)
            ends = ends if self.of == "log_snr" else torch.exp(-0.5 * ends)
            raise TimeError(
                f"expected {self.of} between {ends[0]:g} and {ends[1]:g}, the range of "
                f"{type(sde).__name__}, got {self.values[0]:g} to {self.values[-1]:g}"
            )
        return levels.clamp(low, high)

    def _times(self, sde: Timeline, n: int) -> Tensor:
        return self.times(sde, n)
