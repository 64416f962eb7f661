r"""Sub-VP SDE: the VP drift with less noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.sde.vp import LinearBeta

__all__ = ["SubVPSDE"]


@dataclass(frozen=True, kw_only=True)
class SubVPSDE(LinearBeta):
    r"""Sub-VP SDE (Song et al. 2021, arXiv:2011.13456, eq. 12 and appendix B):

    .. math:: \alpha_t = e^{-B/2}, \quad \sigma_t = 1 - e^{-B}, \quad
       f = -\tfrac12\beta, \quad g^2 = \beta\,(1 - e^{-2B}), \quad B(t) = \int_0^t \beta .

    Parameters
    ----------
    beta_min, beta_max : float
        ``0 <= beta_min <= beta_max`` and ``beta_max > 0``, per unit time, or ``ScheduleError``;
        T = 1.

    Examples
    --------
    >>> import sdescore as ss
    >>> alpha, sigma = ss.SubVPSDE().marginal(0.5)
    >>> round((alpha**2 + sigma).item(), 12)  # σ = 1 − α²
    1.0
    """

    def _marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        B = self._integrated_beta(t)
        return torch.exp(-0.5 * B), -torch.expm1(-B)

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        beta = self._beta(t)
        return -0.5 * beta, -beta * torch.expm1(-2 * self._integrated_beta(t))

    def _log_snr(self, t: Tensor) -> Tensor:
        B = self._integrated_beta(t)
        return -B - 2 * torch.log(-torch.expm1(-B))

    def _transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        delta = self._integrated_beta_between(s, t)
        total = self._integrated_beta(s) + self._integrated_beta(t)
        return torch.exp(-0.5 * delta), torch.expm1(-delta) * torch.expm1(-total)

    def _time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        # With k = σ²/α²: σ² = k (1 − σ), whose positive root is σ = 2/(1 + √(1 + 4/k)).
        sigma_t = 2 / (1 + torch.sqrt(1 + 4 * torch.exp(log_snr)))
        from_small = -torch.log1p(-sigma_t)
        from_large = -2 * torch.log(sigma_t) - log_snr
        return self._time_at_integrated_beta(torch.where(sigma_t < 0.5, from_small, from_large))
