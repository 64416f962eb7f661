"""Pictures: sample grids, rows per sampler, trajectories, score fields, schedules, exact errors.

Every function returns a :class:`matplotlib.figure.Figure` that no window or global state
knows of, so all of them work without a display; save it with
``figure.savefig("out.png", dpi=200)``. Colours are those of Okabe and Ito (2008), lines
also differ in their dashes, and maps are perceptually uniform: nothing is told by hue alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdescore.rooms import fill

__all__ = fill(__name__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
