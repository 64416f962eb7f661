r"""The scores of products and of mixtures of densities.

.. math::
   p \propto \prod_i p_i^{w_i}, \quad s = \sum_i w_i s_i, \qquad
   p \propto \sum_i w_i p_i, \quad s = \sum_i r_i s_i, \quad r_i = \frac{w_i p_i}{\sum_j w_j p_j}

(Hinton 2002, "Training products of experts by minimizing contrastive divergence"; Liu et al. 2022,
arXiv:2206.01714, section 3). Both hold at one noise level. A mixture of diffused densities is the
diffused mixture, so every sampler draws from it. A product of diffused densities is *not* the
diffused product: a reverse process with its score ends elsewhere. Steps of
:class:`sdescore.correctors.MALA` or :func:`sdescore.langevin.chains` at the last noise level draw
from the product itself (Du et al. 2023, arXiv:2302.11552, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdescore import checks
from sdescore.guidance.base import GuidedScore, call, log_density
from sdescore.score.interface import knows_density, log_density_of, require_label
from sdescore.shapes import align
from sdescore.typing import Condition, Score, Time

__all__ = ["mixture", "product"]


class _Composed(GuidedScore):
    """Scores with a number each."""

    def __init__(self, scores: Sequence[Score], name: str, numbers: object, default: float) -> None:
        checks.instance("scores", scores, Sequence, "[score, other]")  # type: ignore[type-abstract]
        checks.that(len(scores) > 0, "one score or more", "none")
        super().__init__(scores)
        found = [default] * len(scores) if numbers is None else checks.numbers(name, numbers)
        expected = f"{name} with one number for each of {len(scores)} scores"
        checks.that(len(found) == len(scores), expected, len(found))
        self.numbers = tuple(found)
        for k, score in enumerate(scores):  # those that are modules are registered
            setattr(self, f"score_{k}", score)

    def extra_repr(self) -> str:
        return f"{self.numbers}"

    def scores(self) -> list[Score]:
        return [getattr(self, f"score_{k}") for k in range(len(self.numbers))]

    def require_label(self, label: object) -> None:
        for score in self.scores():
            require_label(score, label)


class _Product(_Composed):
    def forward(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        parts = zip(self.numbers, self.scores(), strict=True)
        return sum_of([w * call(score, x, t, label) for w, score in parts])

    @property
    def has_log_density(self) -> bool:
        return all(map(knows_density, self._parts))

    def log_density(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        """``Σ wᵢ log pᵢ``, ``(B,)``, up to a constant."""
        parts = zip(self.numbers, self.scores(), strict=True)
        return sum_of([w * log_density(score, x, t, label) for w, score in parts])


class _Mixture(_Composed):
    def __init__(self, scores: Sequence[Score], log_weights: object) -> None:
        super().__init__(scores, "log_weights", log_weights, 0.0)
        for score in scores:
            log_density_of(score)

    def forward(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        shares = self._log_joint(x, t, label).softmax(1).to(x.dtype).unbind(1)
        parts = zip(shares, self.scores(), strict=True)
        return sum_of([align(r, x) * call(score, x, t, label) for r, score in parts])

    def _log_joint(self, x: Tensor, t: Time, label: Condition | None) -> Tensor:
        """``log wᵢ pᵢ``, ``(B, n)``."""
        parts = zip(self.numbers, self.scores(), strict=True)
        return torch.stack([w + log_density(score, x, t, label) for w, score in parts], 1)

    def log_density(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        """``log Σ wᵢ pᵢ``, ``(B,)``, up to a constant."""
        return self._log_joint(x, t, label).logsumexp(1)


def product(scores: Sequence[Score], weights: Sequence[float] | None = None) -> GuidedScore:
    r"""The score of a product of densities, :math:`\prod_i p_i^{w_i}`.

    A sampler alone does not draw from the product of the data's densities.
    :mod:`sdescore.guidance.compose` says what does.

    Parameters
    ----------
    scores : sequence of callable
        Scores on one SDE. Each is called with the label where there is one; give them labels of
        their own by :func:`sdescore.guidance.condition` or :func:`sdescore.guidance.label_part`.
    weights : sequence of float, optional
        One finite number for each score, by default 1. A negative weight divides by its density.

    Returns
    -------
    GuidedScore
        It has a ``log_density`` where all the scores have one.

    Raises
    ------
    IncompatibleError
        ``scores`` is no sequence of callables on one SDE.
    ParameterError
        There is no score, or ``weights`` does not have one finite number for each score.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> one, other = ss.GaussianScore([0.0], 1.0, sde), ss.GaussianScore([4.0], 1.0, sde)
    >>> both = ss.guidance.product([one, other])  # at t = 0 it is N(2, 1/2)
    >>> both(torch.tensor([[2.0], [3.0]]), 0.0).flatten().tolist()
    [0.0, -2.0]
    """
    return _Product(scores, "weights", weights, 1.0)


def mixture(scores: Sequence[Score], log_weights: Sequence[float] | None = None) -> GuidedScore:
    r"""The score of a mixture of densities, :math:`\sum_i w_i p_i`.

    Parameters
    ----------
    scores : sequence of callable
        As in :func:`product`, and each with a log density: exact scores, a
        :class:`sdescore.ScoreModel` of an :class:`sdescore.EnergyModel`, or guided ones of these.
    log_weights : sequence of float, optional
        ``log wᵢ``, one finite number a score; by default 0 each. They multiply the densities that
        the scores report. The density of an energy lacks a constant at each noise level, so its
        weight is relative to this constant.

    Raises
    ------
    IncompatibleError
        ``scores`` is no sequence of callables on one SDE, or one of them has no log density.
    ParameterError
        There is no score, or ``log_weights`` does not have one finite number for each score.

    Examples
    --------
    >>> import math, torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> one, other = ss.GaussianScore([0.0], 1.0, sde), ss.GaussianScore([4.0], 1.0, sde)
    >>> either = ss.guidance.mixture([one, other], [math.log(0.3), math.log(0.7)])
    >>> x = ss.PredictorCorrector(sde, steps=50).sample(either, (4000, 1))
    >>> bool(((x > 2).float().mean() - 0.7).abs() < 0.05)
    True
    """
    return _Mixture(scores, log_weights)


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """The sum of one tensor or more."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
