"""What every metric asks of its two sample sets."""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore.checks import require_state
from sdescore.errors import SDEScoreError, ShapeError

__all__ = ["SampleError"]


class SampleError(SDEScoreError, ValueError):
    """A sample set holds values that no distance can be measured from."""


def flatten(x: Tensor, name: str) -> Tensor:
    """``(N, *E)`` as a float64 ``(N, d)`` matrix.

    Raises
    ------
    ShapeError
        Not a floating-point tensor, no samples, or an event without entries.
    SampleError
        NaN or infinite values.
    """
    require_state(x, name)
    if x.numel() == 0:
        raise ShapeError(
            f"expected at least one sample with at least one entry in {name}, "
            f"got shape {tuple(x.shape)}; a distance needs samples"
        )
    flat = x.detach().reshape(x.shape[0], -1).to(torch.float64)
    finite = torch.isfinite(flat).all(1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        shown = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise SampleError(
            f"expected finite samples in {name}, got NaN or infinity in {len(bad)} of "
            f"{len(flat)} (indices {shown}); count and drop them first, {name}[keep]"
        )
    return flat


def flatten_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets as float64 matrices ``(N, d)`` and ``(M, d)``; N and M may differ.

    Raises
    ------
    ShapeError
        As :func:`flatten`; or the event shapes or the devices differ.
    SampleError
        NaN or infinite values.
    """
    a, b = flatten(x, "x"), flatten(y, "y")
    if x.shape[1:] != y.shape[1:]:
        raise ShapeError(
            f"expected two sample sets of one event shape, got x {tuple(x.shape)} and "
            f"y {tuple(y.shape)}; reshape one of them"
        )
    if a.device != b.device:
        raise ShapeError(
            f"expected both sample sets on one device, got x on {a.device} and y on "
            f"{b.device}; move one, e.g. y.to(x.device)"
        )
    return a, b
