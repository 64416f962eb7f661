"""ADM: the released networks' tensors, its parts by formulas of their own, and training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.interop.guided_diffusion import CONFIGURATIONS, flags_of, network_of
from sdescore.nets.adm import AttentionBlock, Resample, ResBlock, level_embedding
from tests.helpers import official

# Of the released code, built with the flags of its model card.
TABLE = official.facts("guided_diffusion")
# Dhariwal & Nichol 2021, table 4 and appendix I, in millions.
MILLIONS = {"imagenet-64-cond": 296, "imagenet-128-cond": 422, "imagenet-256-cond": 554}
F64 = torch.float64


def small(**options: Any) -> ss.nets.ADM:
    torch.manual_seed(0)
    arguments = {"size": 16, "width": 32, "multipliers": (1, 2), "blocks": 1, "attention": (8,)}
    net = ss.nets.ADM(**{**arguments, **options})
    for p in net.parameters():  # the last layers are zero when made
        nn.init.normal_(p, std=0.1)
    return net.eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_tensors_of_the_released_networks(name: str) -> None:
    with torch.device("meta"):
        net = network_of(flags_of(name))
    official.check(official.rows(net), TABLE[name]["table"])
    millions = round(sum(p.numel() for p in net.parameters()) / 1e6)
    assert millions == MILLIONS.get(name, millions)


def test_the_embedding_is_cosines_then_sines() -> None:
    found = level_embedding(torch.tensor([7.0]), 6)[0].tolist()
    rates = [1.0, 10000 ** (-1 / 3), 10000 ** (-2 / 3)]
    expected = [math.cos(7 * r) for r in rates] + [math.sin(7 * r) for r in rates]
    assert found == pytest.approx(expected, abs=1e-5)
    assert level_embedding(torch.tensor([7.0]), 7).shape == (1, 7)


@pytest.mark.parametrize("new_order", [False, True])
def test_attention_head_by_head(new_order: bool) -> None:
    """softmax(q·k/√c) v for each head and pixel, in loops."""
    heads, channels, x = 2, 32, noise(1, 32, 2, 3)
    block = AttentionBlock(channels, heads, new_order).double()
    for p in block.parameters():
        nn.init.normal_(p, std=0.5)
    each, flat = channels // heads, x[0].flatten(1)
    groups = flat.reshape(32, -1)  # a group for each channel
    normed = (groups - groups.mean(1, keepdim=True)) / (
        groups.var(1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    normed = normed * block.norm.weight[:, None] + block.norm.bias[:, None]
    y = block.qkv.weight[:, :, 0] @ normed + block.qkv.bias[:, None]
    mixed = torch.zeros(channels, 6, dtype=F64)
    for head in range(heads):
        if new_order:
            q, k, v = (y[part * channels + head * each :][:each] for part in range(3))
        else:
            q, k, v = (y[(head * 3 + part) * each :][:each] for part in range(3))
        for pixel in range(6):
            weights = torch.exp(q[:, pixel] @ k / math.sqrt(each))
            mixed[head * each :][:each, pixel] = v @ (weights / weights.sum())
    expected = flat + block.proj_out.weight[:, :, 0] @ mixed + block.proj_out.bias[:, None]
    found = block(x, torch.zeros(1, 1))
    assert torch.allclose(found[0].flatten(1), expected, atol=1e-10)


@pytest.mark.parametrize("resample", [1, 2, 0.5])
@pytest.mark.parametrize("shift", [True, False])
def test_a_block_is_its_formula(resample: float, shift: bool) -> None:
    """AdaGN, their eq. 3; both branches change the size before the convolution."""
    x, e = noise(2, 32, 4, 4), noise(2, 8, seed=1)
    block = ResBlock(32, 64, 8, 0.0, shift, resample).double()
    for p in block.parameters():
        nn.init.normal_(p, std=0.3)

    def sized(h: Tensor) -> Tensor:
        if resample == 1:
            return h
        if resample == 2:
            return h.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4

    def silu(h: Tensor) -> Tensor:
        return h / (1 + torch.exp(-h))

    h = block.in_layers[2](sized(silu(block.in_layers[0](x))))
    numbers = (silu(e) @ block.emb_layers[1].weight.T + block.emb_layers[1].bias)[:, :, None, None]
    norm, last = block.out_layers[0], block.out_layers[3]
    u = norm(h) * (1 + numbers[:, :64]) + numbers[:, 64:] if shift else norm(h + numbers)
    expected = last(silu(u)) + block.skip_connection(sized(x))
    assert torch.allclose(block(x, e), expected, atol=1e-10)


def test_convolutions_that_change_the_size() -> None:
    h = noise(1, 4, 6, 6)
    up, down = Resample(4, True, True).double(), Resample(4, False, True).double()
    assert up(h).shape == (1, 4, 12, 12) and down(h).shape == (1, 4, 3, 3)
    whole = nn.functional.conv2d(h, down.op.weight, down.op.bias, padding=1)
    assert torch.allclose(down(h), whole[..., ::2, ::2], atol=1e-12)


def test_a_class_and_a_learned_variance() -> None:
    net, x, c = small(classes=5, learned_variance=True), noise(2, 3, 16, 16).float(), [3.0, 7.0]
    levels, label = torch.tensor(c), torch.tensor([4, 0])
    with torch.no_grad():
        y, whole = net(x, levels, label), net.full(x, levels, label)
        other = net(x, levels, label.flip(0))
    assert whole.shape == (2, 6, 16, 16) and torch.equal(y, whole[:, :3])
    assert not torch.allclose(other, y, atol=1e-3)
    for bad in (torch.tensor([6, 0]), torch.tensor([-1, 0]), torch.tensor([0])):
        with pytest.raises(ss.errors.ShapeError, match="expected"):
            net(x, levels, bad)
    with pytest.raises(ss.errors.ShapeError, match="without classes="):
        small()(x, levels, label)
    with torch.no_grad():  # the label 5, or none: no embedding is added
        unlabelled, mixed = net(x, levels), net(x, levels, torch.tensor([5, 0]))
        net.label_emb.weight.zero_()
        plain = net(x, levels, label)
    torch.testing.assert_close(unlabelled, plain)
    torch.testing.assert_close(mixed, torch.stack([plain[0], y[1]]))
    with pytest.raises(ss.errors.ShapeError, match="multiples of 2"):
        net(x[..., :15], levels, label)


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_it_trains(precision: str | None, tmp_path: Path) -> None:
    path, data = tmp_path / "adm.safetensors", noise(16, 3, 16, 16).float()
    net = small(classes=3, dropout=0.1, resample_blocks=False)
    model = ss.ScoreModel(net, ss.VPSDE(), prediction="epsilon")
    options: dict[str, Any] = {"steps": 3, "batch_size": 4, "progress": False, "path": path}
    ss.train(model, data, labels=torch.arange(16) % 3, precision=precision, **options)
    again = ss.load(path)  # built by its config alone
    assert type(again.net) is ss.nets.ADM and again.net.config == net.config


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"width": 40}, "channels in multiples of 32"),
        ({"multipliers": (0.5, 1)}, "channels in multiples of 32"),
        ({"blocks": 0}, "blocks"),
        ({"dropout": 1.0}, "dropout"),
        ({"classes": 0}, "classes"),
        ({"attention": (0,)}, "attention"),
    ],
)
def test_what_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ss.errors.ParameterError, match=match):
        small(**options)


def test_second_derivatives_exist() -> None:
    net, x, c = small().double(), noise(1, 3, 16, 16), torch.tensor([3.0])
    x.requires_grad_()
    (first,) = torch.autograd.grad(net(x, c).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert second.isfinite().all() and second.abs().max() > 0
