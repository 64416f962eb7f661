"""Which data sets have one fingerprint."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import sdescore.training.fingerprint as module
from sdescore.training.data import part

hashed = partial(module.fingerprint, samples=part)


def test_fingerprints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the values, however they lie in memory; of a large set, of parts all over it."""
    data = torch.randn(1000, 3, 4)
    first = hashed(data)
    assert first["shape"] == [1000, 3, 4] and first["dtype"] == "float32"
    view = data.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not view.is_contiguous() and hashed(view) == first
    monkeypatch.setattr(module, "PART", 7 * 48)  # how it is read changes nothing
    assert hashed(data) == first
    monkeypatch.setattr(module, "HASHED_WHOLE", 1000)
    monkeypatch.setattr(module, "PARTS", 5)
    large = hashed(data)
    for where, same in ((0, False), (999, False), (497, False), (100, True)):
        other = data.clone()
        other[where, 1, 1] += 1
        assert (hashed(other) == large) is same, where
    for dtype in (torch.bfloat16, torch.float64, torch.int64):
        assert hashed(data.to(dtype))["sha256"] != first["sha256"]
    assert hashed(torch.ones(5))["shape"] == [5]
