"""Checkpoints of score_sde, against its formulas for labels and scores written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.errors import CheckpointError, IncompatibleError, ParameterError
from sdescore.nets import NCSNpp, score_sde_network
from tests.helpers.nets import perturbed

TINY: dict[str, Any] = {
    "image_size": 8,
    "nf": 8,
    "ch_mult": (1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (4,),
}
VE = {**TINY, "sde": "vesde", "continuous": True}
VE_LEVELS = {**VE, "continuous": False, "embedding_type": "positional", "num_scales": 100}
VP = {
    **TINY,
    "sde": "vpsde",
    "continuous": True,
    "centered": True,
    "scale_by_sigma": False,
    "embedding_type": "positional",
}
VP_LEVELS = {**VP, "continuous": False, "num_scales": 100}
SUBVP = {**VP, "sde": "subvpsde", "fir": False, "progressive_input": "none"}
CONFIGS = {"ve": VE, "ve levels": VE_LEVELS, "vp": VP, "vp levels": VP_LEVELS, "subvp": SUBVP}

Network = Callable[[Tensor, Tensor], Tensor]


def written(path: Path, config: dict[str, Any], **changes: Any) -> NCSNpp:
    """Write a file as score_sde does; the network with its averaged weights."""
    torch.manual_seed(0)
    net = perturbed(score_sde_network(config))
    raw = {f"module.{name}": value.clone() for name, value in net.state_dict().items()}
    net = perturbed(net)
    with torch.no_grad():
        if hasattr(net.all_modules[0], "W"):
            net.all_modules[0].W.copy_(raw["module.all_modules.0.W"])
    average = [value.detach().clone() for value in net.parameters() if value.requires_grad]
    file = {
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": []},
        "model": raw,
        "ema": {"decay": 0.999, "num_updates": 3, "shadow_params": average},
        "step": 3,
    }
    torch.save({**file, **changes}, path)
    return net.eval()


def original_score(config: dict[str, Any], net: Network, x: Tensor, t: Tensor) -> Tensor:
    """The score as the original's ``get_score_fn`` has it, at a time of its own."""
    levels = config.get("num_scales", 1000)
    if config["sde"] == "vesde":
        if config["continuous"]:
            return net(x, 0.01 * 5000**t)
        return net(x, torch.round((1 - t) * (levels - 1)).long())
    log_alpha = -0.25 * t**2 * 19.9 - 0.5 * t * 0.1
    if config["sde"] == "subvpsde":
        return -net(x, 999 * t) / (1 - torch.exp(2 * log_alpha))[:, None, None, None]
    if config["continuous"]:
        sigma = torch.sqrt(1 - torch.exp(2 * log_alpha))
        return -net(x, 999 * t) / sigma[:, None, None, None]
    label = t * (levels - 1)
    betas = torch.linspace(0.1 / levels, 20 / levels, levels, dtype=torch.float64)
    sigma = torch.sqrt(1 - torch.cumprod(1 - betas, dim=0))[label.round().long()].to(x)
    return -net(x, label) / sigma[:, None, None, None]


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_the_score_is_the_originals(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    net = written(tmp_path / "checkpoint_1.pth", config)
    model = ss.load_score_sde(tmp_path / "checkpoint_1.pth", config)
    assert model.data_range == ((0.0, 1.0) if name.startswith("ve") else (-1.0, 1.0))
    x = torch.rand(3, 3, 8, 8)
    level = torch.tensor([3.0, 40.0, 99.0])
    theirs = level / 99  # times of the original, at levels of its table
    ours = (level + 1) / 100 if name == "vp levels" else theirs
    expected = original_score(config, net, x, theirs)
    torch.testing.assert_close(model(x, ours), expected, rtol=2e-4, atol=1e-4)


@torch.no_grad()
def test_levels_of_ve_are_rounded_between_times_as_in_the_original(tmp_path: Path) -> None:
    net = written(tmp_path / "c.pth", VE_LEVELS)
    model = ss.load_score_sde(tmp_path / "c.pth", VE_LEVELS)
    x, t = torch.rand(3, 3, 8, 8), torch.tensor([0.123, 0.5, 0.777])
    torch.testing.assert_close(model(x, t), original_score(VE_LEVELS, net, x, t))


def test_the_sdes_are_the_originals(tmp_path: Path) -> None:
    models = {}
    for name, config in CONFIGS.items():
        written(tmp_path / "c.pth", config)
        models[name] = ss.load_score_sde(tmp_path / "c.pth", config)
    assert models["ve"].sde == ss.VESDE(sigma_min=0.01, sigma_max=50.0)
    assert models["vp"].sde == ss.VPSDE(beta_min=0.1, beta_max=20.0)
    assert models["subvp"].sde == ss.SubVPSDE(beta_min=0.1, beta_max=20.0)
    ladder: Any = models["ve levels"].sde
    ratio = 5000 ** (1 / 99)
    expected = [50 * ratio**-i for i in range(100)]
    assert ladder.sigmas == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(
        models["ve levels"].net.sigmas, torch.tensor(ladder.sigmas, dtype=torch.float64)
    )
    chain: Any = models["vp levels"].sde
    assert chain.betas[0] == pytest.approx(0.001) and chain.betas[-1] == pytest.approx(0.2)
    assert chain.betas[50] == pytest.approx((0.1 + 19.9 * 50 / 99) / 100)


@torch.no_grad()
def test_the_average_skips_the_frozen_frequencies(tmp_path: Path) -> None:
    net = written(tmp_path / "c.pth", VE)
    averaged: Any = ss.load_score_sde(tmp_path / "c.pth", VE).net
    raw: Any = ss.load_score_sde(tmp_path / "c.pth", VE, weights="raw").net
    file = torch.load(tmp_path / "c.pth")
    for name, value in averaged.state_dict().items():
        assert torch.equal(value, net.state_dict()[name])
        assert torch.equal(raw.state_dict()[name], file["model"][f"module.{name}"])
    assert torch.equal(averaged.all_modules[0].W, raw.all_modules[0].W)
    assert not torch.equal(averaged.all_modules[1].weight, raw.all_modules[1].weight)
    assert not averaged.training


def test_a_file_of_tensors_alone_serves(tmp_path: Path) -> None:
    net = written(tmp_path / "c.pth", VP)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    again = ss.load_score_sde(tmp_path / "net.pt", VP).net.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("name", CONFIGS)
def test_it_samples_and_saves(name: str, tmp_path: Path) -> None:
    written(tmp_path / "c.pth", CONFIGS[name])
    model = ss.load_score_sde(tmp_path / "c.pth", CONFIGS[name])
    ss.save(tmp_path / "own.safetensors", model)
    again = ss.load(tmp_path / "own.safetensors")
    assert again.sde == model.sde and again.convention == model.convention
    for grid in (None, ss.LogSNRGrid()):
        sampler = ss.PredictorCorrector(model.sde, ss.ReverseDiffusion(), steps=3, grid=grid)
        x = sampler.sample(model, (2, 3, 8, 8), seed=0)
        assert torch.equal(x, sampler.sample(again, (2, 3, 8, 8), seed=0))
        assert bool(x.isfinite().all())


def test_loading_draws_no_random_number(tmp_path: Path) -> None:
    written(tmp_path / "c.pth", VE)
    torch.manual_seed(7)
    ss.load_score_sde(tmp_path / "c.pth", VE)
    one = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(one, torch.rand(3))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**VE, "num_res_blocks": 2}, "check the configuration"),
        ({**VE, "sigma_max": 48.0}, "levels from 48 to 0.01"),
        ({**VE, "embedding_type": "positional"}, "check the configuration"),
    ],
)
def test_another_configuration_is_refused(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    written(tmp_path / "c.pth", VE)
    with pytest.raises(CheckpointError, match=message):
        ss.load_score_sde(tmp_path / "c.pth", config)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    with pytest.raises(FileNotFoundError):
        ss.load_score_sde(path, VE)
    written(path, VE, ema={"decay": 0.9})
    with pytest.raises(CheckpointError, match="shadow_params"):
        ss.load_score_sde(path, VE)
    written(path, VE, ema={"shadow_params": [torch.zeros(1)]})
    with pytest.raises(CheckpointError, match="one for each trainable parameter"):
        ss.load_score_sde(path, VE)
    written(path, VE, model={"step": 3})
    with pytest.raises(CheckpointError, match="state_dict"):
        ss.load_score_sde(path, VE)


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "c.pth", VE)
    with pytest.raises(IncompatibleError, match="config among"):
        ss.load_score_sde(tmp_path / "c.pth", "ve/cifar100")
    with pytest.raises(ParameterError, match="weights among"):
        ss.load_score_sde(tmp_path / "c.pth", VE, weights="average")
    with pytest.raises(ParameterError, match="device"):
        ss.load_score_sde(tmp_path / "c.pth", VE, device="nowhere")


@torch.no_grad()
def test_a_file_with_only_raw_weights_gives_these(tmp_path: Path) -> None:
    written(tmp_path / "c.pth", VE, ema=None)
    model: Any = ss.load_score_sde(tmp_path / "c.pth", VE)
    file = torch.load(tmp_path / "c.pth")
    assert torch.equal(
        model.net.all_modules[1].weight, file["model"]["module.all_modules.1.weight"]
    )
    assert math.isfinite(model(torch.rand(1, 3, 8, 8), 0.5).sum().item())
