"""Samples as pairs, dicts or alone, and a short run on data of any kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset

import sdescore as ss
from tests.helpers.training import cloud, make

LABELS = torch.arange(64) % 3


class Found:
    """Samples by index in no Dataset of torch's; its iterator gives single samples."""

    def __init__(self, form: str) -> None:
        self.pairs = Pairs(form)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> Any:
        return self.pairs[i]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))


class Pairs(Dataset[Any]):
    """Samples as pairs, dicts or alone; with noise of its own if asked."""

    def __init__(self, form: str = "pair", noise: float = 0.0, n: int = 64) -> None:
        self.form, self.noise, self.n = form, noise, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        x = cloud()[i] + self.noise * torch.randn(2) if self.noise else cloud()[i]
        label = int(LABELS[i])
        return {"pair": (x, label), "dict": {"x": x, "label": label}, "x": x}[self.form]


def fit(data: Any, model: ss.ScoreModel | None = None, **options: Any) -> Any:
    settings: dict[str, Any] = {"steps": 6, "warmup": 2, "progress": False, "ema_decay": 0.9}
    settings["standardize"] = False  # the network sees the data as they are
    return ss.train(make() if model is None else model, data, **settings | options)
