"""What a score network is trained on.

One function, :func:`sdescore.denoising_loss`; the classical objectives differ in the
weighting λ(t) and in the law of the training times alone.
"""

from __future__ import annotations

from sdescore.losses.denoising import denoising_loss
from sdescore.losses.loss import Loss
from sdescore.losses.times import LevelTimes, TimeDistribution, UniformTimes
from sdescore.losses.weighting import Weighting, likelihood, sigma2

__all__ = [
    "LevelTimes",
    "Loss",
    "TimeDistribution",
    "UniformTimes",
    "Weighting",
    "denoising_loss",
    "likelihood",
    "sigma2",
]
