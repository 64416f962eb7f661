"""A checkpoint keeps the mean and standard deviation of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sdescore as ss
from sdescore.checkpoint.manifest import build_model, describe_model, from_json, to_json
from sdescore.errors import CheckpointError
from tests.helpers.checkpoints import forge, read
from tests.helpers.standardised import MEAN, STD


def mlp(**options: Any) -> ss.ScoreModel:
    return ss.ScoreModel(ss.MLP(3, hidden=8), ss.VPSDE(), **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"data_mean": 0.1, "data_std": 3.7},
        {"data_mean": MEAN, "data_std": STD, "data_range": (-1.0, 2.0)},
    ],
)
def test_it_comes_back(tmp_path: Path, options: dict[str, Any]) -> None:
    model = mlp(**options)
    ss.save(tmp_path / "m.safetensors", model)
    again = ss.load(tmp_path / "m.safetensors")
    assert again.data_scale == model.data_scale and again.data_range == model.data_range
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=3)
    assert torch.equal(sampler.sample(again, (2, 3)), sampler.sample(model, (2, 3)))


@pytest.mark.parametrize(
    "forged",
    [
        {"data_std": 0},
        {"data_std": [1, 2, "3"]},
        {"data_std": [1, 2]},
        {"data_mean": None},
        {"data_mean": "0"},
        {"data_mean": True},
        {"data_std": [[1, 1, 1]]},
    ],
)
def test_forged_numbers_are_refused(forged: dict[str, Any]) -> None:
    model = mlp(data_mean=MEAN, data_std=STD)
    manifest = from_json(to_json({"format": 1, **describe_model(model)}))
    assert (
        build_model(manifest, model.net.state_dict(), net=None, sde=None).options == model.options
    )
    manifest["convention"] |= forged
    with pytest.raises(CheckpointError):
        build_model(manifest, model.net.state_dict(), net=None, sde=None)


def test_a_file_older_than_the_scale_loads(tmp_path: Path) -> None:
    """Its states were the data. A file with one of the two entries would be loaded by guessing."""
    model = mlp()
    ss.save(tmp_path / "m.safetensors", model)
    manifest, tensors = read(tmp_path / "m.safetensors")
    del manifest["convention"]["data_mean"]
    forge(tmp_path / "half.safetensors", manifest, tensors)
    with pytest.raises(CheckpointError, match=r"'data_mean' as float .* save the model again"):
        ss.load(tmp_path / "half.safetensors")
    del manifest["convention"]["data_std"]
    forge(tmp_path / "old.safetensors", manifest, tensors)
    again = ss.load(tmp_path / "old.safetensors")
    assert again.options == model.options
    x = torch.linspace(-2, 2, 6).reshape(2, 3)
    assert torch.equal(again(x, 0.3), model(x, 0.3))


def test_a_file_older_than_the_label_is_refused_in_one_line(tmp_path: Path) -> None:
    """Whether its network was trained without labels is not known."""
    ss.save(tmp_path / "m.safetensors", mlp())
    manifest, tensors = read(tmp_path / "m.safetensors")
    del manifest["convention"]["label_required"]
    forge(tmp_path / "old.safetensors", manifest, tensors)
    with pytest.raises(CheckpointError, match=r"'label_required' .* save the model") as error:
        ss.load(tmp_path / "old.safetensors")
    assert len(str(error.value).splitlines()) == 1
