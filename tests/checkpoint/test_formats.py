"""Stored checkpoints of each format version load, and their runs go on.

A new format adds its files, ``python tests/checkpoint/test_formats.py`` writes them; the files of
the formats before stay as they are.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

import sdescore as ss
from sdescore.checkpoint.manifest import FORMAT

STORED = Path(__file__).parent / "stored"
FILES = sorted(path.name for path in STORED.glob("format-*"))


def model() -> ss.ScoreModel:
    torch.manual_seed(0)
    net = ss.MLP(2, hidden=4, depth=1, embedding_dim=4)
    return ss.ScoreModel(net, ss.VPSDE(beta_min=0.2), "v", "log_snr", data_range=(-1, 1))


def run(path: Path | None, **options: Any) -> ss.training.TrainingResult:
    data = torch.linspace(-1.0, 1.0, 24).reshape(12, 2)
    settings: dict[str, Any] = {
        "steps": 3,
        "batch_size": 4,
        "warmup": 1,
        "progress": False,
        "schedule": "constant",
    }
    settings |= {"ema_decay": 0.5, "info": {"a": [1]}}
    return ss.train(model(), data, path=path, **settings | options)


def test_every_format_has_a_file_and_the_newest_a_folder() -> None:
    numbers = {int(name.split("-")[1].split(".")[0]) for name in FILES}
    assert numbers == set(range(1, FORMAT + 1))
    assert {f"format-{FORMAT}.safetensors", f"format-{FORMAT}.dcp"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_the_model_is_the_one_that_was_saved(name: str) -> None:
    """What it is by its maker above; its numbers as safetensors alone reads them."""
    path = STORED / name
    parts = sorted(path.glob("step-3/*.safetensors")) if path.is_dir() else [path]
    raw = {key: value for part in parts for key, value in load_file(part).items()}
    for weights, prefix in (("raw", "net/"), ("ema", "ema/shadow.")):
        found = ss.load(path, weights=weights)
        assert found.sde == ss.VPSDE(beta_min=0.2)
        assert [found.options[key] for key in ("prediction", "time_input")] == ["v", "log_snr"]
        assert found.options["data_range"] == (-1, 1)
        assert found.options["data_mean"] == pytest.approx((-1 / 23, 1 / 23), abs=1e-6)
        state = found.net.state_dict()
        assert state and all(torch.equal(v, raw[prefix + k]) for k, v in state.items())
    assert not torch.equal(raw["net/last.bias"], raw["ema/shadow.last.bias"])
    manifest = ss.checkpoint.read_manifest(path)
    assert manifest["format"] <= FORMAT and manifest["training"]["step"] == 3
    assert manifest["info"]["a"] == [1]


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".safetensors")])
def test_the_run_goes_on(name: str, tmp_path: Path) -> None:
    """From its third step, to where a run of six steps on this machine ends."""
    path = tmp_path / name
    shutil.copy(STORED / name, path)
    result = run(path, steps=6, resume=True)
    assert result.step == 6 and len(result.losses) == 3
    whole = run(None, steps=6)
    for found, expected in zip(result.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    run(STORED / f"format-{FORMAT}.safetensors")
    with tempfile.NamedTemporaryFile() as file:
        one = {"rank": 0, "world_size": 1, "init_method": f"file://{file.name}"}
        distributed.init_process_group("gloo", **one)
        run(STORED / f"format-{FORMAT}.dcp", shard=True)
        distributed.destroy_process_group()
