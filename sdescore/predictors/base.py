"""What a predictor is: a rule that moves the state from ``t`` to ``s < t``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.sde.base import SDE
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.ending import mean_ending
from sdescore.tableau.method import Method
from sdescore.tableau.tableau import Tableau

__all__ = ["Predictor"]


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
    """

    order: ClassVar[int]

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
        self,
        sde: SDE,
        x: Tensor,
        score: Callable[[Tensor], Tensor],
        t: float,
        s: float,
        z: Tensor,
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
    """A predictor with a noise scale ``eta`` in [0, 1]; at 0 it draws no noise.

    Raises
    ------
    ParameterError
        ``eta`` is outside [0, 1].
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        vars(self)["eta"] = checks.number("eta", self.eta, at_least=0, at_most=1)

    @classmethod
    def examples(cls) -> Sequence[Self]:
        return [cls(eta=eta) for eta in (1.0, 0.0)]
