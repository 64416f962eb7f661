r"""The bridge to x_s with any share of its noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import EtaPredictor
from sdescore.tableau.tableau import Tableau, one_stage

__all__ = ["DDIM"]


@dataclass(frozen=True)
class DDIM(EtaPredictor):
    r"""DDIM (Song, Meng & Ermon 2021, arXiv:2010.02502, eqs. 12 and 16) on any linear SDE:

    .. math:: x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - \tau^2}\,\hat\epsilon + \tau z,
              \qquad \tau^2 = \eta^2 \frac{\sigma_s^2 V}{\sigma_t^2} .

    η = 0 is the exponential Euler method of the probability-flow ODE, η = 1 ancestral
    sampling.

    Parameters
    ----------
    eta : float
        Share of the bridge's standard deviation, in [0, 1].

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore([2.0], 0.25, sde)
    >>> sampler = ss.PredictorCorrector(sde, predictor=ss.DDIM(), steps=100)
    >>> x = sampler.sample(score, shape=(4000, 1), seed=0)
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    eta: float = 0.0
    order: ClassVar[int] = 1

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        t, s = times[:-1], times[1:]
        bridge = sde.bridge(s, t)
        a, V, sigma_t = bridge.scale, bridge.added_variance, bridge.sigma
        sigma_s = sde.marginal(s)[1]
        tau2 = self.eta**2 * bridge.variance
        remainder = (sigma_s.square() - tau2).clamp(min=0.0).sqrt()
        if not bool(a.all()):  # α_t = 0: the score does not say x̂₀ there
            on_x0 = sde.marginal(s)[0] * (1 - a * remainder / sigma_t)
            return one_stage(t, remainder / sigma_t, on_x0, tau2.sqrt(), "x0")
        # On the score: (σ_t/a − √(σ_s² − τ²)) σ_t, with the difference rationalised, for
        # σ_t²/a² − σ_s² = V/a² and the two terms nearly cancel on a fine grid.
        on_score = sigma_t * (V / a.square() + tau2) / (sigma_t / a + remainder)
        return one_stage(t, 1 / a, on_score, tau2.sqrt())
