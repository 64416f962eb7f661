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
    """Leaves the state as it is."""

    steps: int = field(default=0, init=False, repr=False)

    def check(self, sde: SDE) -> None:
        """Any SDE will do."""

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """No steps at all."""
        return no_stages(len(times))
