r"""Times, and weights, as free numbers, and the descent to those of the least loss.

The steps in :math:`\lambda = \log(\alpha/\sigma)` are shares of a range by a softmax, so that
always :math:`\lambda(T) = \lambda_0 < \lambda_1 < \dots < \lambda_{N-1} < \lambda(t_{\min})`. The
end :math:`\lambda_{N-1}` of the range, where the last denoise is made, is free as well. L-BFGS-B
(Byrd, Lu, Nocedal & Zhu 1995; :func:`scipy.optimize.minimize`) changes these numbers, within bounds
that keep the times apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdescore.analysis.optimal_grid.trajectories import TrajectoryDistance
from sdescore.predictors.multistep import moves, shares, weighted_mean
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Predictor

PATH = 0.01
POINTS = 3  # outputs that free weights combine in a step
BOUND = 8.0  # on the size of every free number, so that no two times meet
MEMORY = 20  # gradients that L-BFGS remembers: about as many as a short grid has numbers
ErrorMeasure = Callable[..., TrajectoryDistance]
"""``(tableau, ending, sde=, times=) -> error``."""
Free = tuple[Tensor, ...]
Candidate = tuple[float, Free]
"""The loss L of some free numbers, and these numbers."""


@dataclass(frozen=True)
class Search:
    """What is searched: a predictor's times with log(α/σ) between ``first`` and ``last``.

    The free numbers are the logarithms of the steps' shares, and the logit of where they end.
    """

    sde: LinearSDE
    predictor: Predictor
    first: float
    last: float
    likelihood_weight: float

    @property
    def finest(self) -> float:
        """σ²/α² at t_min. Smaller variances of the data are not resolved."""
        return math.exp(-2 * self.last)

    def start(self, steps: int, share: float) -> Tensor:
        """Equal steps over ``share`` of the range, ``(steps,)``."""
        free = torch.zeros(steps, dtype=torch.float64, device="cpu")
        free[-1] = math.log(share / (1 - share))
        return free

    def times(self, free: Tensor) -> Tensor:
        """The times that ``free`` stands for."""
        steps = free[:-1].softmax(0) * free[-1].sigmoid()
        return self.from_half_log_snr(self.first + (self.last - self.first) * steps.cumsum(0))

    def equal(self, steps: int) -> Tensor:
        """Equal steps of λ over the whole range."""
        ends = self.first, self.last
        values = torch.linspace(*ends, steps, dtype=torch.float64, device="cpu")
        return self.from_half_log_snr(values[1:])

    def from_half_log_snr(self, half_log_snr: Tensor) -> Tensor:
        """T, followed by the times at which log(α/σ) has these values."""
        first = half_log_snr.new_tensor([self.sde.T])
        return torch.cat([first, self.sde.time_at_half_log_snr(half_log_snr)])

    def with_weights(self, free: Tensor) -> Free:
        """``free``, and the predictor's weights of all outputs but the newest, ``(N, H − 1)``."""
        return free, shares(self.predictor, self.sde, self.times(free), POINTS)[:, 1:]

    def decode(self, free: Tensor, older: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Times ``(N,)`` and, where they are free, weights ``(N, H)``."""
        if older is None:
            return self.times(free), None
        # Row n has n past outputs. Each row sums to 1, so the newest gets what they leave.
        older = older.tril(-1)
        return self.times(free), torch.cat([1 - older.sum(1, keepdim=True), older], 1)

    def loss(self, times: Tensor, weights: Tensor | None, measure: ErrorMeasure) -> Tensor:
        """L on ``times``, ``()``."""
        if weights is None:
            tableau = self.predictor.tableau(self.sde, times)
            ending = self.predictor.ending(self.sde, times)
        else:
            tableau = moves(self.sde, times, weights)
            ending = weighted_mean(times[-1:], weights[-1])
        error, b = measure(tableau, ending, sde=self.sde, times=times), self.likelihood_weight
        return (1 - b) * error.plain + b * error.weighted + PATH * error.path

    def descend(self, start: Free, measure: ErrorMeasure, evaluations: int) -> Candidate:
        """The best numbers seen in about so many evaluations of L and its gradient."""
        from scipy.optimize import minimize

        sizes, shapes = [part.numel() for part in start], [part.shape for part in start]
        best: Candidate = (math.inf, start)

        def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal best
            parts = torch.split(torch.tensor(numbers, dtype=torch.float64, device="cpu"), sizes)
            free = tuple(p.view(s).requires_grad_() for p, s in zip(parts, shapes, strict=True))
            value = self.loss(*self.decode(*free), measure)
            slope = torch.autograd.grad(value, free)
            if value.item() < best[0]:
                best = value.item(), tuple(part.detach() for part in free)
            return value.item(), torch.cat([part.flatten() for part in slope]).numpy()

        numbers = torch.cat([part.flatten() for part in start]).numpy()
        bounds = [(-BOUND, BOUND)] * len(numbers)
        options = {"maxfun": evaluations, "maxiter": evaluations, "maxcor": MEMORY}
        minimize(loss, numbers, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return best
