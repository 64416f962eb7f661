r"""EDM's SDE: σ is the time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.sde.linear import LinearSDE
from sdescore.sde.ve import sigma_range

__all__ = ["EDMSDE"]


@dataclass(frozen=True, kw_only=True)
class EDMSDE(LinearSDE):
    r"""The SDE of Karras et al. 2022 (arXiv:2206.00364, section 3 and eq. 6 with β = 1/σ):

    .. math:: \alpha_t = 1, \quad \sigma_t = t, \quad f = 0, \quad g^2 = 2t .

    Parameters
    ----------
    sigma_min, sigma_max : float
        ``1e-15 <= sigma_min < sigma_max <= 1e15`` (or ``ScheduleError``), in the units of the
        data; sampling runs from ``T = sigma_max`` to ``t_min = sigma_min``. The paper's grid
        (eq. 5) is ``ss.KarrasGrid()``.

    Examples
    --------
    >>> import sdescore as ss
    >>> [value.item() for value in ss.EDMSDE().marginal(3.0)]  # α = 1 and σ = t
    [1.0, 3.0]
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        ends = sigma_range(self.sigma_min, self.sigma_max)
        vars(self).update(ends, t_min=ends["sigma_min"])

    @property
    def T(self) -> float:
        return self.sigma_max

    def _marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), t.clone()

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), 2 * t

    def _log_snr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(t)

    def _time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-0.5 * log_snr)

    def _transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        added_variance = (t - s) * (t + s)
        return torch.ones_like(added_variance), added_variance
