r"""Weightings :math:`\lambda(t)` of the squared score error.

A weighting is any function ``(sde, t) -> λ`` of float64 times ``(B,)``, λ >= 0 and ``(B,)``:

.. code-block:: python

    def x0_error(sde, t):  # λ‖s − ∇log p‖² = ‖x̂₀ − x₀‖²
        alpha, sigma = sde.marginal(t)
        return (sigma**2 / alpha) ** 2
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from sdescore.errors import IncompatibleError
from sdescore.sde.linear import LinearSDE

__all__ = ["Weighting", "likelihood", "named_weighting", "sigma2"]

Weighting: TypeAlias = Callable[[LinearSDE, Tensor], Tensor]
"""``(sde, t) -> λ(t)``; ``t`` and λ are ``(B,)``, λ >= 0."""


def sigma2(sde: LinearSDE, t: Tensor) -> Tensor:
    r""":math:`\lambda = \sigma_t^2`: every time weighs the same in ε.

    NCSN's choice (Song & Ermon 2019, arXiv:1907.05600, section 4.2) and, written in ε, DDPM's
    (Ho et al. 2020, arXiv:2006.11239, eq. 14).
    """
    return sde.marginal(t)[1].square()


def likelihood(sde: LinearSDE, t: Tensor) -> Tensor:
    r""":math:`\lambda = g(t)^2`: a bound on the model's negative log-likelihood.

    Song et al. 2021, arXiv:2101.09258, theorem 1. On a VP SDE the error in ε is weighed by
    g²/σ² ≈ 1/t towards the data, so a batch's mean is noisier than under :func:`sigma2`.
    """
    return sde.rates(t)[1]


NAMED: dict[str, Weighting] = {"sigma2": sigma2, "likelihood": likelihood}


def named_weighting(weighting: str | Weighting) -> Weighting:
    """The weighting of that name, or the callable itself.

    Raises
    ------
    IncompatibleError
        An unknown name, or neither a name nor a callable.
    """
    if isinstance(weighting, str) and weighting in NAMED:
        return NAMED[weighting]
    if isinstance(weighting, str) or not callable(weighting):
        raise IncompatibleError(
            f"expected weighting among {', '.join(map(repr, NAMED))} or a function (sde, t) -> λ, "
            f"got {weighting!r}"
        )
    return weighting
