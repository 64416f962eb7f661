r"""Which scores know their density.

A score need not be the gradient of anything. Those that are say so with a method
``log_density(x, t)`` (up to a constant in ``x``: :class:`sdescore.EnergyModel`, a
:class:`sdescore.ScoreModel` of one) or ``log_prob(x, t)`` (exact scores). Metropolis'
test and finite differences need it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sdescore.errors import IncompatibleError

__all__ = ["log_density_of"]


def log_density_of(score: object) -> Callable[..., Tensor]:
    """The score's ``log_density``, or else its ``log_prob``.

    Raises
    ------
    IncompatibleError
        The score has neither, or wraps a network that is no energy.
    """
    ready = getattr(score, "has_log_density", True)
    found = getattr(score, "log_density", None) or getattr(score, "log_prob", None)
    if not ready or not callable(found):
        raise IncompatibleError(
            f"expected a score that knows its log density, got {type(score).__name__} without; use "
            "EnergyModel(f), a ScoreModel of one, an exact score, or an object with "
            "log_density(x, t)"
        )
    method: Callable[..., Tensor] = found
    return method
