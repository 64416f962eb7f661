"""What every metric asks of its two sample sets."""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ParameterError, ShapeError


def flatten(x: Tensor, name: str, at_least: int = 1) -> Tensor:
    """``(N, *E)`` as a float64 ``(N, d)`` matrix, N >= ``at_least``; refused where not finite."""
    checks.state(x, name)
    if len(x) < at_least or x.numel() == 0:
        raise ShapeError(
            f"expected at least {'one sample' if at_least == 1 else 'two samples'} with at least "
            f"one entry in {name}, got shape {tuple(x.shape)}"
        )
    flat = x.detach().reshape(x.shape[0], -1).to(torch.float64)
    finite = torch.isfinite(flat).all(1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        shown = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        raise ParameterError(
            f"expected finite samples in {name}, got NaN or infinity in {len(bad)} of "
            f"{len(flat)} (indices {shown}); count and drop them first, {name}[keep]"
        )
    return flat


def flatten_pair(x: Tensor, y: Tensor, at_least: int = 1) -> tuple[Tensor, Tensor]:
    """Both sets as float64 ``(N, d)`` and ``(M, d)``; refused on two devices or with two d."""
    a, b = flatten(x, "x", at_least), flatten(y, "y", at_least)
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


def shuffled(n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """The indices below ``n`` in random order, drawn on the CPU: a seed means one order."""
    return torch.randperm(n, generator=generator, device="cpu").to(device)
