"""What a corrector is: a Markov chain that leaves ``p_t`` (nearly) alone, run at one ``t``."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable

from torch import Tensor

from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.predictors.base import require_linear
from sdescore.sde.base import SDE
from sdescore.sde.linear import LinearSDE
from sdescore.tableau import Tableau, one_stage

__all__ = ["Corrector", "langevin_tableau", "require_steps"]


class Corrector(ABC):
    """Improves ``x`` at one ``t``.

    To add one, subclass and give ``steps`` and :meth:`tableau`. A rule that is not
    affine returns False from :meth:`is_affine` and gives :meth:`step` instead.

    Attributes
    ----------
    steps : int
        Inner steps a time: a dataclass field, or a class attribute.
    """

    steps: int

    def check(self, sde: SDE) -> None:
        """Refuse an SDE the corrector cannot run on.

        Raises
        ------
        IncompatibleError
            The SDE has no kernels.
        """
        require_linear(self, sde)

    def is_affine(self) -> bool:
        """Whether :meth:`tableau` describes the corrector."""
        return True

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """The numbers of one inner step at each of ``times`` ``(n,)``, falling, float64.

        Raises
        ------
        IncompatibleError
            The corrector is not affine, so no numbers describe it.
        """
        raise IncompatibleError(
            f"expected {type(self).__name__} to give tableau(), or step() and is_affine() False"
        )

    def step(
        self, sde: SDE, x: Tensor, score: Callable[[Tensor], Tensor], t: float, z: Tensor
    ) -> Tensor:
        """One inner step by hand at ``t``, with noise ``z`` like ``x`` ``(B, *E)``."""
        raise IncompatibleError(f"{type(self).__name__} is affine: its numbers are in tableau()")


def langevin_tableau(times: Tensor, tau: Tensor) -> Tableau:
    r"""Langevin steps :math:`x + \tau s + \sqrt{2\tau} z` at each time."""
    return one_stage(times, times.new_ones(()), tau, (2 * tau).sqrt())


def require_steps(steps: int) -> None:
    """Refuse a number of inner steps below 1.

    Raises
    ------
    ScheduleError
        Not a positive integer.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ScheduleError(
            f"expected a positive number of inner steps, got {steps!r}; for none use NoCorrector()"
        )
