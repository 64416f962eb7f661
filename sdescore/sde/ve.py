r"""Variance exploding SDE, the continuum of SMLD/NCSN."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError
from sdescore.sde.linear import LinearSDE

__all__ = ["VESDE"]


def sigma_range(sigma_min: object, sigma_max: object) -> dict[str, float]:
    """The two as floats, refused unless ``1e-15 <= sigma_min < sigma_max <= 1e15``."""
    high = checks.number("sigma_max", sigma_max, at_most=1e15, error=ScheduleError)
    low = checks.number("sigma_min", sigma_min, at_least=1e-15, below=high, error=ScheduleError)
    return {"sigma_min": low, "sigma_max": high}


@dataclass(frozen=True, kw_only=True)
class VESDE(LinearSDE):
    r"""SMLD's SDE (Song et al. 2021, arXiv:2011.13456, eqs. 9 and 30):

    .. math:: \alpha_t = 1, \qquad
       \sigma_t = \sigma_{\min} \Bigl(\frac{\sigma_{\max}}{\sigma_{\min}}\Bigr)^t, \qquad
       f = 0, \qquad g^2 = 2 \log\frac{\sigma_{\max}}{\sigma_{\min}}\, \sigma_t^2 .

    σ(0) is σ_min, not 0: the state at time 0 is the datum plus σ_min noise.

    Parameters
    ----------
    sigma_min, sigma_max : float
        ``1e-15 <= sigma_min < sigma_max <= 1e15`` (or ``ScheduleError``), in the units of the
        data. Beyond, σ² and its differences leave float32's range.

    Examples
    --------
    >>> import sdescore as ss
    >>> alpha, sigma = ss.VESDE(sigma_min=0.01, sigma_max=1.0).marginal(0.5)
    >>> round(sigma.item(), 12)
    0.1
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    T = 1.0

    def __post_init__(self) -> None:
        vars(self).update(sigma_range(self.sigma_min, self.sigma_max))

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max) - math.log(self.sigma_min)

    def _marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * torch.exp(self._log_ratio * t)

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), 2 * self._log_ratio * self._marginal(t)[1].square()

    def _log_snr(self, t: Tensor) -> Tensor:
        return -2 * (math.log(self.sigma_min) + self._log_ratio * t)

    def _time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        return (-0.5 * log_snr - math.log(self.sigma_min)) / self._log_ratio

    def _transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        growth = torch.expm1(2 * self._log_ratio * (t - s))
        return torch.ones_like(growth), self._marginal(s)[1].square() * growth
