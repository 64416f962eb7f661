r"""Grids of equal steps: in t, √t, log-SNR, a root of σ/α, or an angle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError
from sdescore.grids.base import Grid, from_T_to_t_min, linear, log_snr_ends, step_count

if TYPE_CHECKING:
    from sdescore.sde.base import SDE

__all__ = ["CosineGrid", "KarrasGrid", "LogSNRGrid", "QuadraticGrid", "UniformGrid"]


def equal_steps(first: float, last: float, n: int) -> Tensor:
    """``(n,)`` float64 from ``first`` to ``last``."""
    return torch.linspace(first, last, n, dtype=torch.float64, device="cpu")


@dataclass(frozen=True)
class UniformGrid(Grid):
    """Equal steps in ``t`` (Song et al. 2021, arXiv:2011.13456, algorithms 2–3)."""

    def times(self, sde: SDE, n: int | None) -> Tensor:
        return from_T_to_t_min(equal_steps(sde.T, sde.t_min, step_count(self, n)), sde)


@dataclass(frozen=True)
class QuadraticGrid(Grid):
    """Equal steps in ``√t`` (Song, Meng & Ermon 2021, arXiv:2010.02502, appendix D.2)."""

    def times(self, sde: SDE, n: int | None) -> Tensor:
        roots = equal_steps(sde.T**0.5, sde.t_min**0.5, step_count(self, n))
        return from_T_to_t_min(roots.square(), sde)


@dataclass(frozen=True)
class LogSNRGrid(Grid):
    """Equal steps in log-SNR (Lu et al. 2022, arXiv:2206.00927, section 3.3)."""

    def times(self, sde: SDE, n: int | None) -> Tensor:
        n = step_count(self, n)
        log_snr = equal_steps(*log_snr_ends(sde, self, n), n)
        return from_T_to_t_min(linear(sde, self).time_at_log_snr(log_snr), sde)


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
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        vars(self).update(rho=checks.number("rho", self.rho, above=0, error=ScheduleError))

    def times(self, sde: SDE, n: int | None) -> Tensor:
        n = step_count(self, n)
        ends = log_snr_ends(sde, self, n)
        # σ/α = exp(−log_snr/2), so its ρ-th root is exp(−log_snr/2ρ).
        first, last = (math.exp(-0.5 * end / self.rho) for end in ends)
        log_snr = -2 * self.rho * equal_steps(first, last, n).log()
        log_snr = log_snr.clamp(*ends)
        return from_T_to_t_min(linear(sde, self).time_at_log_snr(log_snr), sde)


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
    """

    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        sigma_data = checks.number("sigma_data", self.sigma_data, above=0, error=ScheduleError)
        vars(self).update(sigma_data=sigma_data)

    def times(self, sde: SDE, n: int | None) -> Tensor:
        n = step_count(self, n)
        ends = log_snr_ends(sde, self, n)
        first, last = (math.atan(math.exp(-0.5 * end) / self.sigma_data) for end in ends)
        log_snr = -2 * torch.log(self.sigma_data * torch.tan(equal_steps(first, last, n)))
        times = linear(sde, self).time_at_log_snr(log_snr.clamp(*ends))
        return from_T_to_t_min(times, sde)
