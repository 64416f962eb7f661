"""Every refusal, one wording a question."""

from __future__ import annotations

import math
from numbers import Real

from torch import Tensor

from sdescore.errors import ScheduleError, ShapeError


def require(condition: bool, expected: str, got: object) -> None:
    """Refuse a parameter that lies outside its range.

    Raises
    ------
    ScheduleError
        ``condition`` is false.
    """
    if not condition:
        raise ScheduleError(f"expected {expected}; got {got}")


def named(name: str, value: object) -> str:
    """``name=value``, for what an error got; it says so where the value is no Python number."""
    if isinstance(value, Real):
        return f"{name}={value!r}"
    hint = "; use .item()" if isinstance(value, Tensor) else ""
    return f"{name}={value!r:.100}, which is no Python number{hint}"


def finite(*values: object) -> bool:
    """Whether all values are finite real numbers."""
    return all(isinstance(v, Real) and math.isfinite(v) for v in values)


def is_count(value: object) -> bool:
    """Whether a value is a non-negative integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def require_state(x: Tensor, name: str = "x") -> None:
    """Refuse anything that is not a floating-point ``(B, *E)`` tensor.

    Raises
    ------
    ShapeError
        Not a tensor, not floating point, or without a batch dimension.
    """
    if not isinstance(x, Tensor):
        raise ShapeError(f"expected {name} to be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise ShapeError(
            f"expected {name} in floating point, got {x.dtype}; convert it, e.g. {name}.float()"
        )
    if x.ndim < 1:
        raise ShapeError(
            f"expected {name} of shape (B, *E) with a batch dimension, got a 0-dim tensor; "
            f"use {name}[None]"
        )


def require_same_shape(value: Tensor, x: Tensor, name: str, x_name: str = "x") -> None:
    """Refuse a ``value`` that is not shaped like the state ``x``; nothing broadcasts silently.

    Raises
    ------
    ShapeError
        The shapes differ, or one of the two is no state.
    """
    require_state(value, name)
    require_state(x, x_name)
    if value.shape != x.shape:
        raise ShapeError(
            f"expected {name} shaped like {x_name}, {tuple(x.shape)}, got {tuple(value.shape)}"
        )
