r"""The overdamped Langevin equation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.sde.base import SDE
from sdescore.typing import Time

__all__ = ["LangevinSDE"]


@dataclass(frozen=True)
class LangevinSDE(SDE):
    r"""The Langevin equation in a potential U at temperature ϑ (Risken 1996, chapters 5 and 6):

    .. math:: \mathrm{d}x = s(x)\,\mathrm{d}t + \sqrt{2\vartheta}\,\mathrm{d}w, \qquad
       s = -\nabla U .

    The Boltzmann distribution :math:`p \propto e^{-U/\vartheta}` is stationary, because its flux
    :math:`s\,p - \vartheta\,\nabla p` vanishes. With :math:`s = \nabla \log p_{\text{data}}` it is
    :math:`p_{\text{data}}^{1/\vartheta}`, normalised: the distribution of the data at ϑ = 1.

    Parameters
    ----------
    score : callable
        ``score(x) -> like x``, a function of the state ``(B, *E)`` alone, such as one noise level
        of a model, ``lambda x: model(x, t)``.
    temperature : float
        ϑ >= 0; 0 is the gradient flow ``dx = s dt``, without noise.
    T : float
        End of the time, > 0. Nothing else depends on it.

    Raises
    ------
    IncompatibleError, ScheduleError
        ``score`` cannot be called, or it needs a time; a number is out of range.

    Examples
    --------
    >>> import torch
    >>> from sdescore.sde.langevin import LangevinSDE
    >>> from sdescore.samplers.simulate import simulate
    >>> x = simulate(LangevinSDE(torch.neg, temperature=4.0), torch.zeros(5000, 1), steps=500)
    >>> bool((x.std() - 2.0).abs() < 0.1)  # U = x²/2, so p is N(0, ϑ)
    True
    """

    score: Callable[[Tensor], Tensor]
    _: KW_ONLY
    temperature: float = 1.0
    T: float = 10.0

    def __post_init__(self) -> None:
        checks.function("score", self.score)
        if getattr(self.score, "sde", None) is not None:
            advice = "whose score depends on the time; take one noise level, lambda x: model(x, t)"
            got = f"{type(self.score).__name__}, {advice}"
            checks.refuse("a score(x) of the state alone", got, IncompatibleError)
        theta = checks.number("temperature", self.temperature, at_least=0, error=ScheduleError)
        T = checks.number("T", self.T, above=0, error=ScheduleError)
        vars(self).update(temperature=theta, T=T, deterministic=theta == 0)

    def drift(self, x: Tensor, t: Time) -> Tensor:
        return checks.score_output(self.score(x), x)

    def diffusion(self, t: Time) -> Tensor:
        return torch.full_like(checks.time(t, self.T), math.sqrt(2.0 * self.temperature))
