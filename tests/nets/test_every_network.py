"""Every network of the room trains in float32, in bfloat16 and compiled as one graph."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import sdescore as ss
from sdescore.rooms import members

SIGMAS = (2.0, 1.0, 0.25, 0.125)
LADDER, CHAIN, EDM = ss.DiscreteVESDE(sigmas=SIGMAS), ss.DiscreteVPSDE.linear(20), ss.EDMSDE()
SONG: dict[str, Any] = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,)}
KARRAS: dict[str, Any] = {
    "img_resolution": 8,
    "in_channels": 2,
    "classes": 3,
    "model_channels": 32,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (4,),
}
U = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (1,)}
# Its SDE, prediction and time input beside each network.
Model = tuple[Callable[[], nn.Module], ss.LinearSDE, str, str]
NETWORKS: dict[str, Model] = {
    "ADM": (
        lambda: ss.nets.ADM(
            size=8, channels=2, multipliers=(1, 2), width=32, blocks=1, attention=(4,),
            learned_variance=True, classes=3,
        ), CHAIN, "epsilon", "continuous_level",
    ),
    "DDPMpp": (
        lambda: ss.nets.DDPMpp(8, 2, **SONG), ss.VPSDE(), "epsilon", "999t",
    ),
    "DhariwalUNet": (lambda: ss.nets.DhariwalUNet(**KARRAS), EDM, "F", "quarter_log_sigma"),
    "DhariwalUNetIDDPM": (
        lambda: ss.nets.DhariwalUNetIDDPM(**KARRAS, M=20), CHAIN, "epsilon", "quarter_log_sigma",
    ),
    "EDM2UNet": (lambda: ss.nets.EDM2UNet(**KARRAS), EDM, "F", "quarter_log_sigma"),
    "MLP": (lambda: ss.nets.MLP(2 * 8 * 8, classes=3), EDM, "F", "quarter_log_sigma"),
    "NCSN": (lambda: ss.nets.NCSN(2, 4, 4, True), LADDER, "score", "level"),
    "NCSNpp": (lambda: ss.nets.NCSNpp(8, 2, **SONG), ss.VESDE(), "score", "sigma"),
    "NCSNv2": (lambda: ss.nets.NCSNv2(2, SIGMAS, 4, rescaled=True), LADDER, "score", "level"),
    "SongUNet": (lambda: ss.nets.SongUNet(**KARRAS), EDM, "F", "quarter_log_sigma"),
    "SongUNetVE": (lambda: ss.nets.SongUNetVE(**KARRAS), ss.VESDE(), "epsilon", "log_sigma"),
    "UNet": (lambda: ss.nets.UNet(2, **U, classes=3), EDM, "F", "quarter_log_sigma"),
}  # fmt: skip
PARTS = {"FourierEmbedding", "PositionalEmbedding", "TimeEmbedding"}
WRAPPERS = {"EnergyModel", "LearnedVariance", "LevelEnsemble"}  # of any network


def test_none_is_missing() -> None:
    found = {kind.__name__ for kind in members("sdescore.nets", nn.Module)}
    assert found == {*NETWORKS} | PARTS | WRAPPERS


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, id="float32"),
        pytest.param({"precision": "bf16"}, id="bf16"),
        pytest.param({"compile": True}, id="compiled", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_it_trains(name: str, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = functools.partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)  # the default takes minutes for all of them
    make, sde, prediction, time_input = NETWORKS[name]
    torch.manual_seed(0)
    net: Any = make()
    model = ss.ScoreModel(net, sde, prediction, time_input)
    data = torch.randn(64, 128) if name == "MLP" else torch.randn(64, 2, 8, 8)
    labels = torch.arange(64) % 3 if net.config.get("classes") else None
    before = {key: p.clone() for key, p in net.named_parameters() if p.requires_grad}
    fit = functools.partial(
        ss.train, data=data, labels=labels, label_dropout=0.0 if labels is None else 0.2,
        batch_size=8, lr=1e-2, warmup=1, progress=False,
    )  # fmt: skip
    if how.get("compile"):  # the same function, and the same gradient after the first step
        plain = fit(copy.deepcopy(model), steps=3)
        result = fit(model, steps=3, **how)
        assert result.losses == pytest.approx(plain.losses, rel=1e-3)
    else:
        result = fit(model, steps=6, **how)
    assert bool(torch.tensor(result.losses).isfinite().all())
    still = [
        key for key, p in net.named_parameters() if key in before and torch.equal(p, before[key])
    ]
    assert not still
