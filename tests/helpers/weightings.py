"""SDEs and distributions of times that the tests of the weightings share."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

import sdescore as ss
from sdescore.losses import (
    LogNormalTimes,
)
from sdescore.losses.times import TimeDistribution
from tests.helpers.strategies import (
    REPRESENTATIVES,
)

SDES = pytest.mark.parametrize("sde", REPRESENTATIVES.values(), ids=REPRESENTATIVES.keys())


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rate(sde: ss.LinearSDE, t: Tensor) -> Tensor:
    """g²/σ², the weight of the ε error under the likelihood."""
    return sde.rates(t)[1] / sde.marginal(t)[1].square()


def integral(f: Callable[[Tensor], Tensor], low: float, high: float, sde: ss.LinearSDE) -> float:
    """Gauss–Legendre of order 24 in pieces that shrink towards 0 and T, cut at the levels."""
    shrink = [sde.T * 2.0**-k for k in range(12)]
    cuts = {*shrink, *(sde.T - c for c in shrink)}
    if hasattr(sde, "level_times"):
        cuts |= set(sde.level_times().tolist())
    ends = [low, *sorted(c for c in cuts if low < c < high), high]
    return sum(
        scipy.integrate.fixed_quad(lambda t: f(torch.from_numpy(t)).numpy(), a, b, n=24)[0]
        for a, b in itertools.pairwise(ends)
    )


def truncated_normal(sde: ss.LinearSDE, distribution: LogNormalTimes):
    ends = torch.tensor([sde.t_min, sde.T], dtype=torch.float64)
    alpha, sigma = sde.marginal(ends)
    low, high = (((sigma / alpha).log() - distribution.mean) / distribution.std).tolist()
    return scipy.stats.truncnorm(low, high, loc=distribution.mean, scale=distribution.std)


def log_level(sde: ss.LinearSDE, t: Tensor) -> np.ndarray:
    alpha, sigma = sde.marginal(t)
    return (sigma / alpha).log().numpy()


@dataclass(frozen=True)
class Tripled(TimeDistribution):
    """A proposal of a user's own: every time is 0.4 and has the weight asked for."""

    weight: object = 3.0

    def quantile(self, sde: ss.LinearSDE, u: Tensor) -> Tensor:
        return torch.full_like(u, 0.4)

    def importance_weight(self, sde: ss.LinearSDE, t: Tensor) -> object:
        return torch.full_like(t, self.weight) if isinstance(self.weight, float) else self.weight
