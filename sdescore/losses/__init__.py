"""What a score network is trained on.

Every objective is called as ``loss(model, x0, t=…)`` and returns a :class:`sdescore.losses.Loss`.
:func:`sdescore.denoising_loss` comes first: its classical forms differ only in the weighting w(t)
and in the distribution of the training times. The other objectives need no noise: explicit,
implicit, sliced and finite-difference score matching, and contrastive divergence.
:func:`~sdescore.losses.levels.at_levels` gives a function of your own the same call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdescore.rooms import fill

__all__ = fill(__name__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
