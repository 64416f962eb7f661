r"""The classical fourth-order Runge–Kutta method on the probability flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Predictor
from sdescore.tableau.runge_kutta import runge_kutta
from sdescore.tableau.tableau import Tableau

__all__ = ["RungeKutta4"]


@dataclass(frozen=True)
class RungeKutta4(Predictor):
    r"""The classical fourth-order method of Kutta 1901, four evaluations a step.

    It is taken in :math:`\sigma/\alpha` because there its error on Gaussian data was smaller than
    in log-SNR, on every SDE, grid and number of steps tried.
    """

    order: ClassVar[int] = 4

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        nodes = (0.0, 0.5, 0.5, 1.0)
        weights = ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
        return runge_kutta(sde, times[:-1], times[1:], nodes, weights)
