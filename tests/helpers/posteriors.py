"""A small inverse problem, on Gaussian and mixture data, that the tests of the guides share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import sdescore as ss

inverse = ss.inverse
F64 = torch.float64
VP = ss.VPSDE()
A = torch.tensor([[1.0, 0.5, 0.0], [0.0, -1.0, 2.0]], dtype=F64)
Y = torch.tensor([0.7, -1.2], dtype=F64)
MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=F64)
COVARIANCE = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.8, 0.1], [0.0, 0.1, 0.3]], dtype=F64)
GAUSSIAN = ss.GaussianScore(MEAN, COVARIANCE, VP)
MIXTURE = ss.MixtureScore(
    [0.4, 0.6], torch.stack([MEAN, -MEAN]), torch.stack([COVARIANCE, 0.3 * COVARIANCE]), VP
)
SEEN = inverse.Measurement(Y, inverse.Matrix(A), 0.3)
CURVED = inverse.Measurement(Y, inverse.Callable(lambda x: x[:, 1:] ** 2 + x[:, :1], (3,)), 0.3)


def exact_mmps(score: Any, measurement: inverse.Measurement) -> Any:
    return inverse.mmps(score, measurement, iterations=20, tolerance=1e-12)


def states(n: int = 4) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(1), dtype=F64)


def posterior_score(
    x: Tensor, alpha: Tensor, sigma: Tensor, mean: Tensor, C: Tensor, H: Tensor, rest: Tensor
) -> Tensor:
    """∇ log p(x_t | y) for x₀ ~ N(mean, C) and y = H x₀ + rest + 0.3 n: the joint, conditioned."""
    V, S = (
        alpha**2 * C + sigma**2 * torch.eye(3, dtype=F64),
        H @ C @ H.T + 0.09 * torch.eye(2, dtype=F64),
    )
    gain = alpha * C @ H.T @ torch.linalg.inv(S)
    centre = alpha * mean + gain @ (Y - H @ mean - rest)
    return -torch.linalg.solve(V - gain @ H @ C * alpha, (x - centre).T).T
