"""What a predictor is: a rule that moves the state from ``t`` to ``s < t``."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sdescore.checks import finite, require
from sdescore.errors import IncompatibleError
from sdescore.sde.base import SDE
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.ending import mean_ending
from sdescore.tableau.tableau import Tableau

__all__ = ["Predictor"]


class Predictor(ABC):
    """Moves ``x`` from ``t`` to ``s < t``.

    To add one, subclass and give :meth:`tableau`, the method's numbers on a linear SDE. A
    rule that is not affine, or that runs on any SDE, returns False from :meth:`is_affine`
    and gives :meth:`step` instead.

    Attributes
    ----------
    order : int
        Declared order of the error of the law of ``x`` on Gaussian data; a test measures it.
    evaluations : int
        Score evaluations a step.
    """

    order: ClassVar[int]
    evaluations: ClassVar[int] = 1

    @property
    def stochastic(self) -> bool:
        """Whether a step draws noise."""
        return True

    @property
    def eta(self) -> float:
        r"""η of the SDE that small steps follow, where noise is drawn; 1 is the reverse SDE's.

        .. math:: dx = \bigl[f x - \tfrac{1 + \eta^2}{2} g^2 s\bigr] dt + \eta\, g\, dw
        """
        return 1.0

    def check(self, sde: SDE) -> None:
        """Refuse an SDE the predictor cannot run on.

        Raises
        ------
        IncompatibleError
            The SDE has no kernels.
        """
        require_linear(self, sde)

    def is_affine(self, sde: SDE) -> bool:
        """Whether :meth:`tableau` describes the predictor on this SDE."""
        return True

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """The numbers of the ``n`` moves between ``times`` ``(n + 1,)``, falling, float64.

        Raises
        ------
        IncompatibleError
            The predictor is not affine, so no numbers describe it.
        """
        raise IncompatibleError(
            f"expected {type(self).__name__} to give tableau(), or step() and is_affine() False"
        )

    def ending(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """The last denoise as one row, at ``times[-1]``: Tweedie's mean, where not said otherwise.

        More weights than one are of the predictor's own outputs.
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
        """
        require_linear(self, sde)
        numbers = self.tableau(sde, torch.tensor([t, s], dtype=torch.float64))  # type: ignore[arg-type]
        plain = numbers.output == "score" and numbers.start is None
        if not plain or numbers.b.shape[1:] != (1, 1):
            raise IncompatibleError(
                f"expected a one-stage, one-output method in score form to step by hand; "
                f"{type(self).__name__} is not: use PredictorCorrector.iterate"
            )
        a, b, c = (v.flatten()[0].item() for v in (numbers.a, numbers.b, numbers.c))
        return a * x + b * score(x) + c * z


@dataclass(frozen=True)
class EtaPredictor(Predictor):
    """A predictor with a noise scale ``eta`` in [0, 1]; at 0 it draws no noise.

    Raises
    ------
    ScheduleError
        ``eta`` is outside [0, 1].
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        require(finite(self.eta) and 0 <= self.eta <= 1, "0 <= eta <= 1", f"eta={self.eta!r}")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0


def require_linear(part: object, sde: SDE) -> None:
    """Refuse an SDE without kernels.

    Raises
    ------
    IncompatibleError
        The SDE is not a :class:`sdescore.LinearSDE`.
    """
    if not hasattr(sde, "transition"):
        raise IncompatibleError(
            f"expected a LinearSDE for {type(part).__name__}, got {type(sde).__name__}, which has "
            "no transition kernel; use EulerMaruyama() and NoCorrector()"
        )
