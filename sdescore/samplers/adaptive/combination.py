"""Sums of states whose weights differ from sample to sample."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sdescore.shapes import align


def combined(weights: Sequence[Tensor], states: Sequence[Tensor]) -> Tensor:
    """``Σ_j w_j x_j`` of weights ``(B,)`` float64 and states ``(B, *E)``, like the states."""
    total = align(weights[0].to(states[0]), states[0]) * states[0]
    for w, x in zip(weights[1:], states[1:], strict=True):
        total.add_(align(w.to(x), x) * x)
    return total
