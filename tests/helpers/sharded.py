"""Training runs for ranks that hold a part of the weights each, and ways to fail on one rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import sdescore as ss

N = 60
X = torch.randn(N, 2, generator=torch.Generator().manual_seed(0)) + 1.0
IMAGES = torch.randn(N, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(N) % 3


class Listed(nn.Module):
    """A network with a list of lists, odd sizes, a frozen weight, an unused one, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        pairs = [nn.ModuleList([nn.Linear(7, 7), nn.Linear(7, 7)]) for _ in range(2)]
        self.first, self.levels, self.last = nn.Linear(3, 7), nn.ModuleList(pairs), nn.Linear(7, 2)
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.full((3,), 300, dtype=torch.int16))
        self.register_buffer("on", torch.ones((), dtype=torch.bool))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        h = self.first(torch.cat([x, c[:, None]], 1))
        for a, b in self.levels:  # type: ignore[misc]
            h = h + b(nn.functional.silu(a(h)))
        return self.last(h) * self.frozen  # type: ignore[no-any-return]


class Both(nn.Module):
    """A prediction and a variance."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.cat([x, c[:, None]], 1))
        return y


NETS: dict[str, Any] = {
    "mlp": lambda: ss.MLP(2, hidden=16, depth=2, classes=3),
    "unet": lambda: ss.UNet(1, width=8, multipliers=(1, 2), blocks=1, attention=(1,)),
    "own": Listed,
    "variance": lambda: ss.nets.LearnedVariance(Both()),
    "energy": lambda: ss.nets.EnergyModel(ss.MLP(2, hidden=8)),
    "scalar": lambda: ss.nets.EDM2UNet(8, 1, model_channels=8, channel_mult=(1,), num_blocks=1),
}
RUNS: dict[str, dict[str, Any]] = {
    "mlp": {"data": X, "labels": LABELS, "label_dropout": 0.3, "clip": 0.1, "accumulate": 2},
    "odd": {"data": TensorDataset(X, LABELS), "batch_size": 7, "weight_decay": 0.1},
    "stream": {"data": [X[:9], X[9:20], X[20:45]], "batch_size": None, "clip": None},
    "unet": {"net": "unet", "data": IMAGES, "batch_size": 4},
    "own": {
        "net": "own",
        "data": X,
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "clip": 0.1,
    },
    "bf16": {"data": X, "precision": "bf16"},
    "variance": {
        "net": "variance",
        "data": X,
        "objective": ss.losses.hybrid_loss,
        "times": ss.losses.LevelTimes(),
    },
}


HELD_OUT: dict[str, Any] = {
    "data": X,
    "validation": X[:25] + 0.1,
    "validate_every": 3,
    "schedule": "constant",
    "ema_decay": 0.5,
}


class Failing(Dataset[Tensor]):
    """Held-out data whose second batch rank 1 cannot read."""

    def __init__(self, x: Tensor, rank: int) -> None:
        self.x, self.rank = x, rank

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        if self.rank == 1 and index == 20:
            raise OSError("no such image")
        return self.x[index]


def run(seed: int = 0, net: str = "mlp", **options: Any) -> tuple[ss.ScoreModel, Any]:
    torch.manual_seed(seed)
    sde = ss.DiscreteVPSDE.linear() if net == "variance" else ss.VPSDE()
    model = ss.ScoreModel(NETS[net](), sde)
    settings = {"steps": 8, "batch_size": 16, "warmup": 2, "progress": False, **options}
    return model, ss.train(model, **settings)


def spoilt(rank: int, number: int, factor: Any = lambda: torch.nan) -> Any:
    """An objective that is NaN on rank 1 at its call of a number, or fails there."""
    calls = []

    def objective(
        model: Any, x0: Tensor, noise: Tensor | None = None, **options: Any
    ) -> ss.losses.Loss:
        calls.append(len(x0))
        by = factor() if rank == 1 and len(calls) == number else 1.0
        loss = ss.denoising_loss(model, x0, noise=noise, **options)
        return ss.losses.Loss.of(by * loss.per_sample)

    return objective
