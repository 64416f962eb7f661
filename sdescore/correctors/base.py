"""What a corrector is: a Markov chain that leaves ``p_t`` (nearly) alone, run at one ``t``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.sde.base import SDE
from sdescore.tableau.method import Method
from sdescore.tableau.tableau import Tableau, one_stage

__all__ = ["Corrector", "ScoreAt"]


class ScoreAt(Protocol):
    """A model's score at one time, for a label if the sampler was given one."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """``∇ₓ log p_t(x)``, a fresh tensor like ``x`` ``(B, *E)``."""

    def log_density(self, x: Tensor, /) -> Tensor:
        """``log p_t(x)`` up to a constant, ``(B,)``; see ``needs_log_density``."""


class Corrector(Method):
    """Improves ``x`` at one ``t``.

    To add one, subclass and give ``steps`` and :meth:`tableau`, the numbers of one inner step at
    each time: ``evaluations`` and ``noises`` are read off it. A rule that is not affine gives
    :meth:`step` instead; one that evaluates the score several times, or wants several noises,
    gives :meth:`correct` and declares ``evaluations`` and ``noises``. A rule that has numbers for
    some of its parameters alone gives both, and :meth:`is_affine` says when it has them.

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
        """How often a sampler runs the tableau or correct() at one time, by default ``steps``."""
        return self.steps

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

        ``x`` ``(B, *E)`` must not be written to. Each of ``noises`` is like ``x`` and valid until
        the next is asked for.
        """
        return self.step(sde, x, score, t, next(noises))

    def check_event(self, event_shape: tuple[int, ...]) -> None:
        """Refuse events ``*E`` that the corrector does not fit; by default it fits all.

        Raises
        ------
        ShapeError
            The corrector holds tensors, such as a preconditioner, of another event shape.
        """
        return  # a tableau's numbers fit every event


def langevin_tableau(times: Tensor, tau: Tensor) -> Tableau:
    r"""Langevin steps :math:`x + \tau s + \sqrt{2\tau} z` at each time."""
    return one_stage(times, times.new_ones(()), tau, (2 * tau).sqrt())


def inner_steps(steps: object) -> int:
    """``steps`` as an int, refused below 1.

    Raises
    ------
    ParameterError
        Not a positive integer.
    """
    usable = checks.is_count(steps) and steps >= 1
    checks.that(
        usable, "a positive number of inner steps", f"{steps!r}; for none use NoCorrector()"
    )
    return int(steps)  # type: ignore[call-overload, no-any-return]
