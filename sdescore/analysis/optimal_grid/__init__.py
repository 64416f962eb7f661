"""The search for the times of a sampler's least error, before any network runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdescore.rooms import fill

__all__ = fill(__name__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
