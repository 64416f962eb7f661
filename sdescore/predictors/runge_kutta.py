r"""Runge–Kutta methods in EDM's variables: Heun's, with EDM's churn, and Kutta's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from sdescore import checks
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import float64
from sdescore.tableau.method import Predictor
from sdescore.tableau.runge_kutta import runge_kutta
from sdescore.tableau.tableau import Tableau, mean_ending

__all__ = ["Heun", "RungeKutta4"]

LARGEST_CHURN = math.sqrt(2) - 1


@dataclass(frozen=True)
class Heun(Predictor):
    r"""EDM's sampler (Karras et al. 2022, arXiv:2206.00364, algorithms 1 and 2) on any linear SDE.

    Heun's method on :math:`d(x/\alpha)/d(\sigma/\alpha) = \hat\epsilon`
    (:mod:`sdescore.tableau.runge_kutta`). With ``s_churn`` > 0 each step first goes back in time
    to the time where the noise-to-signal ratio is
    :math:`\hat\sigma/\hat\alpha = (1 + \gamma)\, \sigma_t/\alpha_t`, by the SDE's own transition
    with its noise scaled,

    .. math::
       \hat x = \frac{\hat\alpha}{\alpha_t} x
       + S_{noise}\, \hat\alpha
       \sqrt{(\hat\sigma/\hat\alpha)^2 - (\sigma_t/\alpha_t)^2}\; z, \qquad
       \gamma = \min\bigl(S_{churn}/N, \sqrt 2 - 1\bigr)
       \text{ if } S_{min} \le \sigma_t/\alpha_t \le S_{max}, \text{ else } 0,

    and takes Heun's step from there. N is the number of grid times. It is the paper's number of
    steps, because the paper's last step ends at σ = 0, as the sampler's last denoise does; it has
    churn as well. The SDE's time ends at T, so :math:`\hat\sigma/\hat\alpha` is at most
    :math:`\sigma_T/\alpha_T`, and a step that starts at T has no churn. The paper's first step
    calls the model beyond its largest σ instead: :func:`sdescore.published.edm`.

    Parameters
    ----------
    s_churn : float
        Amount of churn, >= 0; 0 draws no noise.
    s_min, s_max : float
        The range of σ/α with churn, 0 <= s_min <= s_max; ``s_max`` may be infinite.
    s_noise : float
        Factor on the noise, > 0. With any value but 1 the error does not vanish as the steps
        shrink.

    Raises
    ------
    ParameterError
        A parameter out of range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore([2.0], 0.25, sde)
    >>> sampler = ss.PredictorCorrector(sde, predictor=ss.Heun(), steps=40)
    >>> x = sampler.sample(score, shape=(4000, 1), seed=0)
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0
    order: ClassVar[int] = 2

    def __post_init__(self) -> None:
        s_min = checks.number("s_min", self.s_min, at_least=0)
        s_max = self.s_max
        if s_max != math.inf:
            s_max = checks.number("s_max", s_max, at_least=s_min)
        vars(self).update(
            s_churn=checks.number("s_churn", self.s_churn, at_least=0),
            s_min=s_min,
            s_max=float(s_max),
            s_noise=checks.number("s_noise", self.s_noise, above=0),
        )

    @classmethod
    def examples(cls) -> Sequence[Heun]:
        return [cls(), cls(s_churn=20.0)]

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        t, s = times[:-1], times[1:]
        nodes, weights = (0.0, 1.0), ((1.0,), (0.5, 0.5))
        if not self.s_churn:
            return runge_kutta(sde, t, s, nodes, weights)
        later = self.churned(sde, t, len(times))
        return self._with_churn(sde, t, later, runge_kutta(sde, later, s, nodes, weights))

    def ending(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """Tweedie's mean, after churn as in every other step."""
        last = times[-1:]
        if not self.s_churn:
            return mean_ending(sde, last)
        later = self.churned(sde, last, len(times))
        return self._with_churn(sde, last, later, mean_ending(sde, later))

    def _with_churn(self, sde: LinearSDE, t: Tensor, later: Tensor, method: Tableau) -> Tableau:
        """A method's steps from the times ``later``, each after a move back there from ``t``."""
        kick = sde.transition(t, later)
        start = kick.scale, self.s_noise * kick.variance.sqrt()[:, None]
        return replace(
            method,
            a=method.a * start[0][:, None],
            c=method.a[..., None] * start[1][:, None],
            start=start,
            # The kick is undone before the next draw: it is no move along the chain's path.
            spans=t[:, None, None].expand(-1, 1, 2),
        )

    def churned(self, sde: LinearSDE, t: Tensor, steps: int) -> Tensor:
        """Where a step of ``steps`` first goes back to from each time ``t`` ``(n,)``."""
        lam = sde.half_log_snr(t)
        noise_ratio = (-lam).exp()
        inside = (self.s_min <= noise_ratio) & (noise_ratio <= self.s_max)
        gamma = min(self.s_churn / steps, LARGEST_CHURN)
        lowest = sde.half_log_snr(float64(sde.T))
        target = (lam - math.log1p(gamma)).maximum(lowest)
        back: Tensor = torch.where(
            inside & (target < lam), sde.time_at_half_log_snr(target).maximum(t), t
        )
        return back


@dataclass(frozen=True)
class RungeKutta4(Predictor):
    r"""The classical fourth-order method of Kutta 1901, four evaluations a step.

    It is taken in :math:`\sigma/\alpha` because there its error on Gaussian data was smaller than
    in log-SNR, on every SDE, grid and number of steps tried.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore([2.0], 0.25, sde)
    >>> sampler = ss.PredictorCorrector(sde, predictor=ss.predictors.RungeKutta4(), steps=40)
    >>> x = sampler.sample(score, shape=(4000, 1), seed=0)
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    order: ClassVar[int] = 4

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        nodes = (0.0, 0.5, 0.5, 1.0)
        weights = ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
        return runge_kutta(sde, times[:-1], times[1:], nodes, weights)
