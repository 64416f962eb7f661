"""EDM2's checkpoints: the denoiser by the paper's formula, the released names, and the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sdescore as ss
from sdescore.errors import CheckpointError, IncompatibleError
from sdescore.interop.edm_configurations import CONFIGS
from tests.helpers import official
from tests.helpers.nets import perturbed

SMALL: dict[str, Any] = {
    "class_name": "training.networks_edm2.Precond",
    "img_resolution": 8,
    "img_channels": 4,
    "label_dim": 4,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
}


def network(**options: Any) -> ss.nets.EDM2UNet:
    """The network of ``SMALL``."""
    torch.manual_seed(0)
    sizes = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1}
    net = ss.nets.EDM2UNet(8, 4, **{"classes": 4, "logvar_channels": 128} | sizes | options)
    return perturbed(net).eval()  # type: ignore[return-value]


def written(net: ss.nets.EDM2UNet, path: Path) -> Path:
    """The file of a ``Precond``, whose network is its part ``unet``."""
    state = {("" if "logvar" in k else "unet.") + k: v for k, v in net.state_dict().items()}
    torch.save(state, path)
    return path


def test_the_denoiser_is_its_formula(tmp_path: Path) -> None:
    """D(x; σ) = c_skip x + c_out F(c_in x; ¼ log σ), EDM's preconditioning."""
    net = network()
    model = ss.load_edm(written(net, tmp_path / "a.pt"), SMALL | {"sigma_data": 0.4})
    sigma, label = torch.tensor([0.03, 0.5, 2.0, 70.0]), torch.arange(4)
    column = sigma.reshape(-1, 1, 1, 1)
    x, total = column * torch.randn(4, 4, 8, 8), (column**2 + 0.4**2).sqrt()
    output = net(x / total, sigma.log() / 4, label)
    expected = (0.4 / total) ** 2 * x + 0.4 * column / total * output
    torch.testing.assert_close(model.denoise(x, sigma, label), expected, rtol=1e-5, atol=1e-5)
    assert model.sde == ss.EDMSDE() and model.label_required and not model.net.training
    found = model.net.state_dict()
    assert all(torch.equal(found[name], value) for name, value in net.state_dict().items())


def test_named_configurations_are_the_published_ones() -> None:
    table = official.facts("edm2")
    released = {name: config for name, config in CONFIGS.items() if name.startswith("edm2-")}
    assert released.keys() == table.keys()
    for name, config in released.items():
        sizes = ("img_channels", "label_dim", "model_channels")
        assert {key: config[key] for key in sizes} == {key: table[name][key] for key in sizes}
        assert config["precond"] == "edm2" and config["img_resolution"] == 64


def test_the_name_of_a_released_file_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONFIGS, "edm2-img512-tiny", SMALL)
    path = written(network(), tmp_path / "a.pt")
    for name in ("edm2-img512-tiny", "edm2-img512-tiny-2147483-0.135.pkl"):
        assert ss.load_edm(path, name).prediction == "F"


def test_what_is_refused(tmp_path: Path) -> None:
    path = written(network(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"emb_label.*check the configuration"):
        ss.load_edm(path, SMALL | {"label_dim": 0})
    with pytest.raises(IncompatibleError, match="EDM2UNet; got augment_dim"):
        ss.load_edm(path, SMALL | {"augment_dim": 9})
    (tmp_path / "edm2.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(CheckpointError, match=r"torch.save\(net.state_dict\(\)"):
        ss.load_edm(tmp_path / "edm2.pkl", SMALL)


def test_a_loaded_model_is_saved_loaded_and_trained(tmp_path: Path) -> None:
    net = network(classes=None)
    model = ss.load_edm(written(net, tmp_path / "a.pt"), SMALL | {"label_dim": 0})
    ss.save(tmp_path / "ours.safetensors", model)
    again = ss.load(tmp_path / "ours.safetensors")
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 9.0])
    assert torch.equal(again(x, t), model(x, t))
    before = again.net.logvar_linear.weight.clone()
    data = 0.5 * torch.randn(32, 4, 8, 8)
    result = ss.train(
        again, data, objective=ss.losses.uncertainty_loss, steps=3, batch_size=8, progress=False,
        path=tmp_path / "run.safetensors",
    )  # fmt: skip
    assert bool(torch.tensor(result.losses).isfinite().all())
    assert not torch.equal(again.net.logvar_linear.weight, before)
