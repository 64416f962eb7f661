"""One file for a trained model: weights, average, optimiser, and what they mean.

A safetensors file whose metadata carries a JSON manifest (SDE, convention, network, training
options) and a SHA-256 over the whole file. Loading executes nothing: classes come from a fixed
table, numbers are checked before they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdescore.rooms import fill

__all__ = fill(__name__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
