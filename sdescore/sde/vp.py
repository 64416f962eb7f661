r"""Variance preserving SDEs: the continuum of DDPM, and what all of them share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError
from sdescore.sde.linear import LinearSDE

__all__ = ["VPSDE"]


class IntegratedBetaSDE(LinearSDE):
    r"""VP SDEs given by :math:`B(t) = \int_0^t \beta`: :math:`\alpha^2 = e^{-B} = 1 - \sigma^2`.

    σ comes from ``expm1``: ``1 − exp(−B)`` loses every digit as t → 0.
    """

    @abstractmethod
    def _beta(self, t: Tensor) -> Tensor:
        """β(t)."""

    @abstractmethod
    def _integrated_beta(self, t: Tensor) -> Tensor:
        """B(t)."""

    @abstractmethod
    def _integrated_beta_between(self, s: Tensor, t: Tensor) -> Tensor:
        """B(t) − B(s), without cancellation."""

    @abstractmethod
    def _time_at_integrated_beta(self, B: Tensor) -> Tensor:
        """The t at which B(t) has this value."""

    def _marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        B = self._integrated_beta(t)
        return torch.exp(-0.5 * B), torch.sqrt(-torch.expm1(-B))

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        beta = self._beta(t)
        return -0.5 * beta, beta

    def _log_snr(self, t: Tensor) -> Tensor:
        B = self._integrated_beta(t)
        return -B - torch.log(-torch.expm1(-B))

    def _time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        # B = log(1 + σ²/α²), the log-SNR's inverse, without overflow. Not by torch.logaddexp, which
        # rounds a number otherwise beside others.
        B = (-log_snr).clamp(min=0) + torch.log1p(torch.exp(-log_snr.abs()))
        return self._time_at_integrated_beta(B)

    def _transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        delta = self._integrated_beta_between(s, t)
        return torch.exp(-0.5 * delta), -torch.expm1(-delta)


@dataclass(frozen=True, kw_only=True)
class LinearBeta(LinearSDE):
    r"""The linear rate :math:`\beta(t) = \beta_{\min} + t(\beta_{\max} - \beta_{\min})`, T = 1."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    T = 1.0
    t_min = 1e-3

    def __post_init__(self) -> None:
        top = checks.number("beta_max", self.beta_max, above=0, error=ScheduleError)
        low = checks.number("beta_min", self.beta_min, at_least=0, at_most=top, error=ScheduleError)
        vars(self).update(beta_min=low, beta_max=top)

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def _integrated_beta(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def _integrated_beta_between(self, s: Tensor, t: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        return (t - s) * (self.beta_min + 0.5 * slope * (t + s))

    def _time_at_integrated_beta(self, B: Tensor) -> Tensor:
        # The quadratic's root in the form that does not subtract.
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * B)
        return torch.where(B > 0, 2 * B / (self.beta_min + root), torch.zeros_like(B))


@dataclass(frozen=True, kw_only=True)
class VPSDE(LinearBeta, IntegratedBetaSDE):
    r"""DDPM's SDE (Song et al. 2021, arXiv:2011.13456, eqs. 11 and 33):

    .. math:: \beta(t) = \beta_{\min} + t(\beta_{\max} - \beta_{\min}), \quad
       B(t) = \int_0^t \beta, \quad \alpha_t = e^{-B/2}, \quad \sigma_t^2 = 1 - e^{-B}, \quad
       f = -\tfrac12\beta, \quad g^2 = \beta .

    Parameters
    ----------
    beta_min, beta_max : float
        ``0 <= beta_min <= beta_max`` and ``beta_max > 0``, per unit time, or ``ScheduleError``;
        T = 1.

    Examples
    --------
    >>> import sdescore as ss
    >>> alpha, sigma = ss.VPSDE(beta_min=0.1, beta_max=20.0).marginal(1.0)
    >>> round((alpha**2 + sigma**2).item(), 12)
    1.0
    """
