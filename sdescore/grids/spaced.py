r"""Grids of equal steps in √t, log-SNR, a root of σ/α, or an angle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError
from sdescore.grids.base import NO_LOG_SNR, Grid, from_T_to_t_min, step_count

if TYPE_CHECKING:
    from sdescore.sde.base import SDE

__all__ = ["CosineGrid", "KarrasGrid", "LogSNRGrid", "QuadraticGrid"]


def spaced(
    grid: Grid,
    sde: SDE,
    n: int | None,
    forth: Callable[[float], float],
    back: Callable[[Tensor], Tensor],
) -> Tensor:
    """``n`` times at equal steps in ``forth(log_snr)``, whose inverse is ``back``.

    Raises
    ------
    ScheduleError
        The log-SNR at the first or the last time is not finite, or beyond ±1000.
    """
    n = step_count(grid, n)
    ends = torch.tensor([sde.T, sde.t_min][:n], dtype=torch.float64, device="cpu")
    linear = checks.linear(sde, type(grid).__name__, NO_LOG_SNR)
    values = linear.log_snr(ends)
    if not bool((values.abs() <= 1000).all()):  # false of NaN too; exp of more overflows
        expected = f"finite log-SNR, within 1000 of 0, at T and t_min for {type(grid).__name__}"
        advice = "raise t_min above 0" if values[-1].isinf() else "for alpha_T = 0 use LevelGrid()"
        got = f"{values.tolist()}; {advice}, or use UniformGrid()"
        checks.refuse(expected, got, ScheduleError)
    low, high = values[0].item(), values[-1].item()
    steps = torch.linspace(forth(low), forth(high), n, dtype=torch.float64, device="cpu")
    times = linear.time_at_log_snr(back(steps).clamp(low, high))
    return from_T_to_t_min(times, sde)


@dataclass(frozen=True)
class QuadraticGrid(Grid):
    """Equal steps in ``√t`` (Song, Meng & Ermon 2021, arXiv:2010.02502, appendix D.2).

    Examples
    --------
    >>> import sdescore as ss
    >>> t = ss.QuadraticGrid().times(ss.VPSDE(), 3).sqrt()
    >>> bool((t[0] - 2 * t[1] + t[2]).abs() < 1e-9)
    True
    """

    def times(self, sde: SDE, n: int | None) -> Tensor:
        first, last, n = sde.T**0.5, sde.t_min**0.5, step_count(self, n)
        roots = torch.linspace(first, last, n, dtype=torch.float64, device="cpu")
        return from_T_to_t_min(roots.square(), sde)


@dataclass(frozen=True)
class LogSNRGrid(Grid):
    """Equal steps in log-SNR (Lu et al. 2022, arXiv:2206.00927, section 3.3).

    Examples
    --------
    >>> import sdescore as ss
    >>> sde = ss.EDMSDE(sigma_min=0.1, sigma_max=10.0)
    >>> [round(v, 6) for v in ss.LogSNRGrid().times(sde, 3).tolist()]
    [10.0, 1.0, 0.1]
    """

    def times(self, sde: SDE, n: int | None) -> Tensor:
        return spaced(self, sde, n, float, lambda log_snr: log_snr)


@dataclass(frozen=True)
class KarrasGrid(Grid):
    r"""Equal steps in :math:`(\sigma/\alpha)^{1/\rho}` (Karras et al. 2022,
    arXiv:2206.00364, eq. 5).

    Parameters
    ----------
    rho : float
        The paper's exponent ρ > 0; its own value is 7. As ρ grows, the grid tends to
        :class:`LogSNRGrid`.

    Raises
    ------
    ScheduleError
        ``rho`` is not a finite number > 0.

    Examples
    --------
    >>> import sdescore as ss
    >>> t = ss.KarrasGrid(rho=1.0).times(ss.EDMSDE(sigma_min=1.0, sigma_max=3.0), 3)
    >>> [round(v, 6) for v in t.tolist()]  # rho = 1: equal steps in σ
    [3.0, 2.0, 1.0]
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        vars(self).update(rho=checks.number("rho", self.rho, above=0, error=ScheduleError))

    def times(self, sde: SDE, n: int | None) -> Tensor:
        # σ/α = exp(−log_snr/2), so its ρ-th root is exp(−log_snr/2ρ).
        def root(log_snr: float) -> float:
            return math.exp(-0.5 * log_snr / self.rho)

        return spaced(self, sde, n, root, lambda roots: -2 * self.rho * roots.log())


@dataclass(frozen=True)
class CosineGrid(Grid):
    r"""Equal steps in the angle :math:`\arctan(\sigma/(\alpha\,\sigma_{data}))`.

    These are equal steps in the time of the cosine schedule :math:`\alpha = \cos(\pi t/2)` (Nichol
    & Dhariwal 2021, arXiv:2102.09672, eq. 17 with s = 0; Salimans & Ho 2022, arXiv:2202.00512,
    appendix D), and with σ_data in the time of TrigFlow (Lu & Song 2024, arXiv:2410.11081,
    section 3). The grid serves every linear SDE.

    Parameters
    ----------
    sigma_data : float
        Standard deviation of the data, > 0, in the units of the data.

    Raises
    ------
    ScheduleError
        ``sigma_data`` is not a finite number > 0.

    Examples
    --------
    >>> import sdescore as ss
    >>> t = ss.CosineGrid().times(ss.EDMSDE(), 3)
    >>> angles = t.atan()  # σ/α = t
    >>> bool((angles[0] - 2 * angles[1] + angles[2]).abs() < 1e-9)
    True
    """

    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        sigma_data = checks.number("sigma_data", self.sigma_data, above=0, error=ScheduleError)
        vars(self).update(sigma_data=sigma_data)

    def times(self, sde: SDE, n: int | None) -> Tensor:
        def angle(log_snr: float) -> float:
            return math.atan(math.exp(-0.5 * log_snr) / self.sigma_data)

        return spaced(self, sde, n, angle, lambda a: -2 * torch.log(self.sigma_data * a.tan()))
