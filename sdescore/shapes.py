r"""Shapes, and the only broadcasting code.

Glossary
--------
``B``
    batch size; the first dimension of every state.
``*E``
    event shape: everything after the batch; it may be empty.
``t``
    a time: a Python float, a 0-dim tensor (one time for all samples) or ``(B,)``.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError


def float64(value: float | Tensor, like: Tensor | None = None) -> Tensor:
    """``value`` as a float64 tensor, on the device of ``like`` if given.

    A number becomes a tensor on the CPU, which mixes with a state on any device.
    """
    device = None if like is None else like.device
    if isinstance(value, Tensor):
        value = checks.dense("a number", value)
        return value.to(checks.with_float64(device or value.device), torch.float64)
    try:
        number = torch.tensor(value, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError):
        checks.refuse("a number or a tensor", f"{value!r:.100}", ShapeError)
    return number if device is None else number.to(checks.with_float64(device))


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context for our own matrix products, which the caller's ``torch.autocast`` would round."""
    kind = x.device.type
    available = torch.amp.is_autocast_available(kind)  # "meta" has none
    return torch.autocast(kind, enabled=False) if available else nullcontext()


def align(coefficient: Tensor, x: Tensor) -> Tensor:
    """Give a ``()`` or ``(B,)`` coefficient the trailing ones that match ``x`` ``(B, *E)``."""
    if coefficient.ndim == 0:
        return coefficient
    if coefficient.ndim == 1 and x.ndim >= 1 and coefficient.shape[0] in (1, x.shape[0]):
        return coefficient.reshape(coefficient.shape[0], *(1,) * (x.ndim - 1))
    raise ShapeError(
        "expected one time for all samples or one per sample, shape () or (B,); "
        f"got {tuple(coefficient.shape)} beside a state of shape {tuple(x.shape)}"
    )


def sum_event(x: Tensor) -> Tensor:
    """Sum over the event dimensions: ``(B, *E)`` → ``(B,)``."""
    return flat(x).sum(-1)


def flat(x: Tensor) -> Tensor:
    """``(B, *E)`` → ``(B, d)``; B and d may be 0, E may be empty."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))
