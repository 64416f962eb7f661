"""What a predictor and a corrector are: on a linear SDE each is a tableau."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.sde.base import SDE
from sdescore.sde.linear import LinearSDE
from sdescore.sde.vp import VPSDE
from sdescore.tableau.tableau import Tableau, mean_ending

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing from Python 3.11 on

__all__ = ["Corrector", "Predictor", "ScoreAt"]

# What a step costs is counted on this SDE, on a grid of this many times.
REFERENCE, TIMES = VPSDE(), 5


class Method:
    """A function (SDE, times) → tableau, or a rule that no tableau describes."""

    # The number of grid times that the method is made for, or None where any number will do.
    grid_times: int | None = None

    def __init_subclass__(cls) -> None:
        """Refuse a class that has a tableau and declares what is read off it."""
        super().__init_subclass__()
        declared = vars(cls).keys() & {"evaluations", "noises", "stochastic"}
        affine = cls.tableau is not Method.tableau and "is_affine" not in vars(cls)
        if affine and declared:
            raise IncompatibleError(
                f"expected {cls.__name__} not to declare {', '.join(sorted(declared))}, which is "
                "read off its tableau; remove it from the class"
            )

    def check(self, sde: SDE) -> None:
        """Refuse an SDE that the method cannot run on.

        Raises
        ------
        IncompatibleError
            The SDE is no :class:`sdescore.LinearSDE`, which has the kernels that tableaux are
            made of.
        """
        checks.linear(sde, type(self).__name__, "use EulerMaruyama() and NoCorrector()")

    def is_affine(self, sde: SDE) -> bool:
        """Whether :meth:`tableau` describes the method on this SDE."""
        return checks.is_linear(sde) and type(self).tableau is not Method.tableau

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """The numbers of the method's steps on ``times``, falling, float64.

        Raises
        ------
        IncompatibleError
            No numbers describe the method.
        """
        raise IncompatibleError(
            f"expected {type(self).__name__} to give tableau(), or step() if it is not affine"
        )

    @property
    def evaluations(self) -> int:
        """Evaluations a step: the tableau's stages. A rule without a tableau declares its own."""
        return self._numbers().evaluations if self.is_affine(REFERENCE) else 1

    @property
    def noises(self) -> int:
        """Noises a step: those with a weight in the tableau; a rule without one declares them."""
        return self._numbers().noises if self.is_affine(REFERENCE) else 1

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise."""
        return self.noises > 0

    @classmethod
    def examples(cls) -> Sequence[Self]:
        """Members that stand for the class in the documentation's tables and in the tests.

        By default ``cls()`` alone. A family gives one member of each kind.
        """
        return [cls()]

    def _numbers(self) -> Tableau:
        n = self.grid_times or TIMES
        grid = torch.linspace(1.0, 0.1, n, dtype=torch.float64, device="cpu")
        return self.tableau(REFERENCE, grid)


class Predictor(Method):
    """Moves ``x`` from ``t`` to ``s < t``.

    To add one, subclass, declare ``order`` and give :meth:`tableau`, the method's numbers on a
    linear SDE: ``evaluations`` and ``noises`` are read off it. A rule that is not affine gives
    :meth:`step` instead, and declares ``evaluations`` and ``noises`` where they are not 1. A rule
    that has a tableau on some SDEs only gives both, and :meth:`is_affine` says on which.

    Attributes
    ----------
    order : int
        Declared order of the error of the distribution of ``x`` on Gaussian data;
        :func:`sdescore.analysis.order` measures it.

    Examples
    --------
    >>> import sdescore as ss
    >>> class Euler(ss.Predictor):  # of the probability flow
    ...     order, noises = 1, 0
    ...
    ...     def step(self, sde, x, score, t, s, z):
    ...         f, g2 = sde.rates(t)
    ...         return x + (s - t) * (f.item() * x - 0.5 * g2.item() * score(x))
    >>> sde = ss.VPSDE()
    >>> sampler = ss.PredictorCorrector(sde, predictor=Euler(), steps=200)
    >>> x = sampler.sample(ss.GaussianScore([2.0], 0.25, sde), shape=(4000, 1))
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    order: ClassVar[int]

    @property
    def needs_variance(self) -> bool:
        """Whether :meth:`step` asks for ``score.with_variance``, by default not.

        A sampler refuses a model without a learned variance before it calls it.
        """
        return False

    @property
    def eta(self) -> float:
        r"""η of the SDE that the method follows as its steps shrink; 1 is the reverse SDE's.

        .. math:: dx = \bigl[f x - \tfrac{1 + \eta^2}{2} g^2 s\bigr] dt + \eta\, g\, dw
        """
        return 1.0

    def ending(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """The last denoise as one row at ``times[-1]``; by default Tweedie's mean.

        If the row has several weights, all but the newest belong to the predictor's earlier
        outputs.
        """
        return mean_ending(sde, times[-1:])

    def step(
        self, sde: SDE, x: Tensor, score: Callable[[Tensor], Tensor], t: float, s: float, z: Tensor
    ) -> Tensor:
        """One move by hand, from ``x`` ``(B, *E)`` at ``t`` to ``s``, with noise ``z`` like ``x``.

        ``score`` is the score at ``t``. One-stage predictors only.

        Raises
        ------
        IncompatibleError
            The SDE is not linear, or the method has more than one stage or output.
        """
        linear = checks.linear(sde, type(self).__name__, "use EulerMaruyama()")
        numbers = self.tableau(linear, torch.tensor([t, s], dtype=torch.float64, device="cpu"))
        plain = numbers.output == "score" and numbers.start is None
        if not plain or numbers.b.shape[1:] != (1, 1):
            raise IncompatibleError(
                f"expected a one-stage, one-output method in score form to step by hand; "
                f"{type(self).__name__} is not: use PredictorCorrector.iterate"
            )
        return numbers.step(0, x, [], lambda y, _: score(y), [z])


@dataclass(frozen=True)
class EtaPredictor(Predictor):
    """A predictor with a noise scale ``eta`` in [0, 1]; at 0 it draws no noise."""

    eta: float = 1.0

    def __post_init__(self) -> None:
        vars(self)["eta"] = checks.number("eta", self.eta, at_least=0, at_most=1)

    @classmethod
    def examples(cls) -> Sequence[Self]:
        return [cls(eta=eta) for eta in (1.0, 0.0)]


class ScoreAt(Protocol):
    """A model's score at one time, for a label if the sampler was given one."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """``∇ₓ log p_t(x)``, a fresh tensor like ``x`` ``(B, *E)``."""

    def log_density(self, x: Tensor, /) -> Tensor:
        """``log p_t(x)`` up to a constant, ``(B,)``; see ``needs_log_density``."""


class Corrector(Method):
    """Improves ``x`` at one ``t``: a Markov chain that leaves ``p_t`` (nearly) alone.

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

    Examples
    --------
    >>> import sdescore as ss
    >>> class Small(ss.Corrector):  # a Langevin step of fixed size
    ...     steps = 1
    ...
    ...     def step(self, sde, x, score, t, z):
    ...         return x + 0.001 * score(x) + 0.002**0.5 * z
    >>> sde = ss.VPSDE()
    >>> sampler = ss.PredictorCorrector(sde, ss.DDIM(), Small(), steps=50)
    >>> x = sampler.sample(ss.GaussianScore([2.0], 0.25, sde), shape=(4000, 1))
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
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
