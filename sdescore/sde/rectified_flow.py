r"""Rectified flow as a linear SDE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError
from sdescore.sde.linear import LinearSDE

__all__ = ["RectifiedFlowSDE"]


@dataclass(frozen=True, kw_only=True)
class RectifiedFlowSDE(LinearSDE):
    r"""The linear SDE whose marginals are rectified flow's straight lines
    (Liu et al. 2022, arXiv:2209.03003, eq. 1; Lipman et al. 2023, arXiv:2210.02747, eq. 20):

    .. math:: \alpha_t = 1 - t, \quad \sigma_t = t, \quad
       f = -\frac{1}{1 - t}, \quad g^2 = \frac{2t}{1 - t} .

    f and g² are singular at t = 1, so the forward time ends before, at ``T``.

    Parameters
    ----------
    T : float
        End of the forward time, ``0.001 < T < 1``, or ``ScheduleError``. A network of velocities is
        finite at t = 1; with ``T=1 - 1e-8`` it starts there, up to 1e-7 of a sample.

    Examples
    --------
    >>> import sdescore as ss
    >>> [value.item() for value in ss.RectifiedFlowSDE().marginal(0.25)]  # α = 1 − t and σ = t
    [0.75, 0.25]
    """

    T: float = 0.999

    t_min = 1e-3

    def __post_init__(self) -> None:
        T = checks.number("T", self.T, above=self.t_min, below=1, error=ScheduleError)
        vars(self).update(T=T)

    def _marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t.clone()

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -1 / (1 - t), 2 * t / (1 - t)

    def _log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - torch.log(t))

    def _time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        # Not by torch.sigmoid, which rounds a number otherwise beside others.
        return 1 / (1 + torch.exp(0.5 * log_snr))

    def _transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        added_variance = (t - s) * (t * (1 - s) + s * (1 - t)) / (1 - s).square()
        return (1 - t) / (1 - s), added_variance
