r"""Which scores know their density.

A score need not be the gradient of anything. Those that are say so with a method
``log_density(x, t)`` (up to a constant in ``x``: :class:`sdescore.EnergyModel`, a
:class:`sdescore.ScoreModel` of one) or ``log_prob(x, t)`` (exact scores). Metropolis'
test and finite differences need it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sdescore.errors import IncompatibleError, ShapeError


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


def knows_density(score: object) -> bool:
    """Whether the score has a log density."""
    try:
        log_density_of(score)
    except IncompatibleError:
        return False
    return True


def require_scalars(value: object, x: Tensor, name: str) -> None:
    """Refuse anything but one floating-point number per sample of ``x`` ``(B, *E)``.

    Raises
    ------
    ShapeError
        Another type, dtype or shape.
    """
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.shape == x.shape[:1]:
            return
        got = f"{value.dtype} of shape {tuple(value.shape)}"
    else:
        got = type(value).__name__
    raise ShapeError(
        f"expected {name} as one scalar per sample, floating point of shape ({len(x)},), got "
        f"{got}; squeeze it or sum it over the event"
    )
