"""A conditional Gaussian in closed form, and a score with labels, for the tests of guidance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sdescore as ss

F64 = torch.float64
SDES = [ss.VPSDE(), ss.VESDE(sigma_min=0.05, sigma_max=10.0), ss.SubVPSDE()]
MEAN = torch.tensor([1.0, -0.5], dtype=F64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.8]], dtype=F64)
# y = H x₀ + noise, so that x₀ | y is Gaussian and p(y | x_t) too.
H = torch.tensor([[1.0, 2.0]], dtype=F64)
R = 0.3
Y = 1.5


def posterior() -> tuple[Tensor, Tensor]:
    """Mean and covariance of x₀ given y, by the information form."""
    precision = torch.linalg.inv(COVARIANCE) + H.T @ H / R
    covariance = torch.linalg.inv(precision)
    information = torch.linalg.inv(COVARIANCE) @ MEAN + H[0] * Y / R
    return covariance @ information, covariance


def log_prob_y(sde: ss.LinearSDE):
    """``log p(y | x_t)``: y = H x₀ + r with x₀ | x_t Gaussian; Kalman's formulas in t."""

    def log_prob(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        alpha, sigma = (c.to(x).reshape(-1, 1, 1) for c in sde.marginal(t))  # one, or one each
        C, m, h = COVARIANCE.to(x), MEAN.to(x), H.to(x)
        V = alpha**2 * C + sigma**2 * torch.eye(2).to(x)
        gain = alpha * C @ torch.linalg.inv(V)
        mean = m + (gain @ (x - alpha[:, 0] * m)[:, :, None])[:, :, 0]
        variance = (h @ (C - alpha * gain @ C) @ h.T).flatten() + R
        y = Y if label is None else label.to(x)
        return -0.5 * (y - mean @ h[0]) ** 2 / variance

    return log_prob


class Labelled(nn.Module):
    """A score that depends on the label; without one it is label 7's. Counts training calls."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.0))
        self.seen: list[tuple[bool, int]] = []

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append((self.training, -1 if label is None else len(label)))
        if label is None:
            label = torch.full(x.shape[:1], 7)
        return self.factor * (label.to(x)[:, None] - x)


SCORE = ss.GaussianScore(MEAN, COVARIANCE, ss.VPSDE())
