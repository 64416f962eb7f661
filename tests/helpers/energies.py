"""Energies that the tests of the contrastive loss share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Quadratic(nn.Module):
    """f(x) = −½ xᵀ A x."""

    def __init__(self, A: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(A.clone())

    def forward(self, x: Tensor) -> Tensor:
        return -0.5 * torch.einsum("bi,ij,bj->b", x, self.A, x)


class Powers(nn.Module):
    """f(x) = Σ_k θ_k x^{p_k} in one dimension."""

    def __init__(self, theta: list[float], powers: list[int]) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))
        self.powers = powers

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0] ** p for p in self.powers], -1) @ self.theta


def gradient(net: nn.Module, value: Tensor) -> Tensor:
    (parameter,) = net.parameters()
    return torch.autograd.grad(value, parameter)[0]


def normals(n: int, d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, dtype=torch.float64, generator=generator)
