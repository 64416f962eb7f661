"""What a predictor and a corrector have in common: on a linear SDE each is a tableau."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.sde.base import SDE
from sdescore.sde.linear import LinearSDE
from sdescore.sde.vp import VPSDE
from sdescore.tableau.tableau import Tableau

# What a step costs is counted on this SDE, on a grid of this many times.
REFERENCE, TIMES = VPSDE(), 5


class Method:
    """A function (SDE, times) → tableau, or a rule that no tableau describes.

    Attributes
    ----------
    grid_times : int or None
        The number of grid times that the method is made for, or None where any number will do.
    """

    grid_times: int | None = None

    def __init_subclass__(cls) -> None:
        """Refuse a class that declares what is read off its tableau.

        Raises
        ------
        IncompatibleError
            It has a tableau, and declares ``evaluations``, ``noises`` or ``stochastic``.
        """
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
