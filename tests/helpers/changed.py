"""Networks that the tests of the change of SDE share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import sdescore as ss

VP, VE, EDM = ss.VPSDE(), ss.VESDE(sigma_min=0.01, sigma_max=50.0), ss.EDMSDE()


FLOW, SUBVP = ss.RectifiedFlowSDE(T=0.99), ss.SubVPSDE()


SMALL = ss.VESDE(sigma_min=0.1, sigma_max=5.0)


PREDICTIONS = ("score", "epsilon", "x0", "v", "velocity", "F")


MEAN, VARIANCE, SIGMA_DATA = 0.5, 0.3, 0.7


DOUBLE = torch.float64


def plain(score: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Only a function: nothing tells its SDE."""
    return lambda x, t, *label: score(x, t, *label)


class Exact(nn.Module):
    """A network whose score is exact for N(MEAN, VARIANCE) on its SDE; told σ/α by its input."""

    def __init__(self, sde: ss.LinearSDE, prediction: str, unit: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=dtype))
        self.sde, self.prediction, self.unit = sde, prediction, unit

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        assert x.dtype == c.dtype == self.weight.dtype and c.shape == x.shape[:1]
        t = c.double()
        alpha, sigma = (v[:, None] for v in self.sde.marginal(t))
        y = x.double() * ((alpha * SIGMA_DATA).hypot(sigma) if self.unit else 1)
        mean = MEAN if label is None else label[:, None].double()
        score = -(y - alpha * mean) / (alpha**2 * VARIANCE + sigma**2)
        x0, epsilon = (y + sigma**2 * score) / alpha, -sigma * score
        if self.prediction == "velocity":
            f, g2 = (v[:, None] for v in self.sde.rates(t))
            answer = f * y - 0.5 * g2 * score
        elif self.prediction == "F":
            std = sigma / alpha
            skip = SIGMA_DATA**2 / (std**2 + SIGMA_DATA**2)
            answer = (x0 - skip * y / alpha) / (
                std * SIGMA_DATA / torch.hypot(std, torch.full_like(std, SIGMA_DATA))
            )
        else:
            answer = {"score": score, "epsilon": epsilon, "x0": x0}.get(
                self.prediction, alpha * epsilon - sigma * x0
            )
        return answer.to(x.dtype)


def exact_model(
    prediction: str, own: ss.LinearSDE, unit: bool = False, dtype: torch.dtype = DOUBLE
) -> ss.ScoreModel:
    unit = unit or prediction == "F"
    return ss.ScoreModel(
        Exact(own, prediction, unit, dtype),
        own,
        prediction,
        "t",
        input_scaling="unit" if unit else "none",
        sigma_data=SIGMA_DATA,
    )
