"""A folder of shards goes on with the same score alone, whatever kind of score it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.samplers.description import digest, numbers, plain, text_of

SDE = ss.VPSDE()


def closure(c: float) -> Any:
    return lambda x, t: -c * x


def scaled(x: Tensor, t: Tensor, c: float = 1.0) -> Tensor:
    return -c * x


class Scaled(nn.Module):
    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = c

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return -self.c * x


class Caching(Scaled):
    """The first call leaves a tensor behind."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen = x
        return super().forward(x, t)


def mixture(c: float) -> Any:
    means = torch.tensor([[c, 0.0], [0.0, c]])
    return ss.MixtureScore(torch.tensor([0.5, 0.5]), means, torch.full((2,), 0.1), SDE)


def empirical(c: float) -> Any:
    return ss.EmpiricalScore(torch.arange(10.0).reshape(5, 2) + c, SDE)


SCORES: dict[str, Callable[[float], Any]] = {
    "Gaussian": lambda c: ss.GaussianScore(torch.full((2,), c), 0.5, SDE),
    "mixture": mixture,
    "empirical": empirical,
    "closure": closure,
    "partial": lambda c: partial(scaled, c=c),
    "module": Scaled,
    "method": lambda c: Scaled(c).forward,
    "caching module": Caching,
    "function in a model": lambda c: ss.ScoreModel(closure(c), SDE, prediction="epsilon"),
    "guided": lambda c: ss.classifier_free(closure(c), closure(1.0), 2.0),
}


@pytest.mark.parametrize("name", SCORES)
def test_a_folder_of_another_score_is_refused(tmp_path: Path, name: str) -> None:
    """And one of the same score, made anew, goes on after a shard was lost."""
    make, sampler = SCORES[name], ss.PredictorCorrector(SDE, ss.EulerMaruyama(), steps=3)
    draw = partial(ss.samplers.sample_to_folder, sampler, shape=(6, 2), out=tmp_path, shard_size=3)
    shards = draw(make(1.0))
    whole = [np.load(shard) for shard in shards]
    shards[1].unlink()
    with pytest.raises(ss.errors.CheckpointError, match="one of others, by model"):
        draw(make(2.0))
    model = make(1.0)
    for shard, x in zip(draw(model), whole, strict=True):
        assert np.array_equal(np.load(shard), x)
    shards[0].unlink()
    assert np.array_equal(np.load(draw(model)[0]), whole[0])  # after it was called


def test_what_holds_itself_has_an_end() -> None:
    model: Any = Scaled(1.0)
    model.table = (model, {"again": model})
    assert digest(plain(model), *numbers(model, set()))


def test_samplers_that_hold_different_measurements_are_told_apart() -> None:
    def text(y: float, noise_std: float = 0.1) -> str:
        see_first = ss.inverse.Mask(torch.tensor([True, False]))
        seen = ss.inverse.Measurement(torch.tensor([y]), see_first, noise_std)
        return text_of(ss.inverse.Projection(ss.VPSDE(), measurement=seen, steps=4))

    assert text(0.5) == text(0.5)
    assert len({text(0.5), text(0.6), text(0.5, 0.2)}) == 3
