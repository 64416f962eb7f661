r"""Variance exploding SDE, the continuum of SMLD/NCSN."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.checks import finite, named, require
from sdescore.sde.linear import LinearSDE

__all__ = ["VESDE"]


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
        ``0 < sigma_min < sigma_max``, in the units of the data.

    Examples
    --------
    >>> import sdescore as ss
    >>> alpha, sigma = ss.VESDE(sigma_min=0.01, sigma_max=1.0).marginal(0.5)
    >>> round(sigma.item(), 12)
    0.1
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        require(
            finite(self.sigma_min, self.sigma_max) and 0 < self.sigma_min < self.sigma_max,
            "0 < sigma_min < sigma_max",
            f"{named('sigma_min', self.sigma_min)}, {named('sigma_max', self.sigma_max)}",
        )

    @property
    def T(self) -> float:
        return 1.0

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
