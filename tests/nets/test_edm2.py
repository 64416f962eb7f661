"""EDM2's network: names and shapes of the published code, the function from the paper's figure.

tables/edm2.json holds facts of NVlabs/edm2: for each network its arguments and the table of its
tensors.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ShapeError
from sdescore.nets import EDM2UNet
from sdescore.nets import blocks_edm2 as blocks
from tests.helpers import edm_nets, official
from tests.helpers.nets import inductor, perturbed

TABLE = official.facts("edm2")
SMALL = edm_nets.SMALL | {"model_channels": 32}
NETS: dict[str, dict[str, Any]] = {
    "classes": SMALL | {"classes": 4},
    "none": SMALL | {"channel_mult_noise": 2, "channel_mult_emb": 3, "attn_resolutions": (8, 4)},
}


@pytest.fixture(params=NETS)
def net(request: pytest.FixtureRequest) -> EDM2UNet:
    torch.manual_seed(0)
    return perturbed(EDM2UNet(**NETS[request.param], logvar_channels=6)).eval()  # type: ignore[return-value]


def label_for(net: EDM2UNet, n: int) -> Tensor | None:
    return torch.arange(n) % 4 if net.config["classes"] else None


# ---------------------------------------------------------------- the published names


@pytest.mark.parametrize("name", TABLE)
def test_names_shapes_and_their_order_are_the_published_ones(name: str) -> None:
    row = TABLE[name]
    with torch.device("meta"):
        net = EDM2UNet(
            64, row["img_channels"], classes=row["label_dim"] or None,
            model_channels=row["model_channels"], logvar_channels=128,
        )  # fmt: skip
    found = official.rows(net)
    named = [r if "logvar" in r.name else r._replace(name=f"unet.{r.name}") for r in found]
    official.check(named, row["table"])


def test_counts_are_those_of_the_paper() -> None:
    """Table 2 of the paper, in millions."""
    sizes = {"xs": 125, "s": 280, "m": 498, "l": 777, "xl": 1119, "xxl": 1523}
    for size, millions in sizes.items():
        assert round(TABLE[f"edm2-img512-{size}"]["parameters"] / 1e6) == millions


# ---------------------------------------------------------------- training


def test_training_normalises_the_weights_and_keeps_the_function(net: EDM2UNet) -> None:
    x, c, label = torch.randn(2, 2, 8, 8), torch.rand(2), label_for(net, 2)
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim:
                p.mul_(3.0)
    before = {name: p.clone() for name, p in net.named_parameters()}
    expected = net(x, c, label)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    y = net.train()(x, c, label)
    torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)
    for name, p in net.named_parameters():
        if p.ndim and "logvar" not in name:
            magnitude = p.detach().flatten(1).square().mean(1).sqrt()
            torch.testing.assert_close(magnitude, torch.ones(len(p)), rtol=1e-3, atol=0)
    # The output does not depend on a weight's length: its gradient is orthogonal to it.
    y.square().sum().backward()
    for p in net.parameters():
        if p.ndim and p.grad is not None:
            inner = (p * p.grad).flatten(1).sum(1).abs()
            assert bool((inner <= 1e-3 * p.grad.flatten(1).norm(dim=1) * p[0].numel() ** 0.5).all())


def test_two_calls_may_come_before_one_gradient(net: EDM2UNet) -> None:
    """Each normalises the weights. The gradient of a sum is the sum of the gradients."""
    net.train()
    x, c, label = torch.randn(2, 2, 8, 8), torch.rand(2), label_for(net, 2)
    net(x, c, label)
    weights = [p for name, p in net.named_parameters() if "logvar" not in name]
    parts = [torch.autograd.grad(net(k * x, c, label).sum(), weights) for k in (1, 2)]
    both = torch.autograd.grad((net(x, c, label) + net(2 * x, c, label)).sum(), weights)
    for a, b, total in zip(*parts, both, strict=True):
        torch.testing.assert_close(a + b, total, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- the function


class Written:
    """The network's function of its tensors, written from figure 21 and appendix B of the paper."""

    def __init__(self, net: EDM2UNet) -> None:
        self.state, self.config = net.state_dict(), net.config

    def conv(self, name: str, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        w = self.state[name + ".weight"]
        rms = w.flatten(1).square().mean(1).sqrt()
        w = w / (rms + 1e-4).reshape(-1, *(1,) * (w.ndim - 1)) * gain / math.sqrt(w[0].numel())
        return x @ w.T if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[-1] // 2)

    def block(self, name: str, x: Tensor, e: Tensor, decoder: bool) -> Tensor:
        size = math.hypot(0.7, 0.3)
        if name.endswith("down"):
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
        if name.endswith("up"):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        skip = name + ".conv_skip.weight" in self.state
        if not decoder:
            x = self.conv(name + ".conv_skip", x) if skip else x
            x = x / (x.square().mean(1, keepdim=True).sqrt() + 1e-4)
        y = self.conv(name + ".conv_res0", F.silu(x) / 0.596)
        y = (
            y
            * (1 + self.conv(name + ".emb_linear", e, self.state[name + ".emb_gain"]))[
                ..., None, None
            ]
        )
        y = self.conv(name + ".conv_res1", F.silu(y) / 0.596)
        if decoder and skip:
            x = self.conv(name + ".conv_skip", x)
        x = (0.7 * x + 0.3 * y) / size
        if name + ".attn_qkv.weight" in self.state:
            n, channels, height, width = x.shape
            heads = channels // 64
            y = self.conv(name + ".attn_qkv", x).reshape(n, heads, -1, 3, height * width)
            y = y / (y.square().mean(2, keepdim=True).sqrt() + 1e-4)
            q, k, v = (y[:, :, :, i].mT for i in range(3))  # channels: heads, channels, q k v
            y = F.scaled_dot_product_attention(q, k, v).mT.reshape(n, channels, height, width)
            x = (0.7 * x + 0.3 * self.conv(name + ".attn_proj", y)) / size
        return x.clamp(-256, 256)

    def __call__(self, x: Tensor, c: Tensor, label: Tensor | None) -> Tensor:
        state = self.state
        angle = c[:, None] * state["emb_fourier.freqs"] + state["emb_fourier.phases"]
        e = self.conv("emb_noise", math.sqrt(2) * angle.cos())
        if label is not None:
            hot = F.one_hot(label, 4).to(x.dtype) * math.sqrt(4)
            e = (e + self.conv("emb_label", hot)) / math.sqrt(2)
        e = F.silu(e) / 0.596
        x, skips = torch.cat([x, torch.ones_like(x[:, :1])], 1), []
        for name in ("8x8_conv", "8x8_block0", "4x4_down", "4x4_block0"):
            conv, name = "conv" in name, "enc." + name
            x = self.conv(name, x) if conv else self.block(name, x, e, False)
            skips.append(x)
        parts = ("4x4_in0", "4x4_in1", "4x4_block0", "4x4_block1", "8x8_up", "8x8_block0")
        for name in (*parts, "8x8_block1"):
            if "block" in name:
                n, m = x.shape[1], skips[-1].shape[1]
                scale = math.sqrt((n + m) / 2)
                x = torch.cat([x * scale / math.sqrt(n), skips.pop() * scale / math.sqrt(m)], 1)
            x = self.block("dec." + name, x, e, True)
        return self.conv("out_conv", x, state["out_gain"])


@torch.no_grad()
@pytest.mark.parametrize("channels", [32, 128])
def test_the_function_is_the_papers(channels: int) -> None:
    for options in NETS.values():
        torch.manual_seed(0)
        net = perturbed(EDM2UNet(**options | {"model_channels": channels, "channel_mult": (1, 1)}))
        net = net.double().eval()
        x, c = torch.randn(4, 2, 8, 8).double(), torch.linspace(-1, 1, 4).double()
        label = label_for(net, 4)  # type: ignore[arg-type]
        torch.testing.assert_close(net(x, c, label), Written(net)(x, c, label))  # type: ignore[arg-type]


@torch.no_grad()
def test_activations_end_at_256() -> None:
    torch.manual_seed(0)
    block = blocks.MPBlock(8, 8, 4, 0.0, decoder=True)
    x = torch.tensor([-3e3, 3e3]).reshape(2, 1, 1, 1).expand(2, 8, 4, 4)
    y = block(x, torch.zeros(2, 4))
    assert y.min() == -256 and y.max() == 256


@torch.no_grad()
def test_log_variance_is_its_formula(net: EDM2UNet) -> None:
    c, state = torch.linspace(-1, 1, 3), net.state_dict()
    w = state["logvar_linear.weight"]
    w = w / (w.square().mean().sqrt() + 1e-4) / math.sqrt(6)
    angle = c[:, None] * state["logvar_fourier.freqs"] + state["logvar_fourier.phases"]
    torch.testing.assert_close(net.log_variance(c), math.sqrt(2) * angle.cos() @ w[0])
    with pytest.raises(IncompatibleError, match="logvar_channels"):
        EDM2UNet(**SMALL).log_variance(c)


# ---------------------------------------------------------------- as a network of this package


def test_rebuilds_from_json_config(net: EDM2UNet, tmp_path: Path) -> None:
    config = json.loads(json.dumps(net.config))
    assert config == net.config
    ss.save(tmp_path / "m.safetensors", ss.ScoreModel(net, ss.EDMSDE(), sigma_data=0.5))
    again = ss.load(tmp_path / "m.safetensors").net.eval()
    x, c, label = torch.randn(2, 2, 8, 8), torch.rand(2), label_for(net, 2)
    assert torch.equal(again(x, c, label), net(x, c, label))


def test_a_sample_does_not_depend_on_its_companions_and_any_size_serves(net: EDM2UNet) -> None:
    x, c, label = torch.randn(3, 2, 4, 10), torch.rand(3), label_for(net, 3)
    together = net(x, c, label)
    alone = net(x[1:2], c[1:2], None if label is None else label[1:2])
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-5)
    assert net(x[:0], c[:0], None if label is None else label[:0]).shape == (0, 2, 4, 10)


def test_no_label_is_the_index_classes_and_adds_nothing(net: EDM2UNet) -> None:
    x, c = torch.randn(2, 2, 8, 8), torch.rand(2)
    if not net.config["classes"]:
        with pytest.raises(IncompatibleError, match="classes=None"):
            net(x, c, torch.zeros(2, dtype=torch.int64))
        return
    expected = net(x, c)
    assert torch.equal(net(x, c, torch.full((2,), 4)), expected)
    assert not torch.allclose(net(x, c, torch.full((2,), 3)), expected, atol=1e-4)
    with torch.no_grad():
        net.emb_label.weight.mul_(-1.0)
    assert torch.equal(net(x, c), expected)


def test_second_derivatives_exist_and_every_parameter_gets_gradient(net: EDM2UNet) -> None:
    x, label = torch.randn(4, 2, 8, 8, requires_grad=True), label_for(net, 4)
    c = torch.rand(4)
    (first,) = torch.autograd.grad(net(x, c, label).sum(), x, create_graph=True)
    (first.square().sum() + net.log_variance(c).sum()).backward()
    assert bool(x.grad.isfinite().all()) and bool(x.grad.any())
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name


@pytest.mark.slow
def test_attention_compiles_to_the_same_function() -> None:
    torch.manual_seed(0)
    block = perturbed(blocks.MPBlock(64, 64, 4, 0.0, decoder=False, attend=True)).eval()
    h = torch.randn(2, 64, 4, 4)
    with inductor(), torch.no_grad():
        found = torch.compile(block.attention)(h)
    torch.testing.assert_close(found, block.attention(h), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"img_resolution": 9},
        {"in_channels": 0},
        {"classes": 0},
        {"model_channels": 0},
        {"channel_mult": ()},
        {"channel_mult_noise": 0},
        {"channel_mult_emb": 0},
        {"num_blocks": 0},
        {"attn_resolutions": (0,)},
        {"dropout": 1.0},
        {"logvar_channels": 0},
        {"model_channels": 129, "channel_mult": (1,)},
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=r"expected .*; got"):
        EDM2UNet(**SMALL | arguments)


def test_wrong_calls() -> None:
    net, c, x = EDM2UNet(**SMALL), torch.rand(2), torch.randn(2, 2, 8, 8)
    for bad in (torch.randn(2, 3, 8, 8), torch.randn(2, 2, 8, 7), torch.randn(2, 2, 8)):
        with pytest.raises(ShapeError, match="multiples of 2"):
            net(bad, c)
    with pytest.raises(ShapeError, match="time input"):
        net(x, c[:1])
    with pytest.raises(ShapeError, match="dtype"):
        net(x.double(), c)
