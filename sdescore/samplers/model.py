"""What a sampler asks of a model: its device, its dtype, and that it leaves its input alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from sdescore.errors import ShapeError

Model = Callable[..., Tensor]
"""A :class:`sdescore.ScoreModel` or any callable ``score(x, t)`` (``score(x, t, label)``)."""

IN_A_GRAPH, UNCOUNTED = -1, -2


def version_of(x: Tensor) -> int:
    """How often ``x`` was written to; inference tensors do not count."""
    if is_compiling():
        return IN_A_GRAPH
    return UNCOUNTED if x.is_inference() else x._version


def model_device(model: Model) -> torch.device:
    """Where a model's parameters are, else its ``device`` attribute, else the CPU."""
    if isinstance(model, nn.Module):
        first = next(model.parameters(), None)
        if first is not None:
            return first.device
    own = getattr(model, "device", None)
    return usable_device(own) if isinstance(own, str | torch.device) else torch.device("cpu")


def usable_device(device: torch.device | str) -> torch.device:
    """``device``, refused where this machine cannot put a tensor on it.

    Raises
    ------
    ShapeError
        An unknown device, or one that is not there.
    """
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ShapeError(
            f"expected a device of this machine, such as 'cpu', got {device!r}: {reason}"
        ) from None
    return chosen


def state_dtype(model: Model) -> torch.dtype:
    """The state's dtype: the model's, but at least float32."""
    own = getattr(model, "dtype", None)
    own = own if isinstance(own, torch.dtype) else torch.float32
    if isinstance(model, nn.Module):
        own = next((p.dtype for p in model.parameters() if p.is_floating_point()), own)
    return torch.promote_types(own, torch.float32)
