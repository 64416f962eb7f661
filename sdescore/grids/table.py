r"""A table of noise levels, at any number of steps.

Optimised schedules are published as short tables of the noise-to-signal ratio
:math:`\sigma/\alpha`. For another number of steps the logarithm of the table is interpolated
linearly in the index (Sabour et al. 2024, "Align Your Steps", arXiv:2404.14507, and its
quick-start guide): linearly in the log-SNR, :math:`-2\log(\sigma/\alpha)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import gt, lt
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError, TimeError
from sdescore.grids.base import NO_LOG_SNR, Grid, require_falling

if TYPE_CHECKING:
    from sdescore.sde.base import SDE
    from sdescore.sde.linear import LinearSDE

__all__ = ["TableGrid"]

QUANTITIES = ("noise_ratio", "log_snr", "t")

# How far past an SDE's range a printed level may lie in log-SNR: 0.1 % in σ/α.
_PRINTED = 2e-3


@dataclass(frozen=True)
class TableGrid(Grid):
    """Noise levels from a table, log-linearly interpolated in σ/α to ``n`` of them.

    The grid has the ends of the table, not those of the SDE, and the prior is that of the table's
    first level. Tables are printed with few digits, so an end that lies past the SDE's own by less
    than 0.1 % in σ/α becomes the SDE's. A 0 at the end of the table is no level: the sampler's last
    denoise leads to it.

    Parameters
    ----------
    values : sequence of float
        At least two, from noise to data; a tensor is accepted and stored as floats.
    quantity : str
        What the values are: ``"noise_ratio"`` (σ/α, the σ of Karras et al. and Align Your Steps),
        ``"log_snr"`` or ``"t"``.

    Raises
    ------
    ScheduleError
        Not a one-dimensional sequence of finite numbers, or not strictly from noise to data.
    IncompatibleError
        ``quantity`` is none of the three.

    Examples
    --------
    >>> import sdescore as ss
    >>> from sdescore.grids.table import TableGrid
    >>> grid = TableGrid([10.0, 1.0, 0.01])
    >>> [round(t, 3) for t in grid.times(ss.EDMSDE(), 5).tolist()]  # σ is EDM's time
    [10.0, 3.162, 1.0, 0.1, 0.01]
    """

    values: tuple[float, ...]
    quantity: str = "noise_ratio"

    def __init__(self, values: Sequence[float] | Tensor, quantity: str = "noise_ratio") -> None:
        checks.choice("quantity", quantity, QUANTITIES)
        levels = checks.numbers(f"a table of {quantity}", values, at_least=2, error=ScheduleError)
        vars(self).update(values=levels, quantity=quantity)
        if quantity == "noise_ratio" and min(levels) <= 0:
            got = f"{min(levels):g}; leave a last 0 out, for the sampler's last denoise goes there"
            checks.refuse("noise_ratio > 0", got, ScheduleError)
        order, holds = ("rising", lt) if quantity == "log_snr" else ("falling", gt)
        ordered = all(map(holds, levels, levels[1:]))
        expected = f"strictly {order} {quantity} (noise to data)"
        checks.that(ordered, expected, f"{levels!r:.200}", ScheduleError)

    def times(self, sde: SDE, n: int | None) -> Tensor:
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
        n = checks.count("steps", len(self.values) if n is None else n, error=ScheduleError)
        sde = checks.linear(sde, type(self).__name__, NO_LOG_SNR)
        table = torch.tensor(self.values, dtype=torch.float64, device="cpu")
        levels = self._log_snr(sde, table)
        own = table if self.quantity == "t" else sde.time_at_log_snr(levels)
        if n == len(own):
            return require_falling(own, sde.T)
        if n == 1:
            return own[:1]
        index = torch.linspace(0, len(own) - 1, n, dtype=torch.float64, device="cpu")
        left = index.long().clamp(max=len(own) - 2)
        times = sde.time_at_log_snr(torch.lerp(levels[left], levels[left + 1], index - left))
        times[0], times[-1] = own[0], own[-1]
        return require_falling(times, sde.T)

    def _log_snr(self, sde: LinearSDE, table: Tensor) -> Tensor:
        """The table's log-SNRs, within the SDE's range."""
        if self.quantity == "t":
            levels = sde.log_snr(table)
            if not bool(levels.isfinite().all()):
                got = f"t = {self.values[-1]:g}; end later"
                checks.refuse("times of finite log-SNR", got, TimeError)
            return levels
        levels = table if self.quantity == "log_snr" else -2 * table.log()
        ends = torch.tensor([sde.T, 0.0], dtype=torch.float64, device="cpu")
        low, high = sde.log_snr(ends).tolist()
        if not bool(((levels >= low - _PRINTED) & (levels <= high + _PRINTED)).all()):
            level = sde.log_snr if self.quantity == "log_snr" else sde.noise_ratio
            first, last = level(ends).tolist()
            name = type(sde).__name__
            checks.refuse(
                f"{self.quantity} between {first:g} and {last:g}, the range of {name}",
                f"{self.values[0]:g} to {self.values[-1]:g}",
                TimeError,
            )
        return levels.clamp(low, high)
