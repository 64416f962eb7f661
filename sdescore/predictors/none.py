"""No predictor: time moves, the state stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Predictor
from sdescore.tableau.tableau import Tableau, no_stages

__all__ = ["NoPredictor"]


@dataclass(frozen=True)
class NoPredictor(Predictor):
    """Leaves the state as it is, so that the corrector alone follows the levels.

    With :class:`sdescore.AnnealedLangevin` this is NCSN's sampler (Song & Ermon 2019,
    arXiv:1907.05600, algorithm 1).

    Examples
    --------
    >>> import sdescore as ss
    >>> corrector = ss.Langevin(steps=5)
    >>> annealed = ss.PredictorCorrector(ss.VESDE(), ss.NoPredictor(), corrector, steps=20)
    >>> x = annealed.sample(ss.GaussianScore([0.0], 1.0, ss.VESDE()), shape=(4, 1))
    >>> x.shape
    torch.Size([4, 1])
    """

    order: ClassVar[int] = 0

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """No stages at all."""
        return no_stages(len(times) - 1)
