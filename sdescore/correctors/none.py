"""No corrector."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sdescore.sde.base import SDE
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Corrector
from sdescore.tableau.tableau import Tableau, no_stages

__all__ = ["NoCorrector"]


@dataclass(frozen=True)
class NoCorrector(Corrector):
    """Leaves the state as it is.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore([2.0], 0.25, sde)
    >>> sampler = ss.PredictorCorrector(sde, ss.DDIM(), ss.NoCorrector(), steps=100)
    >>> x = sampler.sample(score, shape=(4000, 1), seed=0)
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    steps: int = field(default=0, init=False, repr=False)

    def check(self, sde: SDE) -> None:
        """Any SDE will do."""

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """No steps at all."""
        return no_stages(len(times))
