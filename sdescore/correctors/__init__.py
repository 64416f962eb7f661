"""Correctors, one family a file; each is a function (SDE, times) → tableau."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdescore.rooms import fill
from sdescore.tableau.method import Corrector as Corrector
from sdescore.tableau.method import ScoreAt as ScoreAt

__all__ = fill(__name__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
