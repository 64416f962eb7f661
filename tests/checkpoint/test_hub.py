"""Models on the Hugging Face Hub: real folders, and stand-ins for the calls of the network."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

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


def test_the_hub_gets_the_folder_and_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its API is replaced by a folder; what is asked of it is what huggingface_hub asks."""
    asked: dict[str, Any] = {}

    class Api:
        def __init__(self, token: str | None = None) -> None:
            asked["token"] = token

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            asked["create"] = {"repo_id": repo_id, **options}
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, folder_path: Path, **options: Any) -> str:
            asked["upload"] = options
            shutil.copytree(folder_path, tmp_path / "repository")
            return "the commit"

    def download(repo_id: str, filename: str, **options: Any) -> str:
        asked[filename] = {"repo_id": repo_id, **options}
        return str(tmp_path / "repository" / filename)

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(
        "huggingface_hub.hub_mixin.hf_hub_download",
        lambda repo_id, filename, **options: download(repo_id, filename, **options),
    )
    own = model()
    options = {"private": True, "token": "secret", "branch": "dev", "create_pr": True}
    assert own.push_to_hub("me/toy", commit_message="First", **options) == "the commit"
    assert asked["token"] == "secret" and asked["create"]["private"] is True
    upload = asked["upload"]
    assert upload["repo_id"] == "me/toy" and upload["commit_message"] == "First"
    assert upload["revision"] == "dev" and upload["create_pr"] is True
    card = (tmp_path / "repository" / "README.md").read_text()
    assert 'from_pretrained("me/toy")' in card

    again = ss.ScoreModel.from_pretrained("me/toy", revision="dev", local_files_only=True)
    assert torch.equal(again(X, T), own(X, T))
    weights = asked["model.safetensors"]
    assert weights["repo_id"] == "me/toy" and weights["revision"] == "dev"
    assert weights["local_files_only"] is True and weights["force_download"] is False


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return self.scale * x


def test_a_network_of_ones_own_is_passed_again(tmp_path: Path) -> None:
    own = ss.ScoreModel(Own(), ss.VESDE(), "epsilon")
    own.save_pretrained(tmp_path)
    fresh = Own()
    with torch.no_grad():
        fresh.scale.zero_()
    again = ss.ScoreModel.from_pretrained(tmp_path, net=fresh)
    assert torch.equal(again(X, T), own(X, T))
    with pytest.raises(ss.errors.CheckpointError, match="pass the object"):
        ss.ScoreModel.from_pretrained(tmp_path)


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        ss.ScoreModel.from_pretrained(tmp_path)
    damaged = tmp_path / "damaged"
    model().save_pretrained(damaged)
    file = damaged / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(ss.errors.CheckpointError):
        ss.ScoreModel.from_pretrained(damaged)

    from sdescore.checkpoint import hub

    hub.published_kind.cache_clear()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (model().save_pretrained, ss.ScoreModel.from_pretrained):
        with pytest.raises(ss.errors.IncompatibleError, match="pip install huggingface_hub"):
            call(tmp_path)
    monkeypatch.undo()
    hub.published_kind.cache_clear()
