"""What every metric asks of its two sample sets."""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError


def flatten(x: Tensor, name: str, at_least: int = 1) -> Tensor:
    """``(N, *E)`` as a float64 ``(N, d)`` matrix, N >= ``at_least``; refused where not finite."""
    checks.state(x, name)
    samples = "one sample" if at_least == 1 else "two samples"
    expected = f"at least {samples} with at least one entry in {name}"
    enough = len(x) >= at_least and x.numel() > 0
    checks.that(enough, expected, f"shape {tuple(x.shape)}", ShapeError)
    flat = x.detach().reshape(x.shape[0], -1)
    flat = flat.to(checks.with_float64(x.device), torch.float64)
    finite = torch.isfinite(flat).all(1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        shown = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        got = f"NaN or infinity in {len(bad)} of {len(flat)} (indices {shown})"
        advice = f"count and drop them first, {name}[keep]"
        checks.refuse(f"finite samples in {name}", f"{got}; {advice}")
    return flat


def flatten_pair(x: Tensor, y: Tensor, at_least: int = 1) -> tuple[Tensor, Tensor]:
    """Both sets as float64 ``(N, d)`` and ``(M, d)``; refused on two devices or with two d."""
    a, b = flatten(x, "x", at_least), flatten(y, "y", at_least)
    got = f"x {tuple(x.shape)} and y {tuple(y.shape)}; reshape one of them"
    same = x.shape[1:] == y.shape[1:]
    checks.that(same, "two sample sets of one event shape", got, ShapeError)
    got = f"x on {a.device} and y on {b.device}; move one, e.g. y.to(x.device)"
    checks.that(a.device == b.device, "both sample sets on one device", got, ShapeError)
    return a, b


def shuffled(n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """The indices below ``n`` in random order, drawn on the CPU: a seed means one order."""
    return torch.randperm(n, generator=generator, device="cpu").to(device)
