"""Networks to start with, and the average of their weights.

Each is called as ``net(x, c, label=None)``: ``x`` ``(B, *E)``, ``c`` ``(B,)`` the time in
the scale the user declared, ``label`` ``(B,)``. Any callable of that form serves as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdescore.rooms import fill

__all__ = fill(__name__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
