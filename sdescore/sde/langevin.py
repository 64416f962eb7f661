r"""The overdamped Langevin equation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.checks import finite, named, require, require_same_shape
from sdescore.errors import IncompatibleError
from sdescore.sde.base import SDE
from sdescore.typing import Time

__all__ = ["LangevinSDE"]


@dataclass(frozen=True)
class LangevinSDE(SDE):
    r"""The Langevin equation in a potential U at temperature ϑ (Risken 1996, chapters 5 and 6):

    .. math:: \mathrm{d}x = s(x)\,\mathrm{d}t + \sqrt{2\vartheta}\,\mathrm{d}w, \qquad
       s = -\nabla U .

    Boltzmann's law :math:`p \propto e^{-U/\vartheta}` is stationary, for its flux
    :math:`s\,p - \vartheta\,\nabla p` vanishes. With :math:`s = \nabla \log p_{\text{data}}` and
    ϑ = 1 that law is the data's; another ϑ gives :math:`p_{\text{data}}^{1/\vartheta}`.

    Parameters
    ----------
    score : callable
        ``score(x) -> like x``, of the state ``(B, *E)`` alone. One noise level of a model is
        ``lambda x: model(x, t)``.
    temperature : float
        ϑ >= 0; 0 is the gradient flow ``dx = s dt``, without noise.
    T : float
        End of the time, > 0. Nothing else depends on it.

    Raises
    ------
    IncompatibleError
        ``score`` cannot be called, or it belongs to an SDE and so needs a time.
    ScheduleError
        A negative temperature, or T not positive.

    Examples
    --------
    >>> import torch
    >>> from sdescore.sde.langevin import LangevinSDE
    >>> from sdescore.samplers.simulate import simulate
    >>> x = simulate(LangevinSDE(torch.neg, temperature=4.0), torch.zeros(5000, 1), steps=500)
    >>> bool((x.std() - 2.0).abs() < 0.1)  # U = x²/2, so the law is N(0, ϑ)
    True
    """

    score: Callable[[Tensor], Tensor]
    _: KW_ONLY
    temperature: float = 1.0
    T: float = 10.0

    def __post_init__(self) -> None:
        if isinstance(self.score, type) or not callable(self.score):
            raise IncompatibleError(
                f"expected score to be a callable score(x), got {self.score!r:.200}"
            )
        if getattr(self.score, "sde", None) is not None:
            raise IncompatibleError(
                "expected a score(x) of the state alone, got "
                f"{type(self.score).__name__}, whose score depends on the time; take one noise "
                "level, lambda x: model(x, t)"
            )
        require(
            finite(self.temperature) and self.temperature >= 0,
            "a finite temperature >= 0",
            named("temperature", self.temperature),
        )
        require(finite(self.T) and self.T > 0, "a finite T > 0", named("T", self.T))

    @property
    def deterministic(self) -> bool:
        return self.temperature == 0

    def drift(self, x: Tensor, t: Time) -> Tensor:
        """``s(x)``, like ``x``."""
        score = self.score(x)
        require_same_shape(score, x, "the score")
        return score

    def diffusion(self, t: Time) -> Tensor:
        """``√(2ϑ)``, shaped like ``t``, float64."""
        return torch.full_like(checks.time(t, self.T), math.sqrt(2.0 * self.temperature))
