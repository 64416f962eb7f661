r"""The bridge to x_s: DDPM's ancestral step, and DDIM with any share of its noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import EtaPredictor, Predictor
from sdescore.tableau.tableau import Tableau, one_stage

__all__ = ["DDIM", "Ancestral"]


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
        # On the score: (σ_t/a − √(σ_s² − τ²)) σ_t, with the difference rationalised, for
        # σ_t²/a² − σ_s² = V/a² and the two terms nearly cancel on a fine grid.
        on_score = sigma_t * (V / a.square() + tau2) / (sigma_t / a + remainder)
        return one_stage(t, 1 / a, on_score, tau2.sqrt())


@dataclass(frozen=True)
class Ancestral(Predictor):
    r"""A draw from the bridge :math:`x_s \mid x_t, \hat x_0` at Tweedie's
    :math:`\hat x_0 = E[x_0 | x_t]`:

    .. math:: x_s = \frac{1}{a}\bigl(x_t + V s(x_t, t)\bigr)
              + \sqrt{\frac{\sigma_s^2 V}{\sigma_t^2}}\; z,
              \qquad x_t = a x_s + \sqrt{V} z .

    On a DDPM's table it is Ho et al. 2020 (arXiv:2006.11239), algorithm 2 with
    :math:`\tilde\beta` (eq. 7); on a VE SDE Song et al. 2021 (arXiv:2011.13456), eq. 47. It
    equals :class:`sdescore.DDIM` with η = 1.
    """

    order: ClassVar[int] = 1

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        t, s = times[:-1], times[1:]
        bridge = sde.bridge(s, t)
        a, V = bridge.scale, bridge.added_variance
        return one_stage(t, 1 / a, V / a, bridge.variance.sqrt())
