"""The exact distribution of a sampler's output on Gaussian data, without the sampler's loop.

For data ``N(m, λ)`` in one mode the score is affine in the state, ``s(y, t) = -(y - α m) / (α² λ +
σ²)``, so every state of a chain is an affine function of the starting state and of the draws.
:func:`coefficients` carries that function through a sampler's rows: a basis takes the place of the
samples, one column for the constant, one for the start, one for each draw. It is written from the
definition in ``sdescore.tableau.tableau`` alone, in numpy float64, and shares no code with
``sdescore.samplers.predictor_corrector.loop``.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

import sdescore as ss
from sdescore.score.mixture import GaussianScore

CONSTANT, START = 0, 1
ROUNDING = 1e-11


@dataclass
class Modes:
    """Gaussian data with independent modes; ``mean`` and ``variance`` are ``(d,)``."""

    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, *pairs: tuple[float, float]) -> Modes:
        return cls(*np.array(pairs, dtype=float).T)

    def marginal(self, sde: ss.LinearSDE, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of ``x_t``, ``(d,)``."""
        alpha_t, sigma_t = (v.item() for v in sde.marginal(t))
        return alpha_t * self.mean, alpha_t**2 * self.variance + sigma_t**2

    def score(self, sde: ss.LinearSDE) -> GaussianScore:
        return GaussianScore(torch.tensor(self.mean), torch.tensor(self.variance), sde)

    def output(self, kind: str, y: np.ndarray, alpha_t: float, sigma_t: float) -> np.ndarray:
        """What an exact model says at basis states ``y`` ``(d, basis)``."""
        score = y.copy()
        score[:, CONSTANT] -= alpha_t * self.mean
        score /= -(alpha_t**2 * self.variance + sigma_t**2)[:, None]
        if kind == "score":
            return score
        epsilon = -sigma_t * score
        if kind == "epsilon":
            return epsilon
        x0 = (y - sigma_t * epsilon) / alpha_t
        return {"x0": x0, "v": alpha_t * epsilon - sigma_t * x0}[kind]


def coefficients(sampler: ss.PredictorCorrector, data: Modes) -> np.ndarray:
    """The final state as an affine function: ``(d, 2 + draws)`` on (1, start, z_1, z_2, …)."""
    program = sampler.program
    times = torch.tensor(program.times, dtype=torch.float64)
    marginals = list(zip(*(v.tolist() for v in sampler.sde.marginal(times)), strict=True))
    draws = max((d for row in program.rows for d in row.draws if d >= 1), default=0)
    x = np.zeros((len(data.mean), 2 + draws))
    x[:, START] = 1.0
    history: list[np.ndarray] = []
    for row in program.rows:
        if row.move.custom is not None:
            raise ValueError("a step that is not affine has no exact distribution")
        known = [] if row.move.corrects else history  # a corrector's outputs are its own
        y = x
        if row.start is not None:
            y = row.start[0] * x
            for k, weight in enumerate(row.start[1]):
                y[:, START + row.draws[k]] += weight
        for j, evaluation in enumerate(row.evaluations):
            known.insert(0, data.output(row.move.tableau.output, y, *marginals[evaluation]))
            y = row.a[j] * x
            for h, weight in enumerate(row.b[j]):
                if weight != 0:
                    y = y + weight * known[h]
            for k, weight in enumerate(row.c[j]):
                if row.draws[k] >= 0:
                    y[:, START + row.draws[k]] += weight
        del known[8:]
        x = y
    return x


def output_moments(
    sampler: ss.PredictorCorrector,
    data: Modes,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the sampler's output per mode, ``(d,)``.

    ``start`` is the distribution at the grid's first time; by default the exact marginal there.
    """
    if start is None:
        start = data.marginal(sampler.sde, sampler.times[0].item())
    mean, variance = start
    on = coefficients(sampler, data)
    return (
        on[:, CONSTANT] + on[:, START] * mean,
        on[:, START] ** 2 * variance + (on[:, START + 1 :] ** 2).sum(1),
    )


def slope(sizes: tuple[int, ...], errors: list[float]) -> float:
    """The order of errors in the number of steps: least squares on logarithms."""
    return -float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def extrapolated(errors: list[float]) -> float:
    """The order of errors at n, 2n and 4n steps, by Richardson's extrapolation.

    The order seen between two numbers of steps is off by a multiple of the step, to leading order,
    which twice the finer order minus the coarser removes.
    """
    coarse, fine = (math.log2(e / f) for e, f in itertools.pairwise(errors))
    return 2 * fine - coarse


def order(
    sde: ss.LinearSDE,
    predictor: ss.Predictor,
    data: Modes,
    *,
    grid: ss.grids.Grid | None = None,
    steps: int = 256,
) -> float:
    """Measured order of the output's distribution, from ``steps``, twice and four times as many.

    The chain starts from the exact marginal at T and ends at t_min without the last
    denoise; the error is that of the mean and of the standard deviation, root-sum-squared
    over the modes. Where rounding is near, it is measured with half the steps.
    """
    errors = [end_error(sde, predictor, data, grid, n) for n in (steps, 2 * steps, 4 * steps)]
    if errors[-1] < ROUNDING:
        return order(sde, predictor, data, grid=grid, steps=steps // 2)
    return extrapolated(errors)


def end_error(
    sde: ss.LinearSDE, predictor: ss.Predictor, data: Modes, grid: ss.grids.Grid | None, steps: int
) -> float:
    """The error at the end of ``steps`` evaluations of a one-stage method."""
    sampler = ss.PredictorCorrector(sde, predictor=predictor, steps=steps, grid=grid, denoise=False)
    mean, variance = output_moments(sampler, data)
    exact_mean, exact_variance = data.marginal(sde, sampler.times[-1].item())
    wrong = (mean - exact_mean) ** 2 + (np.sqrt(variance) - np.sqrt(exact_variance)) ** 2
    return math.sqrt(wrong.sum())
