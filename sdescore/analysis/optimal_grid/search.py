r"""Times, and weights, as free numbers, and the way down.

The times have :math:`\lambda(T) = \lambda_0 < \lambda_1 < \dots < \lambda_{N-1} <
\lambda(t_{\min})`, shares of the range by a softmax, so that t always falls; where the last one
lies, from which the last denoise jumps to the data, is free. L-BFGS-B (Byrd, Lu, Nocedal & Zhu
1995; :func:`scipy.optimize.minimize`) moves them, within bounds that keep the times apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore.analysis.optimal_grid.trajectories import TrajectoryError
from sdescore.predictors.base import Predictor
from sdescore.predictors.multistep import moves, shares, weighted_mean
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.nodes import time_at
from sdescore.tableau.tableau import Tableau

if TYPE_CHECKING:
    import numpy as np


PATH = 0.01
POINTS = 3  # outputs that free weights are of
BOUND = 8.0  # of every free number, so that no two times meet
MEMORY = 20  # of L-BFGS: no more than there are numbers in a short grid
Judge = Callable[[Tableau, Tableau, Tensor], TrajectoryError]
"""``(tableau, ending, times) -> error``."""
Free = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Found:
    """Free numbers, and L on them."""

    free: Free
    loss: float


@dataclass(frozen=True)
class Search:
    """For a predictor's times: log shares of the steps, and the logit of where they end."""

    sde: LinearSDE
    predictor: Predictor
    first: float
    last: float
    likelihood: float

    @property
    def finest(self) -> float:
        """ϱ² at t_min. Variances below it are not resolved."""
        return math.exp(-2 * self.last)

    def start(self, steps: int, share: float) -> Tensor:
        """Equal steps over ``share`` of the range, ``(steps,)``."""
        free = torch.zeros(steps, dtype=torch.float64)
        free[-1] = torch.logit(torch.tensor(share, dtype=torch.float64))
        return free

    def times(self, free: Tensor) -> Tensor:
        """The times that ``free`` stands for."""
        steps = free[:-1].softmax(0) * free[-1].sigmoid()
        return self.from_lam(self.first + (self.last - self.first) * steps.cumsum(0))

    def equal(self, steps: int) -> Tensor:
        """Equal steps of λ over the whole range."""
        return self.from_lam(torch.linspace(self.first, self.last, steps, dtype=torch.float64)[1:])

    def from_lam(self, lam: Tensor) -> Tensor:
        """T, and then the times of ``lam``."""
        first = torch.tensor([self.sde.T], dtype=torch.float64)
        return torch.cat([first, time_at(self.sde, lam)])

    def with_weights(self, free: Tensor) -> Free:
        """``free``, and the predictor's weights of all outputs but the newest, ``(N, H − 1)``."""
        return free, shares(self.predictor, self.sde, self.times(free), POINTS)[:, 1:]

    def found(self, free: Tensor, older: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Times ``(N,)`` and, where they are free, weights ``(N, H)``."""
        if older is None:
            return self.times(free), None
        # Row n has n past outputs; what they weigh is taken from the newest.
        older = older.tril(-1)
        return self.times(free), torch.cat([1 - older.sum(1, keepdim=True), older], 1)

    def loss(self, times: Tensor, weights: Tensor | None, judge: Judge) -> Tensor:
        """L on ``times``, ``()``."""
        if weights is None:
            tableau = self.predictor.tableau(self.sde, times)
            ending = self.predictor.ending(self.sde, times)
        else:
            tableau = moves(self.sde, times, weights)
            ending = weighted_mean(times[-1:], weights[-1])
        return objective(judge(tableau, ending, times), self.likelihood)

    def descend(self, start: Free, judge: Judge, evaluations: int) -> Found:
        """The best numbers seen in about so many evaluations of L and its gradient."""
        from scipy.optimize import minimize

        sizes, shapes = [part.numel() for part in start], [part.shape for part in start]
        seen: list[Found] = []

        def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
            parts = torch.split(torch.tensor(numbers), sizes)
            free = tuple(p.view(s).requires_grad_() for p, s in zip(parts, shapes, strict=True))
            value = self.loss(*self.found(*free), judge)
            slope = torch.autograd.grad(value, free)
            found = Found(tuple(part.detach() for part in free), value.item())
            seen[:] = [min([*seen, found], key=lambda one: one.loss)]
            return found.loss, torch.cat([part.flatten() for part in slope]).numpy()

        numbers = torch.cat([part.flatten() for part in start]).numpy()
        minimize(
            loss,
            numbers,
            jac=True,
            method="L-BFGS-B",
            bounds=[(-BOUND, BOUND)] * len(numbers),
            options={"maxfun": evaluations, "maxiter": evaluations, "maxcor": MEMORY},
        )
        return seen[0]


def objective(error: TrajectoryError, likelihood: float) -> Tensor:
    """:math:`(1 - b) E_{plain} + b E_{weighted} + 0.01 E_{path}`."""
    ends = (1 - likelihood) * error.plain + likelihood * error.weighted
    return ends + PATH * error.path
