"""What a score network is trained on.

:func:`sdescore.denoising_loss` first: its classical forms differ only in the weighting w(t) and
distribution of the training times. Beside it the objectives that need no noise, explicit, implicit,
sliced and finite-difference score matching, and :func:`~sdescore.losses.levels.at_levels`, which
takes any of them to noise levels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdescore.rooms import fill

__all__ = fill(__name__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
