"""The two types that appear in every signature."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from torch import Tensor

__all__ = ["Score", "Time"]

Time: TypeAlias = float | Tensor
"""A time, as a Python float, 0-dim tensor, or one per sample ``(B,)``."""


class Score(Protocol):
    r"""Any callable ``score(x, t) -> like x`` that estimates :math:`\nabla_x \log p_t(x)`."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor: ...
