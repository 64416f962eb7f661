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

NEAR_NOISE = 1e-4  # the α below which a score in float32 does not say x̂₀


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
    agree. The distribution has order 2, the path order 1. Where α is nearly 0 the outputs are v in
    place of scores, which do not say x₀ there. So η = 0 on a network of velocities starts from
    noise alone, as flow matching does.

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
        h, noise = t - s, self.eta * sde.rates(times)[1].sqrt()
        F, G, output = self._drift(sde, times)
        # Euler's step, and what the second drift makes of its numbers.
        a, b, c = 1 - h * F[:-1], -h * G[:-1], noise[:-1] * h.sqrt()
        half, zero = 0.5 * h * F[1:], torch.zeros_like(t)
        mean_c = 0.5 * h.sqrt() * (noise[:-1] + noise[1:])
        second = torch.stack([-0.5 * h * G[1:], 0.5 * b - half * b], -1)
        return Tableau(
            times=torch.stack([t, s], 1),
            a=torch.stack([a, 1 - 0.5 * h * F[:-1] - half * a], 1),
            b=torch.stack([torch.stack([b, zero], -1), second], 1),
            c=torch.stack([c, mean_c - half * c], 1)[..., None],
            output=output,
        )

    def _drift(self, sde: LinearSDE, times: Tensor) -> tuple[Tensor, Tensor, str]:
        """``F`` and ``G`` of the drift ``F x + G o``, and what the output o is."""
        (f, g2), (alpha, sigma) = sde.rates(times), sde.marginal(times)
        on_score = -0.5 * (1 + self.eta**2) * g2
        if bool((alpha > NEAR_NOISE).all()):
            return f, on_score, "score"
        # s = −(x + α/σ v)/(α² + σ²): what is left of f x nearly cancels, and no number is large.
        n2 = alpha.square() + sigma.square()
        return f - on_score / n2, -on_score * alpha / (sigma * n2), "v"
