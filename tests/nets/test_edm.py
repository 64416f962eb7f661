"""EDM's networks: names and shapes of the published code, real training.

tables/edm.json holds facts of NVlabs/edm: for each network its arguments and the table of its
tensors.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ShapeError
from sdescore.nets import DhariwalUNet, SongUNet
from sdescore.nets import blocks_edm as blocks
from tests.helpers import official
from tests.helpers.edm_nets import NCSNPP, SMALL
from tests.helpers.nets import inductor, perturbed

TABLE = official.facts("edm")
NETS: dict[str, Any] = {
    "ddpmpp": lambda: SongUNet(**SMALL),
    "ncsnpp": lambda: SongUNet(**SMALL, **NCSNPP, classes=4),
    "skip": lambda: SongUNet(
        **SMALL, **NCSNPP | {"encoder_type": "skip"}, decoder_type="skip", out_channels=2
    ),
    "adm": lambda: DhariwalUNet(**SMALL | {"model_channels": 32}, classes=4),
}


def built(network: dict[str, Any]) -> nn.Module:
    """Our network of the published one's arguments."""
    options = dict(network)
    kind = getattr(ss.nets, options.pop("model_type"))
    return kind(classes=options.pop("label_dim") or None, **options)


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return perturbed(NETS[request.param]()).eval()


# ---------------------------------------------------------------- the published names


@pytest.mark.parametrize("name", TABLE)
def test_names_shapes_and_their_order_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        rows = official.rows(built(TABLE[name]["network"]))
    official.check(rows, TABLE[name]["table"])


def test_counts_are_those_of_the_papers() -> None:
    """EDM's CIFAR-10 networks have 56 million parameters, and ADM for ImageNet-64 296 million."""
    millions = {name: round(row["parameters"] / 1e6) for name, row in TABLE.items()}
    assert millions["cifar10-32x32-cond-vp"] == millions["cifar10-32x32-uncond-ve"] == 56
    assert millions["imagenet-64x64-cond-adm"] == 296


# ---------------------------------------------------------------- as networks of this package


def label_for(net: nn.Module, n: int) -> Tensor | None:
    return torch.arange(n) % net.config["classes"] if net.config["classes"] else None


def test_rebuilds_from_json_config(net: nn.Module) -> None:
    config = json.loads(json.dumps(net.config))
    assert config == net.config
    twin = type(net)(**config).eval()
    twin.load_state_dict(net.state_dict())
    x, c = torch.randn(2, 2, 8, 8), torch.rand(2)
    assert torch.equal(twin(x, c, label_for(net, 2)), net(x, c, label_for(net, 2)))


def test_a_sample_does_not_depend_on_its_companions_and_any_size_serves(net: nn.Module) -> None:
    x, c, label = torch.randn(3, 2, 4, 10), torch.rand(3), label_for(net, 3)
    together = net(x, c, label)
    alone = net(x[1:2], c[1:2], None if label is None else label[1:2])
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-5)
    assert net(x[:0], c[:0], None if label is None else label[:0]).shape == (0, 2, 4, 10)


def test_no_label_is_the_index_classes(net: nn.Module) -> None:
    x, c = torch.randn(2, 2, 8, 8), torch.rand(2)
    if not net.config["classes"]:
        with pytest.raises(IncompatibleError, match="classes=None"):
            net(x, c, torch.zeros(2, dtype=torch.int64))
        return
    assert torch.equal(net(x, c), net(x, c, torch.full((2,), 4)))
    assert not torch.allclose(net(x, c), net(x, c, torch.full((2,), 3)), atol=1e-4)


def test_every_parameter_gets_gradient(net: nn.Module) -> None:
    net(torch.randn(4, 2, 8, 8), torch.rand(4), label_for(net, 4)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


def test_second_derivatives_exist(net: nn.Module) -> None:
    x, label = torch.randn(2, 2, 8, 8, requires_grad=True), label_for(net, 2)
    (first,) = torch.autograd.grad(net(x, torch.rand(2), label).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert bool(second.isfinite().all()) and bool(second.any())


@pytest.mark.parametrize("precision", [None, "bf16"])
@pytest.mark.parametrize("kind", ["ncsnpp", "adm"])
def test_trains(kind: str, precision: str | None) -> None:
    torch.manual_seed(0)
    net, sde = NETS[kind](), ss.EDMSDE()
    model = ss.ScoreModel(net, sde, sigma_data=0.5)
    x = 0.5 * torch.randn(64, 2, 8, 8)
    options: dict[str, Any] = {"steps": 8, "batch_size": 8, "progress": False, "seed": 0}
    before = {name: value.clone() for name, value in net.named_parameters()}
    result = ss.train(
        model, x, labels=torch.arange(64) % 4, label_dropout=0.1, precision=precision, **options
    )
    assert all(map(math.isfinite, result.losses))
    assert all(not torch.equal(before[name], value) for name, value in net.named_parameters())


@pytest.mark.slow
def test_compiles() -> None:
    """Traced as one graph, forward and backward."""
    torch.manual_seed(0)
    net = perturbed(SongUNet(**SMALL | {"channel_mult": (1,)}, **NCSNPP, classes=4)).eval()
    x, c, label = torch.randn(2, 2, 8, 8), torch.rand(2), torch.tensor([0, 4])
    traced = torch.compile(net, fullgraph=True, backend="aot_eager")
    weights, results = list(net.parameters()), []
    for function in (traced, net):
        y = function(x, c, label)
        results.append([y, *torch.autograd.grad(y.square().sum(), weights)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_attention_has_a_finite_gradient_in_bfloat16() -> None:
    torch.manual_seed(0)
    block = blocks.Block(blocks.SONG, 8, 8, 4, 0.0, (1, 1), attend=True)
    weights = [*block.norm2.parameters(), *block.qkv.parameters()]
    h, results = torch.randn(4, 8, 8, 8), []
    for function in (torch.compile(block.attention), block.attention):
        with inductor(), torch.autocast("cpu", torch.bfloat16):
            y = function(h)
        with inductor():
            results.append(torch.autograd.grad(y.float().square().mean(), weights))
    for compiled, eager in zip(*results, strict=True):
        assert (compiled - eager).norm() <= 0.1 * eager.norm() + 1e-6


def test_a_checkpoint_brings_the_network_back(net: nn.Module, tmp_path: Path) -> None:
    ss.save(tmp_path / "m.safetensors", ss.ScoreModel(net, ss.EDMSDE(), sigma_data=0.5))
    again = ss.load(tmp_path / "m.safetensors")
    x, c = torch.randn(2, 2, 8, 8), torch.rand(2)
    assert torch.equal(again.net.eval()(x, c, label_for(net, 2)), net(x, c, label_for(net, 2)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"img_resolution": 9},
        {"in_channels": 0},
        {"out_channels": 0},
        {"classes": 0},
        {"augment_dim": -1},
        {"model_channels": 6},
        {"model_channels": 132},
        {"channel_mult": ()},
        {"channel_mult": (1, 0)},
        {"num_blocks": 0},
        {"attn_resolutions": (0,)},
        {"dropout": 1.0},
        {"channel_mult_emb": 0},
    ],
)
@pytest.mark.parametrize("kind", [SongUNet, DhariwalUNet])
def test_arguments_out_of_range(kind: type[nn.Module], arguments: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=r"expected .*; got"):
        kind(**SMALL | arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embedding_type", "sines"),
        ("encoder_type", "none"),
        ("decoder_type", "residual"),
        ("resample_filter", (1, 2, 1)),
    ],
)
def test_unknown_types(name: str, value: Any) -> None:
    with pytest.raises(IncompatibleError, match=name):
        SongUNet(**SMALL, **{name: value})


def test_wrong_calls() -> None:
    net, c = SongUNet(**SMALL, augment_dim=3), torch.rand(2)
    for x in (torch.randn(2, 3, 8, 8), torch.randn(2, 2, 8, 7), torch.randn(2, 2, 8)):
        with pytest.raises(ShapeError, match="multiples of 2"):
            net(x, c)
    x = torch.randn(2, 2, 8, 8)
    with pytest.raises(ShapeError, match="time input"):
        net(x, c[:1])
    with pytest.raises(ShapeError, match="augment"):
        net(x, c, augment=torch.zeros(2, 4))
    with pytest.raises(ShapeError, match="augment_dim is 0"):
        SongUNet(**SMALL)(x, c, augment=torch.zeros(2, 4))
