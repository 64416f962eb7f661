r"""Cosine VP SDE."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError
from sdescore.sde.linear import LinearSDE

__all__ = ["CosineVPSDE"]


@dataclass(frozen=True, kw_only=True)
class CosineVPSDE(LinearSDE):
    r"""VP SDE with the cosine schedule (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17):

    .. math:: \alpha_t = \frac{\cos\theta_t}{\cos\theta_0}, \quad
       \theta_t = \frac{\pi}{2}\,\frac{t + s}{1 + s}, \quad
       \sigma_t^2 = 1 - \alpha_t^2
       = \frac{\sin(\theta_t - \theta_0)\sin(\theta_t + \theta_0)}{\cos^2\theta_0}, \quad
       f = -\dot\theta \tan\theta_t, \quad g^2 = -2f .

    At t = 1, α is 0 and β is infinite, so the forward time ends earlier, at ``T``. Near ``T``, 1/α
    is large; let the network predict v or x₀ there, not ε.

    Parameters
    ----------
    offset : float
        s > 0; the paper's 0.008.
    T : float
        End of the forward time, ``0.001 < T < 1``; 0.9946 leaves α_T ≈ 0.008. Either number out
        of its range raises ``ScheduleError``.

    Examples
    --------
    >>> import sdescore as ss
    >>> alpha, sigma = ss.CosineVPSDE().marginal(0.5)
    >>> round((alpha**2 + sigma**2).item(), 12)  # a VP SDE
    1.0
    """

    offset: float = 0.008
    T: float = 0.9946

    t_min = 1e-3

    def __post_init__(self) -> None:
        vars(self).update(
            offset=checks.number("offset", self.offset, above=0, error=ScheduleError),
            T=checks.number("T", self.T, above=self.t_min, below=1, error=ScheduleError),
        )

    @property
    def _theta_rate(self) -> float:
        return 0.5 * math.pi / (1 + self.offset)

    @property
    def _theta_0(self) -> float:
        return self._theta_rate * self.offset

    def _cos(self, t: Tensor) -> Tensor:
        """``cos θ_t``, as ``sin(π/2 − θ_t)``: near t = 1 the cosine itself cancels."""
        return torch.sin(self._theta_rate * (1 - t))

    def _rise(self, s: Tensor | float, t: Tensor) -> Tensor:
        """``cos² θ_s − cos² θ_t = sin(θ_t − θ_s) sin(θ_t + θ_s)``."""
        total = (s + self.offset) + (t + self.offset)
        supplement = (1 - s) + (1 - t)  # θ_s + θ_t reaches π, where the sine cancels
        return torch.sin(self._theta_rate * (t - s)) * torch.sin(
            self._theta_rate * torch.minimum(total, supplement)
        )

    def _marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        cos_0 = math.cos(self._theta_0)
        return self._cos(t) / cos_0, self._rise(0.0, t).sqrt() / cos_0

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        f = -self._theta_rate / torch.tan(self._theta_rate * (1 - t))
        return f, -2 * f

    def _transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        cos_s = self._cos(s)
        return self._cos(t) / cos_s, self._rise(s, t) / cos_s.square()

    def _time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        # tan²θ_t − tan²θ_0 = (σ/α)²/cos²θ_0, then tan(θ_t − θ_0) without a subtraction.
        tan_0 = math.tan(self._theta_0)
        gain = torch.exp(-log_snr) / math.cos(self._theta_0) ** 2
        tan_t = torch.sqrt(gain + tan_0**2)
        return torch.atan(gain / (tan_t + tan_0) / (1 + tan_t * tan_0)) / self._theta_rate
