r"""The last row of a chain: from the last time to data, by one evaluation.

In :math:`z = x/\alpha` and :math:`\varrho = \sigma/\alpha` what is left is noise of variance
:math:`\varrho^2`, and :math:`\hat x_0 = z + \varrho^2 s_z`. Tweedie's mean takes all of it. The
probability flow :math:`dz/d\varrho^2 = -\tfrac12 s_z` takes half: on a Gaussian mode of variance Λ
the mean ends with variance :math:`\Lambda - \varrho^2 + O(\varrho^4)`, which is too smooth, and
the flow's Euler step with :math:`\Lambda + \varrho^4 / 4(\Lambda + \varrho^2)`.
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
    r""":math:`(x + \tfrac12 \sigma^2 s)/\alpha`, the flow's Euler step in ϱ² from ``times``."""
    return _ending(sde, times, 0.5)


def _ending(sde: LinearSDE, times: Tensor, share: float) -> Tableau:
    alpha_t, sigma_t = sde.marginal(times)
    on_score = share * sigma_t.square() / alpha_t
    return one_stage(times, 1 / alpha_t, on_score, torch.zeros_like(times))
