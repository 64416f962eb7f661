"""Fixtures of this room."""

from __future__ import annotations

import pytest
import torch

import sdescore as ss
from sdescore.checkpoint.store import TrainingRecord
from tests.helpers.stored import small


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("intact") / "m.safetensors"
    model = small()
    optimizer = {"last.bias/exp_avg": torch.ones(2), "last.bias/step": torch.tensor(3.0)}
    record = TrainingRecord(3, {"seed": 1}, optimizer)
    ss.save(path, model, ema=ss.EMA(model.net), training=record)
    return path.read_bytes()
