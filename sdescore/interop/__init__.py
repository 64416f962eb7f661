"""Checkpoints of other codes, each as a :class:`sdescore.ScoreModel` in one line.

Weights are read without running anything that a file holds. What a loader returns has the SDE,
the prediction and the time input that the original trained with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdescore.rooms import fill

__all__ = fill(__name__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
