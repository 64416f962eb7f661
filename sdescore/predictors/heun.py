r"""Heun's method in EDM's variables, with EDM's churn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sdescore.checks import finite, named, require
from sdescore.predictors.base import Predictor
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import float64
from sdescore.tableau.exponential import half_log_snr
from sdescore.tableau.nodes import time_at
from sdescore.tableau.runge_kutta import runge_kutta
from sdescore.tableau.tableau import Tableau

__all__ = ["Heun"]

LARGEST_CHURN = math.sqrt(2) - 1


@dataclass(frozen=True)
class Heun(Predictor):
    r"""EDM's sampler (Karras et al. 2022, arXiv:2206.00364, algorithms 1 and 2) on any linear SDE.

    Heun's method on :math:`d(x/\alpha)/d(\sigma/\alpha) = \hat\epsilon`
    (:mod:`sdescore.tableau.runge_kutta`). With ``s_churn`` > 0 each step first goes back in time
    from :math:`\rho = \sigma/\alpha` to :math:`\hat\rho = (1 + \gamma) \rho`, by the SDE's own
    transition with its noise scaled,

    .. math::
       \hat x = \frac{\hat\alpha}{\alpha_t} x
       + S_{noise}\, \hat\alpha \sqrt{\hat\rho^2 - \rho^2}\; z, \qquad
       \gamma = \min\bigl(S_{churn}/N, \sqrt 2 - 1\bigr)
       \text{ if } S_{min} \le \rho \le S_{max}, \text{ else } 0,

    and takes Heun's step from there. N is the number of grid times, which the paper counts as
    steps for it ends at σ = 0, as the sampler's last denoise does. The SDE's time ends at T, so
    :math:`\hat\rho` is at most :math:`\rho_T`: a step that starts at T has no churn, where the
    paper's calls the model beyond its largest σ.

    Parameters
    ----------
    s_churn : float
        Amount of churn, >= 0; 0 draws no noise.
    s_min, s_max : float
        The range of σ/α with churn, 0 <= s_min <= s_max; ``s_max`` may be infinite.
    s_noise : float
        Factor on the noise, > 0. With any but 1 the error does not go to 0 with the step.

    Raises
    ------
    ScheduleError
        A parameter out of range.
    """

    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0
    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2

    def __post_init__(self) -> None:
        usable = finite(self.s_churn) and self.s_churn >= 0
        require(usable, "a finite s_churn >= 0", named("s_churn", self.s_churn))
        usable = finite(self.s_min) and self.s_min >= 0
        require(usable, "a finite s_min >= 0", named("s_min", self.s_min))
        usable = (finite(self.s_max) or self.s_max == math.inf) and self.s_max >= self.s_min
        require(usable, f"s_max >= s_min = {self.s_min:g}", named("s_max", self.s_max))
        usable = finite(self.s_noise) and self.s_noise > 0
        require(usable, "a finite s_noise > 0", named("s_noise", self.s_noise))

    @property
    def stochastic(self) -> bool:
        return self.s_churn > 0

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        t, s = times[:-1], times[1:]
        nodes, weights = (0.0, 1.0), ((1.0,), (0.5, 0.5))
        if not self.stochastic:
            none = torch.zeros(len(t), 2, 0, dtype=torch.float64)
            return Tableau(*runge_kutta(sde, t, s, nodes, weights), none, "epsilon")
        later = self.churned(sde, times)
        kick = sde.transition(t, later)
        start = kick.scale, self.s_noise * kick.variance.sqrt()[:, None]
        at, a, b = runge_kutta(sde, later, s, nodes, weights)
        # The kick is undone before the next draw: it is no move along the chain's path.
        spans = t[:, None, None].expand(-1, 1, 2)
        return Tableau(
            at,
            a * start[0][:, None],
            b,
            a[..., None] * start[1][:, None],
            "epsilon",
            start,
            spans,
        )

    def churned(self, sde: LinearSDE, times: Tensor) -> Tensor:
        """Where each step first goes back to, ``(N,)``."""
        t, lam = times[:-1], half_log_snr(sde, times[:-1])
        rho = (-lam).exp()
        inside = (self.s_min <= rho) & (rho <= self.s_max)
        gamma = min(self.s_churn / len(times), LARGEST_CHURN)
        lowest = half_log_snr(sde, float64(sde.T))
        target = (lam - math.log1p(gamma)).maximum(lowest)
        return torch.where(inside & (target < lam), time_at(sde, target).maximum(t), t)
