"""A mixture in the plane, fields and objectives that the tests of the losses share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.losses import (
    Loss,
    explicit_loss,
    finite_difference_loss,
    implicit_loss,
    sliced_loss,
)

F64 = torch.float64


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ones(sde: ss.LinearSDE, t: Tensor) -> Tensor:
    return torch.ones_like(t)


def still(x: Tensor) -> dict[str, Any]:
    """Options that leave clean data where they are at any time: α = 1, no noise, λ = 1."""
    return {"sde": ss.EDMSDE(), "noise": torch.zeros_like(x), "weighting": ones}


PARTS = torch.distributions.MixtureSameFamily(
    torch.distributions.Categorical(torch.tensor([0.6, 0.4], dtype=F64)),
    torch.distributions.MultivariateNormal(
        torch.tensor([[-1.0, 0.3], [1.0, -0.5]], dtype=F64),
        torch.tensor([[[0.5, 0.2], [0.2, 0.4]], [[0.3, -0.1], [-0.1, 0.6]]], dtype=F64),
    ),
    validate_args=False,
)


def log_p(x: Tensor) -> Tensor:
    return PARTS.log_prob(x)


true_score = ss.EnergyModel(log_p)


@functools.cache
def grid() -> tuple[Tensor, Tensor]:
    """Nodes ``(N, 2)`` and weights ``(N,)`` of the expectation under the mixture."""
    axis = torch.linspace(-6.5, 6.5, 131, dtype=F64)  # fine enough for any tanh of Bumps
    x = torch.cartesian_prod(axis, axis)
    w = log_p(x).exp() * (axis[1] - axis[0]) ** 2
    assert abs(w.sum().item() - 1) < 1e-12
    return x, w


class Bumps(nn.Module):
    """The truth plus ``W`` times features: W = 0 is the truth. As a score, or as an energy."""

    def __init__(self, energy: bool, weight: float = 0.0) -> None:
        super().__init__()
        self.energy = energy
        self.register_buffer("inner", draw(2, 5, seed=1))
        start = weight * draw(5, 1 if energy else 2, seed=2)
        self.W = nn.Parameter(start)

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.tanh(x @ self.inner + 0.3) @ self.W
        return log_p(x) + bumps[:, 0] if self.energy else true_score(x) + bumps


def bumps(kind: str, weight: float = 0.0) -> nn.Module:
    energy = Bumps(kind == "energy", weight)
    return ss.EnergyModel(energy) if kind == "energy" else energy


def signs(x: Tensor) -> Tensor:
    """All Rademacher probes of the plane, for every sample: ``(4, N, 2)``."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=x.dtype)
    return corners[:, None].expand(4, *x.shape)


def axes(x: Tensor) -> Tensor:
    """±√d eᵢ, the smallest set on the sphere whose mean of vvᵀ is the identity."""
    eye = math.sqrt(x.shape[1]) * torch.eye(x.shape[1], dtype=x.dtype)
    points = torch.cat([eye, -eye])
    return points[:, None].expand(len(points), *x.shape)


def expected(objective: Callable[[Any, Tensor], Loss], model: nn.Module) -> tuple[float, Tensor]:
    """The expectation over the mixture and its gradient in W."""
    x, w = grid()
    value = (w * objective(model, x).per_sample).sum()
    (weight,) = model.parameters()
    (gradient,) = torch.autograd.grad(value, weight)
    return value.item(), gradient


def cloud(n: int = 50, d: int = 3) -> Tensor:
    return draw(n, d, seed=3) @ draw(d, d, seed=4) + torch.tensor([1.0, -0.5, 2.0])[:d]


A = torch.tensor([[-1.0, 0.5, 0.0], [0.1, -2.0, 0.7], [-0.4, 0.3, 0.5]], dtype=F64)


class Soft(nn.Module):
    """A scalar network of any event."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(numel, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, x: Tensor, c: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        scale = 0.1 if label is None else 0.1 + label
        return self.layers(x.reshape(len(x), -1))[:, 0] - scale * x.square().flatten(1).sum(1)


def randomised(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net.double()


def networks() -> dict[str, tuple[nn.Module, Tensor, float | None]]:
    torch.manual_seed(0)
    unet = ss.UNet(1, width=8, multipliers=(1, 2), blocks=1, attention=(1,))
    sde = ss.VPSDE()
    return {
        "mlp": (
            ss.ScoreModel(randomised(ss.MLP(3, hidden=8, depth=1)), sde, prediction="epsilon"),
            draw(4, 3),
            0.4,
        ),
        "unet": (ss.ScoreModel(randomised(unet), sde, prediction="epsilon"), draw(2, 1, 4, 4), 0.6),
        "energy": (ss.EnergyModel(Soft(6)), draw(3, 2, 3), None),
        "energy-model": (
            ss.ScoreModel(ss.EnergyModel(Soft(4)), sde, prediction="epsilon"),
            draw(3, 4),
            0.3,
        ),
    }


def call(model: nn.Module, x: Tensor, t: float | None) -> Tensor:
    return model(x) if t is None else model(x, torch.tensor(t, dtype=F64))


def gradients(value: Tensor, model: nn.Module) -> Tensor:
    found = torch.autograd.grad(
        value, list(model.parameters()), allow_unused=True, retain_graph=True
    )
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for g, p in zip(found, model.parameters(), strict=True)
        ]
    )


SCORE_ONLY = {
    "explicit": lambda s, x, **k: explicit_loss(s, x, torch.zeros_like(x), **k),
    "implicit": implicit_loss,
    "sliced": lambda s, x, **k: sliced_loss(s, x, probes=draw(1, *x.shape).to(x), **k),
    "reduced": lambda s, x, **k: sliced_loss(
        s, x, probes=draw(1, *x.shape).to(x), reduced_variance=True, **k
    ),
    "finite-difference": lambda s, x, **k: finite_difference_loss(
        s, x, probes=draw(1, *x.shape).to(x), **k
    ),
}


def untouched(x: Tensor, *t: Tensor) -> Tensor:
    raise RuntimeError("the score was called")


X = torch.zeros(3, 2)
