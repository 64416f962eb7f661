"""No predictor: time moves, the state stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sdescore.predictors.base import Predictor
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.tableau import Tableau

__all__ = ["NoPredictor"]


@dataclass(frozen=True)
class NoPredictor(Predictor):
    """Leaves the state as it is, so that the corrector alone follows the levels.

    With :class:`sdescore.AnnealedLangevin` this is NCSN's sampler (Song & Ermon 2019,
    arXiv:1907.05600, algorithm 1).
    """

    order: ClassVar[int] = 0
    evaluations: ClassVar[int] = 0

    @property
    def stochastic(self) -> bool:
        return False

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """No stages at all."""
        none = torch.zeros(len(times) - 1, 0, dtype=torch.float64)
        return Tableau(none, none, none[..., None], none[..., None])
