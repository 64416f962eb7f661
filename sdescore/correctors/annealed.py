r"""NCSN's annealed Langevin dynamics as a corrector."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sdescore.correctors.base import Corrector, langevin_tableau, require_steps
from sdescore.sde.base import finite, require
from sdescore.sde.linear import LinearSDE
from sdescore.tableau import Tableau

__all__ = ["AnnealedLangevin"]


@dataclass(frozen=True)
class AnnealedLangevin(Corrector):
    r"""The Langevin steps of NCSN (Song & Ermon 2019, arXiv:1907.05600, algorithm 1):

    .. math:: \alpha_i = \epsilon\, \frac{\sigma_i^2}{\sigma_L^2}, \qquad
              x \leftarrow x + \tfrac{\alpha_i}{2} s(x, \sigma_i) + \sqrt{\alpha_i}\, z ,

    with :math:`\sigma_L` the last σ of the grid. NCSN's sampler is
    ``PredictorCorrector(sde, predictor=NoPredictor(), corrector=AnnealedLangevin(...),
    order="corrector-first")``.

    Parameters
    ----------
    epsilon : float
        The step ε at σ_L in the paper's convention (τ = ε/2), > 0, in squared data units.
        NCSN's 2e-5 belongs to σ_L = 0.01 (ε/σ_L² = 0.2); a step is stable where
        ε/σ_L² < 4.
    steps : int
        Inner steps T a level, >= 1; the paper's 100.

    Raises
    ------
    ScheduleError
        ``epsilon`` or ``steps`` out of range.
    """

    epsilon: float = 2e-5
    steps: int = 100

    def __post_init__(self) -> None:
        require(finite(self.epsilon) and self.epsilon > 0, "epsilon > 0", f"{self.epsilon}")
        require_steps(self.steps)

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        sigma_t = sde.marginal(times)[1]
        alpha_i = self.epsilon * (sigma_t / sigma_t[-1]).square()
        return langevin_tableau(times, alpha_i / 2)
