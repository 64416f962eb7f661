"""The two types that appear in every signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

__all__ = ["Score", "Time"]

Time: TypeAlias = float | Tensor
"""A time, as a Python float, 0-dim tensor, or one per sample ``(B,)``."""


Score: TypeAlias = Callable[..., Tensor]
r"""Any callable ``score(x, t)``, or ``score(x, t, label)``, that returns a tensor like ``x``.

It estimates :math:`\nabla_x \log p_t(x)`. A :class:`sdescore.ScoreModel` is one.
"""
