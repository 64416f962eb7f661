r"""Distances between sample sets, and what they read when nothing is wrong.

====================  ===========================================  ====================
function              what it is                                   units
====================  ===========================================  ====================
`sliced_wasserstein`  mean 1-D transport over random directions    the data's
`energy_distance`     root of the V-statistic                      √ of the data's
`mmd`                 Gaussian kernel, root of the V-statistic     none, in [0, √2]
`mmd_squared`         the unbiased U-statistic, may be negative    none
`frechet_distance`    squared W2 of Gaussians with both's moments  the data's squared
====================  ===========================================  ====================

The first three are metrics between the two *empirical* measures, so they are positive for
two finite sets from one distribution. :func:`noise_floor` measures how positive, and
:func:`relative_to_floor` divides a distance by that. :mod:`sdescore.metrics.floor` holds the
protocol for a finite reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdescore.rooms import fill

__all__ = fill(__name__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
