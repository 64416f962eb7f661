r"""What a sampler does to data, computed and not sampled.

On Gaussian data the score is linear, so a chain of tableaux maps Gaussians to Gaussians by known
numbers. :func:`gaussian_error` gives the exact distribution of what a sampler draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdescore.rooms import fill

__all__ = fill(__name__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
