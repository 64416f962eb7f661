"""What a corrector is: a Markov chain that leaves ``p_t`` (nearly) alone, run at one ``t``."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor

from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.predictors.base import require_linear
from sdescore.sde.base import SDE
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.tableau import Tableau, one_stage

__all__ = ["Corrector", "ScoreAt"]


class ScoreAt(Protocol):
    """A model's score at one time, for a label if the sampler was given one."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """``∇ₓ log p_t(x)``, a fresh tensor like ``x`` ``(B, *E)``."""

    def log_density(self, x: Tensor, /) -> Tensor:
        """``log p_t(x)`` up to a constant, ``(B,)``; see ``needs_log_density``."""


class Corrector(ABC):
    """Improves ``x`` at one ``t``.

    To add one, subclass and give ``steps`` and :meth:`tableau`. A rule that is not
    affine returns False from :meth:`is_affine` and gives :meth:`step` instead; one that
    evaluates the score several times, or wants several noises, gives :meth:`correct` and says
    what it costs.

    Attributes
    ----------
    steps : int
        Inner steps a time: a dataclass field, or a class attribute.
    needs_log_density : bool
        Whether :meth:`correct` asks for ``score.log_density``. A sampler refuses a model without
        one before it calls it.
    """

    steps: int
    needs_log_density: bool = False

    @property
    def calls(self) -> int:
        """How often a sampler runs tableau() or correct() at one time, by default ``steps``."""
        return self.steps

    @property
    def evaluations(self) -> int:
        """Score evaluations of one correct()."""
        return 1

    @property
    def noises(self) -> int:
        """Noises that one correct() may take."""
        return 1

    def check(self, sde: SDE) -> None:
        """Refuse an SDE the corrector cannot run on.

        Raises
        ------
        IncompatibleError
            The SDE has no kernels.
        """
        require_linear(self, sde)

    def is_affine(self) -> bool:
        """Whether tableau() describes the corrector."""
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
        raise IncompatibleError(
            f"expected a corrector with a step(), got {type(self).__name__}: its numbers are in "
            "tableau(), or its rule in correct()"
        )

    def correct(
        self, sde: SDE, x: Tensor, score: ScoreAt, t: float, noises: Iterator[Tensor]
    ) -> Tensor:
        """What a sampler runs where the corrector is not affine; by default one step().

        ``x`` is ``(B, *E)`` and not to be written to; each of ``noises`` is like it, and valid
        until the next is asked for.
        """
        return self.step(sde, x, score, t, next(noises))

    def check_event(self, event_shape: tuple[int, ...]) -> None:
        """Refuse events ``*E`` that the corrector does not fit; by default it fits all.

        Raises
        ------
        ShapeError
            See above.
        """
        return  # numbers know no shape


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
