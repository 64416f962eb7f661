"""A checkpoint as a folder of parts, written here by hand from what its module says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sdescore as ss
from tests.helpers.checkpoints import read


def test_a_folder_of_no_tensors_is_refused(tmp_path: Path) -> None:
    """Its digests are right, but its file is none; torch's own error is no ``Exception``."""
    step = tmp_path / "m.dcp" / "step-1"
    step.mkdir(parents=True)
    (step / "a.safetensors").write_bytes(b"secret")
    tensors = {"net/a": {"dtype": "F32", "shape": [1]}}
    files = {"a.safetensors": hashlib.sha256(b"secret").hexdigest()}
    record = {"manifest": {"format": 1}, "tensors": tensors, "files": files}
    (step / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(ss.errors.CheckpointError, match="its tensors cannot be read"):
        ss.checkpoint.export(tmp_path / "m.dcp", tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def folder_of(path: Path, name: str, tensors: dict[str, Tensor], manifest: dict[str, Any]) -> Path:
    """A step of two parts, each with half of the tensors, and the manifest that makes it whole."""
    step = path / name
    step.mkdir(parents=True)
    names, files = sorted(tensors), {}
    for part, chosen in enumerate((names[::2], names[1::2]), 1):
        file = step / f"shard-{part:05}-model-00001-of-00001.safetensors"
        save_file({key: tensors[key] for key in chosen}, file)
        files[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    described = {
        key: {"dtype": kinds[v.dtype], "shape": list(v.shape)} for key, v in tensors.items()
    }
    record = {"manifest": manifest, "tensors": described, "files": files}
    (step / "manifest.json").write_text(json.dumps(record))
    return step


@pytest.fixture
def model() -> ss.ScoreModel:
    torch.manual_seed(0)
    net = ss.MLP(2, hidden=8, depth=1, classes=3)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    return ss.ScoreModel(net, ss.VPSDE(beta_max=15.0), "v", "log_snr")


def test_export_writes_the_file_that_the_model_would_be(
    model: ss.ScoreModel, tmp_path: Path
) -> None:
    """Byte for byte; of the newest step that has its manifest, which is written last."""
    ss.save(tmp_path / "own.safetensors", model)
    manifest, tensors = read(tmp_path / "own.safetensors")
    folder = tmp_path / "large.dcp"
    older = {name: torch.zeros_like(value) for name, value in tensors.items()}
    folder_of(folder, "step-90", older, manifest)
    folder_of(folder, "step-200", tensors, manifest)
    (folder_of(folder, "step-1000", older, manifest) / "manifest.json").unlink()
    ss.checkpoint.export(folder, tmp_path / "one.safetensors")
    same = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("own", "one")]
    assert same[0] == same[1]
    loaded, x, label = ss.load(tmp_path / "one.safetensors"), torch.randn(3, 2), torch.arange(3)
    assert torch.equal(loaded(x, 0.4, label), model(x, 0.4, label))


@pytest.mark.parametrize("damage", ["a changed byte", "a part that is gone", "no step"])
def test_a_damaged_folder_is_not_exported(
    model: ss.ScoreModel, tmp_path: Path, damage: str
) -> None:
    ss.save(tmp_path / "own.safetensors", model)
    manifest, tensors = read(tmp_path / "own.safetensors")
    step = folder_of(tmp_path / "m.dcp", "step-3", tensors, manifest)
    part = next(step.glob("shard-00002*"))
    if damage == "a changed byte":
        data = bytearray(part.read_bytes())
        data[-1] ^= 1
        part.write_bytes(data)
    elif damage == "no step":
        (step / "manifest.json").unlink()
    else:
        part.unlink()
    with pytest.raises((ss.errors.CheckpointError, FileNotFoundError)):
        ss.checkpoint.export(tmp_path / "m.dcp", tmp_path / "one.safetensors")
    assert not (tmp_path / "one.safetensors").exists()
