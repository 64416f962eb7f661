r"""Ancestral sampling: DDPM's step, for any linear SDE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Predictor
from sdescore.tableau.tableau import Tableau, one_stage

__all__ = ["Ancestral"]


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
