r"""Heun's method on the reverse SDE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import EtaPredictor
from sdescore.tableau.tableau import Tableau

__all__ = ["StochasticHeun"]


@dataclass(frozen=True)
class StochasticHeun(EtaPredictor):
    r"""Improved Euler for SDEs (Roberts 2012, arXiv:1210.0933) with :math:`h = t - s`:

    .. math::
       y &= x_t - h\, d(x_t, t) + \eta\, g_t \sqrt h\; z, \\
       x_s &= x_t - \tfrac h2 \bigl[d(x_t, t) + d(y, s)\bigr]
       + \eta\, \tfrac{g_t + g_s}{2} \sqrt h\; z, \qquad
       d(x, t) = f x - \tfrac{1 + \eta^2}{2} g^2 s(x, t).

    A step has one z, so both stages are on one Brownian path. With independent noises the variance
    would be wrong at every step size. The noise is additive, so Itô's and Stratonovich's readings
    agree. The distribution has order 2, the path order 1.

    Parameters
    ----------
    eta : float
        Noise scale in [0, 1]; 0 is Heun's method in t on the probability-flow ODE.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore([2.0], 0.25, sde)
    >>> sampler = ss.PredictorCorrector(sde, predictor=ss.StochasticHeun(), steps=100)
    >>> x = sampler.sample(score, shape=(4000, 1), seed=0)
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    order: ClassVar[int] = 2

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        t, s = times[:-1], times[1:]
        h = t - s
        (f_t, g2_t), (f_s, g2_s) = sde.rates(t), sde.rates(s)
        k = 0.5 * (1 + self.eta**2)
        # Euler's step, and what the second drift makes of its numbers.
        a, b, c = 1 - h * f_t, k * h * g2_t, self.eta * (h * g2_t).sqrt()
        half, zero = 0.5 * h * f_s, torch.zeros_like(t)
        mean_c = 0.5 * self.eta * h.sqrt() * (g2_t.sqrt() + g2_s.sqrt())
        second = torch.stack([0.5 * k * h * g2_s, 0.5 * b - half * b], -1)
        return Tableau(
            times=torch.stack([t, s], 1),
            a=torch.stack([a, 1 - 0.5 * h * f_t - half * a], 1),
            b=torch.stack([torch.stack([b, zero], -1), second], 1),
            c=torch.stack([c, mean_c - half * c], 1)[..., None],
        )
