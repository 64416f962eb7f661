"""Training runs that do not depend on the number of processes, and ways to fail on one rank."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

import sdescore as ss

N = 60
X = torch.randn(N, 2, generator=torch.Generator().manual_seed(0)) + 1.0
LABELS = torch.arange(N) % 3


class Labelled(nn.Module):
    """A small network with labels, a parameter that no step uses, and a buffer of running means.

    One weight lies in memory column by column, as those of channels_last networks do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.config = {"classes": 3}
        self.label = nn.Embedding(4, 8)
        self.body = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 2))
        self.body[0].weight.data = self.body[0].weight.data.t().contiguous().t()
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        h = self.body[1](self.body[0](torch.cat([x, c[:, None]], 1)))
        return self.body[2](h if label is None else h + self.label(label))  # type: ignore[no-any-return]


class Read(Dataset[Tensor]):
    """A data set that knows which samples were read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Tensor:
        self.read.append(i)
        return X[i]


def stream(x: Tensor = X) -> list[tuple[Tensor, Tensor]]:
    return [(x[i : i + 9], LABELS[i : i + 9]) for i in range(0, N, 9)]


# Runs whose loss curve does not depend on the number of processes.
RUNS: dict[str, dict[str, Any]] = {
    "tensor": {"data": X},
    "labels": {"data": X, "labels": LABELS, "label_dropout": 0.3, "accumulate": 2},
    "dataset": {"data": TensorDataset(X, LABELS), "batch_size": 7},
    "batches": {"data": stream(), "label_dropout": 0.3, "batch_size": None},
    "shuffled": {
        "data": DataLoader(TensorDataset(X, LABELS), batch_size=25, shuffle=True),
        "batch_size": None,
    },
    "objective": {"data": X, "objective": ss.losses.implicit_loss, "lr": 1e-3},
    "validation": {"data": X, "validation": X[:25] + 0.1, "validate_every": 5},
}


def run(seed: int = 0, **options: Any) -> tuple[ss.ScoreModel, Any]:
    torch.manual_seed(seed)
    model = ss.ScoreModel(Labelled(), ss.VPSDE())
    settings = {"steps": 15, "batch_size": 16, "warmup": 2, "progress": False, **options}
    return model, ss.train(model, **settings)


def transform(rank: int, number: int, fail: Any) -> Any:
    """One that fails on rank 1, at its call of a number."""
    calls = []

    def identity(x: Tensor) -> Tensor:
        calls.append(len(x))
        if rank == 1 and len(calls) == number:
            fail()
        return x

    return identity


def spoilt(rank: int, number: int) -> Any:
    """An objective that is NaN on one rank at its call of a number."""
    calls = []

    def objective(model: Any, x0: Tensor, **options: Any) -> ss.losses.Loss:
        calls.append(len(x0))
        loss = ss.denoising_loss(model, x0, **options)
        bad = rank == 1 and len(calls) == number
        return ss.losses.Loss.of(loss.per_sample * (torch.nan if bad else 1.0))

    return objective


def sharded(rank: int) -> DataLoader[Any]:
    """A loader that gives each rank other samples, and shuffles them."""
    rows = TensorDataset(X)
    return DataLoader(rows, 5, sampler=DistributedSampler(rows, 2, rank, seed=3))


def script() -> list[tuple[float, ...]]:
    """A script that does not know of other processes, but begins from another model on each."""
    rank = int(os.environ.get("RANK", 0))
    return [run(seed=rank, **RUNS[name])[1].losses for name in ("labels", "batches")]
