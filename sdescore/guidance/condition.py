"""A conditional score at one label."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.guidance.base import GuidedScore
from sdescore.score.interface import require_label
from sdescore.typing import Score

__all__ = ["condition"]


class _Conditioned(GuidedScore):
    def __init__(self, score: Score, label: object) -> None:
        super().__init__([score])
        if isinstance(label, bool) or not isinstance(label, Integral):
            checks.refuse(
                "an integer label for all samples",
                f"{label!r:.200}; labels that differ between samples go to sample(..., label=)",
                IncompatibleError,
            )
        require_label(score, label)
        self.score, self.label = score, int(label)

    def extra_repr(self) -> str:
        return f"label={self.label}"

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        label = torch.full(x.shape[:1], self.label, dtype=torch.int64, device=x.device)
        return self.score(x, t, label)


def condition(score: Score, label: int) -> GuidedScore:
    """``score(x, t, label)`` with one integer label for all samples, as a score ``(x, t)``.

    Raises
    ------
    IncompatibleError
        The score is not callable or takes no label, or the label is no integer.
    """
    return _Conditioned(score, label)
