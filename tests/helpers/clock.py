"""The VP SDE's α, σ and λ as papers of multistep solvers write them, and a model on it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.published import Network

B0, B1 = 0.1, 20.0


class Clock:
    """α, σ, λ of the VP SDE, and x̂₀ of a network ε at a time."""

    def __init__(self, net: Network) -> None:
        self.net = net

    def log_alpha(self, t: float) -> float:
        return -0.25 * t**2 * (B1 - B0) - 0.5 * t * B0

    def alpha(self, t: float) -> float:
        return math.exp(self.log_alpha(t))

    def sigma(self, t: float) -> float:
        return math.sqrt(-math.expm1(2 * self.log_alpha(t)))

    def lam(self, t: float) -> float:
        return self.log_alpha(t) - math.log(self.sigma(t))

    def time(self, lam: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(100):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.lam(middle) > lam else (low, middle)
        return low

    def times(self, skip: str, steps: int, end: float = 1e-3) -> list[float]:
        shares = [n / steps for n in range(steps + 1)]
        if skip == "time_uniform":
            return [1 + u * (end - 1) for u in shares]
        if skip == "time_quadratic":
            return [(1 + u * (end**0.5 - 1)) ** 2 for u in shares]
        return [self.time(self.lam(1.0) + u * (self.lam(end) - self.lam(1.0))) for u in shares]

    def x0(self, x: Tensor, t: float) -> Tensor:
        e = self.net(x, torch.tensor([999 * t], dtype=torch.float64))
        return (x - self.sigma(t) * e) / self.alpha(t)


def model_of(dtype: torch.dtype) -> ss.ScoreModel:
    return ss.ScoreModel(Network(dtype), ss.VPSDE(beta_min=B0, beta_max=B1), "epsilon", "999t")
