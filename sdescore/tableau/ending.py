r"""The last row of a chain: from the last time to data, by one evaluation.

In :math:`\bar x = x/\alpha` the noise that is left has variance :math:`r^2`, where
:math:`r = \sigma/\alpha` is the noise-to-signal ratio, and Tweedie's mean is
:math:`\hat x_0 = \bar x + r^2 \nabla \log p(\bar x)`. The probability flow
:math:`d\bar x/dr^2 = -\tfrac12 \nabla \log p` goes half as far. On a Gaussian mode of
variance Λ the mean ends with variance :math:`\Lambda - r^2 + O(r^4)`, which is too smooth. The
flow's Euler step ends with :math:`\Lambda + r^4 / 4(\Lambda + r^2)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore.sde.linear import LinearSDE
from sdescore.tableau.tableau import Tableau, one_stage

__all__ = ["flow_ending", "mean_ending"]


def mean_ending(sde: LinearSDE, times: Tensor) -> Tableau:
    r"""Tweedie's mean :math:`(x + \sigma^2 s)/\alpha` at ``times``, no noise."""
    return _ending(sde, times, 1.0)


def flow_ending(sde: LinearSDE, times: Tensor) -> Tableau:
    r""":math:`(x + \tfrac12 \sigma^2 s)/\alpha`, the flow's Euler step in σ²/α² from ``times``."""
    return _ending(sde, times, 0.5)


def _ending(sde: LinearSDE, times: Tensor, share: float) -> Tableau:
    alpha_t, sigma_t = sde.marginal(times)
    on_score = share * sigma_t.square() / alpha_t
    return one_stage(times, 1 / alpha_t, on_score, torch.zeros_like(times))
