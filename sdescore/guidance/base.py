r"""Guidance makes one score of others.

Bayes' rule on the marginals, :math:`p_t(x | y) \propto p_t(x)\, p_t(y | x)`, is a sum of scores,

.. math:: \nabla_x \log p_t(x | y) = \nabla_x \log p_t(x) + \nabla_x \log p_t(y | x)

(Song et al. 2021, arXiv:2011.13456, eq. 14; Dhariwal & Nichol 2021, arXiv:2105.05233, section 4.1),
so a classifier of noisy states turns an unconditional score into a conditional one. Without a
classifier, two scores are mixed (Ho & Salimans 2022, arXiv:2207.12598, eq. 6, whose w is ω − 1):

.. math:: s_\omega = \omega\, s(x | y) + (1 - \omega)\, s(x) .

ω = 1 is the conditional score and ω = 0 the unconditional one. Above 1 the result is sharper, but
it is not the score of any diffused density. A sampler then draws from no known distribution.

Every guided score is a module that holds its parts, so a sampler finds their parameters, device,
dtype and SDE, and puts them in eval mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.score.convention import DataScale
from sdescore.score.interface import log_density_of, one_scale, require_arguments, require_times
from sdescore.score.parameterization import tweedie_mean
from sdescore.sde.base import SDE
from sdescore.typing import Condition, Score, Time
from sdescore.wrappers import owner_of, sde_of, undisturbed

__all__ = ["GuidedScore"]


class GuidedScore(nn.Module):
    """A score made of others; call it as ``score(x, t)`` or ``score(x, t, label)``.

    Parameters
    ----------
    parts : sequence of callable
        The scores and other functions of ``(x, t)`` that it is made of.

    Attributes
    ----------
    sde : SDE
        The SDE of the parts. The attribute is absent where no part has an SDE.

    Raises
    ------
    IncompatibleError
        A part is not callable, or two parts belong to different SDEs or standardise their data
        differently.
    """

    sde: SDE
    made_of_scores: ClassVar[bool] = True  # a sampler looks whether it sees each sample alone

    def __init__(self, parts: Sequence[Score]) -> None:
        super().__init__()
        sdes = [sde_of(checks.function("the score", part)) for part in parts]
        sdes = [sde for sde in sdes if sde is not None]
        one, got = all(sde == sdes[0] for sde in sdes), (f"{sde!r:.200}" for sde in sdes)
        checks.that(one, "scores on one SDE", " and ".join(got), IncompatibleError)
        if sdes:
            self.sde = sdes[0]
        self._parts = tuple(parts)  # a tuple registers no module twice
        one_scale(parts)

    @property
    def data_scale(self) -> DataScale | None:
        """The parts' scale, which training may have changed since; None where no part has one."""
        return one_scale(self._parts)

    @property
    def data_range(self) -> tuple[float, float] | None:
        """The range of the data by the first part that knows it; else None."""
        found: tuple[float, float] | None = self._of_first("data_range")
        return found

    @property
    def sigma_data(self) -> float | None:
        """The data's standard deviation by the first part that knows it; else None."""
        found: float | None = self._of_first("sigma_data")
        return found

    def _of_first(self, name: str) -> Any:
        found = (getattr(owner_of(part), name, None) for part in self._parts)
        return next((value for value in found if value is not None), None)

    def require_times(self, t: Tensor) -> None:
        """Refuse times ``(n,)`` that a part does not cover, in the part's own words."""
        for part in self._parts:
            require_times(part, t)

    def require_label(self, label: object) -> None:
        """Refuse a label that no part takes, or None where one needs it, as the parts do."""
        if label is not None:
            require_arguments(self, label)

    def denoise(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        """``x̂₀ = (x + σ² s)/α`` of the guided score, like ``x`` ``(B, *E)``.

        Raises
        ------
        IncompatibleError
            The parts have no linear SDE, or α_t is 0.
        """
        sde = checks.linear(getattr(self, "sde", None), "denoise", "pass a score with an SDE")
        return tweedie_mean(x, call(self, x, t, label), *sde.marginal(t))


def call(score: Score, x: Tensor, t: Time, label: Condition | None) -> Tensor:
    """``score(x, t, label)``, or ``score(x, t)`` without a label."""
    arguments = (t,) if label is None else (t, label)
    return undisturbed(score, x, *arguments, who="a score")  # type: ignore[no-any-return]


def log_density(score: Score, x: Tensor, t: Time, label: Condition | None) -> Tensor:
    """The score's log density, ``(B,)``, with or without a label."""
    return call(log_density_of(score), x, t, label)
