r"""Euler–Maruyama on the reverse SDE."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sdescore import checks
from sdescore.sde.base import SDE, as_time
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align
from sdescore.tableau.method import EtaPredictor
from sdescore.tableau.tableau import Tableau, one_stage

__all__ = ["EulerMaruyama"]


@dataclass(frozen=True)
class EulerMaruyama(EtaPredictor):
    r"""Euler–Maruyama with step :math:`h = t - s` (Song et al. 2021, arXiv:2011.13456, eq. 6
    discretised; Kloeden & Platen 1992, eq. 10.2.4):

    .. math:: x_s = x_t - \bigl[f(x_t, t) - \tfrac{1 + \eta^2}{2} g(t)^2 s(x_t, t)\bigr] h
              + \eta\, g(t) \sqrt{h}\; z .

    Runs on any :class:`sdescore.SDE`, linear or not.

    Parameters
    ----------
    eta : float
        Noise scale in [0, 1]; 0 is Euler's method on the probability-flow ODE.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore([2.0], 0.25, sde)
    >>> sampler = ss.PredictorCorrector(sde, predictor=ss.EulerMaruyama(), steps=200)
    >>> x = sampler.sample(score, shape=(4000, 1), seed=0)
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    order: ClassVar[int] = 1

    def check(self, sde: SDE) -> None:
        """Any SDE will do."""

    def is_affine(self, sde: SDE) -> bool:
        return checks.is_linear(sde)

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        t, h = times[:-1], -times.diff()
        f, g2 = sde.rates(t)
        return one_stage(t, 1 - f * h, 0.5 * (1 + self.eta**2) * g2 * h, self.eta * (g2 * h).sqrt())

    def step(
        self, sde: SDE, x: Tensor, score: Callable[[Tensor], Tensor], t: float, s: float, z: Tensor
    ) -> Tensor:
        time = as_time(t, x)
        reverse = sde.reverse(lambda y, _: score(y), self.eta)
        g = align(reverse.diffusion(time).to(x), x)
        return x - (t - s) * reverse.drift(x, time) + math.sqrt(t - s) * g * z
