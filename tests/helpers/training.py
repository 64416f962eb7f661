"""A small training run: data, a network with everything that a checkpoint must keep, options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sdescore as ss
from tests.helpers.checkpoints import read


def cloud(n: int = 64, seed: int = 0) -> Tensor:
    return 1.0 + 0.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


class Dropping(nn.Module):
    """A small network with dropout, a frozen parameter, an unused one, and a buffer.

    One weight lies in memory column by column, as those of channels_last networks do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.config = {"classes": 3}
        self.body = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Dropout(0.3), nn.Linear(8, 2))
        self.body[0].weight.data = self.body[0].weight.data.t().contiguous().t()
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.labels: list[Tensor] = []

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls += 1
        if label is not None:
            self.labels.append(label)
        return self.frozen * self.body(torch.cat([x, c[:, None]], dim=1))


def make(seed: int = 0) -> ss.ScoreModel:
    torch.manual_seed(seed)
    return ss.ScoreModel(Dropping(), ss.VPSDE(), prediction="epsilon")


def run(
    model: ss.ScoreModel, path: Path | None = None, **options: Any
) -> ss.training.TrainingResult:
    settings: dict[str, Any] = {"steps": 30, "batch_size": 8, "warmup": 4, "progress": False}
    settings |= {"save_every": 7, "ema_decay": 0.9, "path": path, **options}
    return ss.train(model, cloud(), **settings)


def assert_same_file(a: Path, b: Path) -> None:
    """Weights, average and optimiser, bit for bit, and every number of the manifest."""
    (manifest, tensors), (manifest_b, tensors_b) = read(a), read(b)
    assert manifest == manifest_b
    assert tensors.keys() == tensors_b.keys()
    for name, value in tensors.items():
        assert value.dtype == tensors_b[name].dtype and torch.equal(value, tensors_b[name]), name
    assert {name.split("/")[0] for name in tensors} == {"net", "ema", "optim"}
