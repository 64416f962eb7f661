"""A conditional score at one label."""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore.errors import IncompatibleError
from sdescore.guidance.base import AnyScore, GuidedScore

__all__ = ["condition"]


class _Conditioned(GuidedScore):
    def __init__(self, score: AnyScore, label: int) -> None:
        super().__init__([score])
        if isinstance(label, bool) or not isinstance(label, int):
            raise IncompatibleError(
                f"expected an integer label for all samples, got {label!r:.200}; labels that "
                "differ between samples go to sample(..., label=)"
            )
        self.score, self.label = score, label

    def extra_repr(self) -> str:
        return f"label={self.label}"

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        label = torch.full(x.shape[:1], self.label, dtype=torch.int64, device=x.device)
        return self.score(x, t, label)


def condition(score: AnyScore, label: int) -> GuidedScore:
    """``score(x, t, label)`` with one integer label for all samples, as a score ``(x, t)``.

    Raises
    ------
    IncompatibleError
        The score is not callable, or the label no integer.
    """
    return _Conditioned(score, label)
