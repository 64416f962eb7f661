"""Samplers of papers and of their released codes. Options have the names that these use.

Each function takes a model or its SDE and returns an ordinary sampler. Defaults are those of the
paper or of its code. With the same noise the sampler repeats the original's numbers, and the tests
compare it with the original's algorithm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdescore.rooms import fill

__all__ = fill(__name__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
