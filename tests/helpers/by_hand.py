"""A step of a multistage predictor beside its paper's, written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.multistage import chain


def bent(x: float, t: float) -> float:
    """A score, with no distribution behind it."""
    return -math.tanh(0.8 * x) - 0.3 * x * t + 0.2 * math.cos(3 * t)


class ByHand:
    """What the papers write a step with: α, σ, λ = log(α/σ), and times at a λ."""

    def __init__(self, sde: ss.LinearSDE) -> None:
        self.sde = sde

    def alpha(self, t: float) -> float:
        return self.sde.marginal(t)[0].item()

    def sigma(self, t: float) -> float:
        return self.sde.marginal(t)[1].item()

    def lam(self, t: float) -> float:
        return math.log(self.alpha(t) / self.sigma(t))

    def at(self, lam: float) -> float:
        """Bisection on λ, which falls."""
        low, high = 0.0, self.sde.T
        for _ in range(200):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.lam(middle) > lam else (low, middle)
        return 0.5 * (low + high)

    def epsilon(self, x: float, t: float) -> float:
        return -self.sigma(t) * bent(x, t)

    def x0(self, x: float, t: float) -> float:
        return (x + self.sigma(t) ** 2 * bent(x, t)) / self.alpha(t)


Paper: TypeAlias = Callable[[ByHand, float, float, float, list[float]], float]
"""From x at t to s < t, with the noises of the step."""


def one_step_is(paper: Paper, sde: ss.LinearSDE, predictor: ss.Predictor) -> None:
    """The sampler's step is the paper's, and costs what it says."""
    t, s = 0.6 * sde.T, 0.35 * sde.T
    sampler = chain(sde, predictor, [t, s])
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    z = torch.randn(len(sampler.program.spans), 5, dtype=torch.float64)

    def score(y: Tensor, time: Tensor) -> Tensor:
        return y.clone().apply_(lambda v: bent(v, time.item()))

    got = sampler.sample(score, init=x, noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    numbers = ByHand(sde)
    expected = [paper(numbers, x[i].item(), t, s, z[1:, i].tolist() + [0.0] * 3) for i in range(5)]
    torch.testing.assert_close(
        got, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-11
    )
    assert sampler.evaluations == predictor.evaluations
    assert predictor.stochastic == (len(sampler.program.spans) > 1)
