"""A model as a folder: its weights, its configuration and its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sdescore as ss

huggingface_hub = pytest.importorskip("huggingface_hub")


def model(**options: Any) -> ss.ScoreModel:
    torch.manual_seed(0)
    return ss.ScoreModel(ss.MLP(2, hidden=8), ss.VPSDE(beta_max=15.0), "v", "log_snr", **options)


X, T = torch.randn(4, 2, generator=torch.Generator().manual_seed(1)), 0.4


def test_a_folder_holds_the_model(tmp_path: Path) -> None:
    own = model(data_mean=[1.0, -2.0], data_std=3.0)
    own.save_pretrained(tmp_path / "toy")
    assert {f.name for f in (tmp_path / "toy").iterdir()} == {
        "README.md", "config.json", "model.safetensors"
    }  # fmt: skip
    again = ss.ScoreModel.from_pretrained(tmp_path / "toy")
    assert again.sde == own.sde and again.options == own.options and not again.training
    assert torch.equal(again(X, T), own(X, T))
    assert torch.equal(ss.load(tmp_path / "toy" / "model.safetensors")(X, T), own(X, T))


def test_the_configuration_and_the_card_are_for_people(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "toy")
    config = json.loads((tmp_path / "toy" / "config.json").read_text())
    assert config["sde"] == {"class": "VPSDE", "fields": {"beta_min": 0.1, "beta_max": 15.0}}
    assert config["convention"]["prediction"] == "v"
    card = huggingface_hub.ModelCard.load(tmp_path / "toy" / "README.md")
    assert card.data.library_name == "sdescore"
    for text in ("# toy", "VPSDE(beta_min=0.1, beta_max=15.0)", "`MLP`", "`v`", "`log_snr`"):
        assert text in card.content
    # A card that is there stays, and the configuration does not lead the loading.
    (tmp_path / "toy" / "README.md").write_text("mine")
    (tmp_path / "toy" / "config.json").write_text("{}")
    other = model()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    other.save_pretrained(tmp_path / "toy")
    assert (tmp_path / "toy" / "README.md").read_text() == "mine"
    assert torch.equal(ss.ScoreModel.from_pretrained(tmp_path / "toy")(X, T), other(X, T))


def test_a_long_table_is_not_written_out_on_the_card(tmp_path: Path) -> None:
    net = ss.MLP(2, hidden=8)
    ss.ScoreModel(net, ss.DiscreteVPSDE.linear(), "v").save_pretrained(tmp_path)
    assert "`DiscreteVPSDE(…)`" in (tmp_path / "README.md").read_text(encoding="utf-8")
