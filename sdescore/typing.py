"""The types that appear in every signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor

__all__ = ["Condition", "Score", "Time"]

Time: TypeAlias = float | Tensor
"""A time, as a Python float, 0-dim tensor, or one per sample ``(B,)``."""

Condition: TypeAlias = "Tensor | Mapping[str, Condition | None]"
"""What samples are conditioned on: ``(B,)`` class indices, a tensor ``(B, *C)``, or a dict of them.

A dict may hold further dicts. A value None says that no sample has this part.
"""

Score: TypeAlias = Callable[..., Tensor]
r"""Any callable ``score(x, t)``, or ``score(x, t, label)``, that returns a tensor like ``x``.

It estimates :math:`\nabla_x \log p_t(x)`. A :class:`sdescore.ScoreModel` is one.
"""
