"""What a score network is trained on.

:func:`sdescore.denoising_loss` first: its classical forms differ in the weighting λ(t) and in the
law of the training times alone. Beside it the objectives that need no noise, explicit, implicit,
sliced and finite-difference score matching, and :func:`~sdescore.losses.levels.at_levels`, which
takes any of them to noise levels.
"""

from __future__ import annotations

from sdescore.losses.denoising import denoising_loss
from sdescore.losses.explicit import explicit_loss
from sdescore.losses.finite_difference import finite_difference_loss
from sdescore.losses.implicit import implicit_loss
from sdescore.losses.kernel_density import KernelDensityScore, kernel_density_score
from sdescore.losses.levels import at_levels
from sdescore.losses.loss import Loss
from sdescore.losses.sliced import sliced_loss
from sdescore.losses.times import LevelTimes, TimeDistribution, UniformTimes
from sdescore.losses.weighting import Weighting, likelihood, sigma2

__all__ = [
    "KernelDensityScore",
    "LevelTimes",
    "Loss",
    "TimeDistribution",
    "UniformTimes",
    "Weighting",
    "at_levels",
    "denoising_loss",
    "explicit_loss",
    "finite_difference_loss",
    "implicit_loss",
    "kernel_density_score",
    "likelihood",
    "sigma2",
    "sliced_loss",
]
