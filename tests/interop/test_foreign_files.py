"""A file of another code given to ``ss.load`` says where its loader is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import sdescore as ss


def test_each_kind_of_file(tmp_path: Path) -> None:
    state = {"weight": torch.ones(3)}
    torch.save(state, tmp_path / "a.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "a.safetensors")
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    for name in ("a.pth", "old.pth", "a.safetensors"):
        with pytest.raises(ss.errors.CheckpointError, match=r"sdescore\.interop has loaders"):
            ss.load(tmp_path / name)
    with pytest.raises(ss.errors.CheckpointError, match="use load_diffusers"):
        ss.load(tmp_path / "pipeline")
