r"""Reverse diffusion: the forward discretisation, reversed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import EtaPredictor
from sdescore.tableau.tableau import Tableau, one_stage

__all__ = ["ReverseDiffusion"]


@dataclass(frozen=True)
class ReverseDiffusion(EtaPredictor):
    r"""The reverse diffusion predictor (Song et al. 2021, arXiv:2011.13456, eq. 46 and
    algorithms 2–3), with the exact transition :math:`x_t = a x_s + \sqrt{V} z` as the forward
    step:

    .. math:: x_s = (2 - a)\, x_t + \tfrac{1 + \eta^2}{2} V s(x_t, t) + \eta \sqrt{V} z .

    On a DDPM's table this is the paper's algorithm 3, where :math:`a = \sqrt{1 - \beta_i}` and
    :math:`V = \beta_i`; on a ladder its algorithm 2. The exact transition keeps
    :math:`V < 1` on VP SDEs at any number of steps, where :math:`\beta_i = \beta(t)/N` would
    pass 1 and give a NaN.

    Parameters
    ----------
    eta : float
        Noise scale in [0, 1]; 0 discretises the probability-flow ODE.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore([2.0], 0.25, sde)
    >>> sampler = ss.PredictorCorrector(sde, predictor=ss.ReverseDiffusion(), steps=200)
    >>> x = sampler.sample(score, shape=(4000, 1), seed=0)
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    order: ClassVar[int] = 1

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        t, s = times[:-1], times[1:]
        step = sde.transition(s, t)
        a, V = step.scale, step.variance
        return one_stage(t, 2 - a, 0.5 * (1 + self.eta**2) * V, self.eta * V.sqrt())
