r"""Grids of equal steps: in t, √t, log-SNR, a root of σ/α, or an angle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.errors import ScheduleError
from sdescore.grids.base import Grid, Timeline, log_snr_ends

__all__ = ["CosineGrid", "KarrasGrid", "LogSNRGrid", "QuadraticGrid", "UniformGrid"]


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
