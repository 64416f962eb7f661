"""A checkpoint of guided diffusion: its score at every level, its tables, and its flags."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.interop.guided_diffusion import betas_of, flags_of, network_of

CONFIG: dict[str, Any] = {
    "image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2",
    "attention_resolutions": "8", "learn_sigma": True, "resblock_updown": True,
    "noise_schedule": "cosine", "use_fp16": True,
}  # fmt: skip


def saved(path: Path, prefix: str = "", **flags: Any) -> tuple[ss.nets.ADM, Path]:
    torch.manual_seed(0)
    net = network_of(flags_of({**CONFIG, **flags}))
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    state = {prefix + name: value for name, value in net.state_dict().items()}
    torch.save(state, path / "ema_0.9999_1000.pt")
    return net.eval(), path / "ema_0.9999_1000.pt"


def noise() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_the_score_at_a_level(tmp_path: Path, schedule: str, prefix: str) -> None:
    """−ε̂/√(1 − ᾱ_i), where the network is given i and ε̂ is the first half of its output."""
    net, path = saved(tmp_path, prefix, noise_schedule=schedule)
    model = ss.load_guided_diffusion(path, {**CONFIG, "noise_schedule": schedule})
    assert model.data_range == (-1.0, 1.0)
    x, products = noise(), 1 - torch.tensor(betas_of(schedule, 1000), dtype=torch.float64)
    for level in (0, 10, 999):
        with torch.no_grad():
            epsilon = net.full(x, torch.full((2,), float(level)))[:, :3].double()
            found = model(x, model.sde.level_times()[level])
        expected = -epsilon / (1 - products[: level + 1].prod()).sqrt()
        assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-4), level
    assert not model.training and not model.label_required


def test_the_tables() -> None:
    """DDPM's linear ends, also for other numbers of levels; ᾱ of the cosine by its definition."""
    linear, short = betas_of("linear", 1000), betas_of("linear", 250)
    assert linear[0] == pytest.approx(1e-4) and linear[-1] == pytest.approx(0.02)
    assert short[0] == pytest.approx(4e-4) and short[-1] == pytest.approx(0.08)
    kept, start = 1.0, math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    for i, beta in enumerate(betas_of("cosine", 1000), start=1):
        kept *= 1 - beta
        if i in (1, 400, 990):
            share = math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
            assert kept == pytest.approx(share / start, rel=1e-9)
    assert max(betas_of("cosine", 1000)) == 0.999


def test_classes_are_required(tmp_path: Path) -> None:
    _, path = saved(tmp_path, class_cond=True)
    model = ss.load_guided_diffusion(path, {**CONFIG, "class_cond": True})
    sampler, label = ss.PredictorCorrector(model.sde, steps=2), torch.tensor([0, 999])
    assert sampler.sample(model, (2, 3, 16, 16), label=label).shape == (2, 3, 16, 16)
    with pytest.raises(ss.errors.IncompatibleError, match="trained with labels alone"):
        sampler.sample(model, (2, 3, 16, 16))


def test_what_is_refused(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    for config, error, match in (
        ("imagenet", ss.errors.IncompatibleError, "imagenet-64-cond"),
        (3, ss.errors.IncompatibleError, "a name or a dict"),
        ({"chanels": 3}, ss.errors.IncompatibleError, "flags among"),
        ({"image_size": 20}, ss.errors.IncompatibleError, "channel_mult"),
        ({**CONFIG, "noise_schedule": "sqrt"}, ss.errors.IncompatibleError, "noise_schedule"),
        ({**CONFIG, "learn_sigma": False}, ss.errors.CheckpointError, r"first 'out\.2\.weight'"),
        (
            {**CONFIG, "rescale_timesteps": True, "diffusion_steps": 100},
            ss.errors.IncompatibleError,
            "levels as the network's input",
        ),
    ):
        with pytest.raises(error, match=match):
            ss.load_guided_diffusion(path, config)  # type: ignore[arg-type]


def spoil(value: Tensor, what: str) -> Tensor:
    if what == "nan":
        value = value.clone()
        value.view(-1)[0] = math.nan
        return value
    return {"complex": value + 1j, "sparse": value.to_sparse()}[what]


@pytest.mark.parametrize("what", ["nan", "complex", "sparse"])
def test_weights_that_are_no_finite_real_numbers_are_refused(tmp_path: Path, what: str) -> None:
    net, path = saved(tmp_path)
    state = net.state_dict()
    torch.save({**state, "out.2.bias": spoil(state["out.2.bias"], what)}, path)
    with pytest.raises(ss.errors.CheckpointError, match=r"finite real numbers in 'out\.2\.bias'"):
        ss.load_guided_diffusion(path, CONFIG)
