"""What the samplers of this room ask of the model that they are made for."""

from __future__ import annotations

import math

from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.sde.base import SDE
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Score
from sdescore.wrappers import sde_of


def linear_sde(source: LinearSDE | Score, user: str) -> LinearSDE:
    """The linear SDE that ``source`` is, or that it is on."""
    sde = source if isinstance(source, SDE) else sde_of(source)
    return checks.linear(sde, user, "pass a ScoreModel, or its SDE")


def level_times(source: LinearSDE | Score, user: str) -> tuple[LinearSDE, Tensor]:
    """The discrete SDE of ``source``, and the times of its levels 0, 1, …."""
    sde = linear_sde(source, user)
    times = getattr(sde, "level_times", None)
    if times is None:
        got = f"{type(sde).__name__}; use DiscreteVPSDE or DiscreteVESDE"
        checks.refuse(f"an SDE with a table of levels for {user}", got, IncompatibleError)
    return sde, times()


def std_of_unit_prior(sde: LinearSDE, time: float) -> float:
    """The ``data_std`` that makes the prior at a time ``N(0, I)``; 0 where σ_t > 1."""
    alpha, sigma = (value.item() for value in sde.marginal(time))
    return math.sqrt(1 - sigma**2) / alpha if sigma < 1 else 0.0
