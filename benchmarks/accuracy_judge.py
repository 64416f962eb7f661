"""Samples set against exact draws of their target."""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import Any

import torch
from targets import Target
from torch import Tensor

from sdescore.metrics import sliced_wasserstein

SEED = 0
W2_BAR = 1.1
REFERENCE_SEED = 1000  # those of the exact sets come after
PROJECTIONS = 128
EXACT_SETS = 8


class Judge:
    """Sets samples of a target against ``n`` exact draws."""

    def __init__(self, target: Target, n: int = 20_000, exact_sets: int = EXACT_SETS) -> None:
        self.target, self.n = target, n
        # Seeds of their own: no exact set below is drawn from another's.
        self.reference = target.sample(n, seed=REFERENCE_SEED)
        exact = [target.sample(n, seed=REFERENCE_SEED + 1 + i) for i in range(exact_sets)]
        distances = [self._distance(x) for x in exact]
        self.floor, self.floor_max = fmean(distances), max(distances)
        self.exact_std = stdev(distances) / self.floor
        nll = torch.cat([-target.log_prob(x) for x in exact])
        self.nll = nll.mean().item()
        self.nll_error = nll.std().item() / math.sqrt(len(nll))

    def _distance(self, x: Tensor) -> float:
        return sliced_wasserstein(x, self.reference, projections=PROJECTIONS, seed=SEED)

    @property
    def w2_bar(self) -> float:
        """The largest relative W2 that is inside the bar."""
        return W2_BAR * self.floor_max / self.floor

    def __call__(self, x: Tensor) -> dict[str, float | None]:
        """Relative W2, the NLL gap and its standard error in nats per dimension.

        All are None where a sample is not finite.
        """
        if not bool(x.isfinite().all()):
            return {"w2": None, "nll": None, "nll_error": None}
        nll = -self.target.log_prob(x)
        error = math.hypot(nll.std().item() / math.sqrt(len(nll)), self.nll_error)
        return {
            "w2": self._distance(x) / self.floor,
            "nll": (nll.mean().item() - self.nll) / self.target.dim,
            "nll_error": error / self.target.dim,
        }

    def report(self) -> dict[str, Any]:
        """What the floor is."""
        return {
            "title": self.target.title,
            "floor": self.floor,
            "floor_max_in_floors": self.floor_max / self.floor,
            "w2_bar_in_floors": self.w2_bar,
            "exact_std_in_floors": self.exact_std,
        }
