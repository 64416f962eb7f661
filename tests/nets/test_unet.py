"""The U-Net: its blocks by their formulas, and a real fit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from sdescore.errors import ParameterError
from sdescore.nets import MLP, UNet
from tests.helpers.nets import SMALL, perturbed


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (7, 7), (5, 9), (1, 1), (2, 3)])
def test_unet_takes_any_size(size: tuple[int, int]) -> None:
    x = torch.randn(2, 2, *size)
    net = perturbed(UNet(2, width=8, multipliers=(1, 2, 2), blocks=1, attention=(2,)))
    y = net(x, torch.rand(2))
    assert y.shape == x.shape and bool(y.isfinite().all())


@pytest.mark.parametrize("width", [1, 3, 7, 30, 36])
def test_unet_takes_any_width(width: int) -> None:
    x = torch.randn(2, 1, 4, 4)
    assert (
        UNet(1, width=width, multipliers=(2, 1), attention=(0,))(x, torch.rand(2)).shape == x.shape
    )


def test_every_block_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    net = UNet(1, width=8, multipliers=(1,), blocks=2, attention=(0,))
    h, vector = torch.randn(2, 8, 5, 5), torch.randn(2, 16)
    for block in (*net.encoder, net.middle):
        assert torch.equal(block(h, vector), h)
    mlp = MLP(2, hidden=16, embedding_dim=16)
    for block in mlp.blocks:
        assert torch.equal(
            block(h[:, 0, 0, :1].expand(2, 16), vector), h[:, 0, 0, :1].expand(2, 16)
        )


def test_blocks_are_the_documented_formulas() -> None:
    torch.manual_seed(0)
    f = nn.functional
    vector = torch.randn(2, 16)
    b = perturbed(UNet(1, width=8, multipliers=(1,), blocks=1)).middle
    h = torch.randn(2, 8, 5, 5)
    film = f.linear(vector, b.film[0].weight, b.film[0].bias)
    norm_1, _, conv_1, norm_2 = b.enter
    conv_2 = b.leave[-1]
    u = f.silu(f.group_norm(h, 2, norm_1.weight, norm_1.bias))
    u = f.conv2d(u, conv_1.weight, conv_1.bias, padding=1)
    u = f.group_norm(u, 2, norm_2.weight, norm_2.bias)
    u = torch.einsum("bc,bchw->bchw", 1 + film[:, :8], u) + film[:, 8:, None, None]
    expected = h + f.conv2d(f.silu(u), conv_2.weight, conv_2.bias, padding=1)
    torch.testing.assert_close(b(h, vector), expected)

    b = perturbed(MLP(2, hidden=8, embedding_dim=16)).blocks[0]
    h = torch.randn(2, 8)
    film = f.linear(vector, b.film.weight, b.film.bias)
    u = f.layer_norm(h, (8,), b.norm.weight, b.norm.bias)
    u = (1 + film[:, :8]) * (u @ b.inner.weight.T + b.inner.bias) + film[:, 8:]
    torch.testing.assert_close(b(h, vector), h + f.silu(u) @ b.outer.weight.T + b.outer.bias)


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    layer = perturbed(
        UNet(1, width=64, multipliers=(1,), blocks=1, attention=(0,))
    ).middle.attention
    h = torch.randn(2, 64, 3, 5)
    w, pixels = layer.qkv.weight[:, :, 0, 0], layer.norm(h).flatten(2).transpose(1, 2)
    q, k, v = (pixels @ w.T + layer.qkv.bias).chunk(3, dim=-1)
    split = [y.reshape(2, 15, 2, 32).transpose(1, 2) for y in (q, k, v)]  # two heads of 32
    y = nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).reshape(2, 15, 64)
    y = y @ layer.out.weight[:, :, 0, 0].T + layer.out.bias
    torch.testing.assert_close(
        layer(h), h + y.transpose(1, 2).reshape(h.shape), rtol=1e-4, atol=1e-5
    )


def test_each_level_halves_the_resolution_rounding_up() -> None:
    net = UNet(1, width=8, multipliers=(1, 2, 3), blocks=2)
    seen: list[tuple[int, ...]] = []
    for block in net.encoder:
        block.register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape[1:])))
    net(torch.randn(1, 1, 7, 10), torch.rand(1))
    assert seen == [(8, 7, 10)] * 2 + [(16, 4, 5)] * 2 + [(24, 2, 3)] * 2


@pytest.mark.parametrize("attention", [(), (0,)])
def test_unet_sees_the_whole_image_only_through_its_lower_levels(
    attention: tuple[int, ...],
) -> None:
    # 25 pixels apart: out of reach for the one-level network's 3×3 convolutions, unless it attends.
    # GroupNorm does carry statistics across the image, so it is switched off for this question.
    torch.manual_seed(0)
    net = perturbed(UNet(1, width=8, multipliers=(1,), blocks=1, attention=attention))
    for module in list(net.modules()):
        for child, value in list(module.named_children()):
            if isinstance(value, nn.GroupNorm):
                setattr(module, child, nn.Identity())
    x = torch.randn(1, 1, 1, 26, requires_grad=True)
    net(x, torch.rand(1))[..., 0].sum().backward()
    assert x.grad is not None
    assert bool(x.grad[..., -1].any()) == bool(attention)


@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": 0},
        {"width": 0},
        {"width": 8.0},
        {"blocks": True},
        {"multipliers": ()},
        {"multipliers": (1, 0)},
        {"attention": (2,)},
        {"attention": (-1,)},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"classes": 0},
        {"embedding_dim": 7},
        {"embedding_dim": 0},
        {"embedding_scale": 0.0},
        {"embedding_scale": math.inf},
    ],
)
def test_unet_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=r"expected .*; got"):
        UNet(**{"channels": 1, **SMALL, **arguments})


# ---------------------------------------------------------------- a real fit


@pytest.mark.slow
def test_unet_learns_to_denoise_digits() -> None:
    """One noise level, sigma = 0.5, real 8×8 digits: the loss against two exact references.

    Returning 0 for the noise scores exactly E‖ε‖²/D = 1; the best affine predictor of each pixel
    from itself scores var / (var + sigma²), averaged over the pixels.
    A convolutional network must use the neighbours to beat the second by a wide margin.
    """
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    data = torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1
    sigma = 0.5
    net = UNet(1, width=16, multipliers=(1, 2), blocks=1)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(120):
        x0 = data[torch.randint(1400, (64,))]
        noise = torch.randn_like(x0)
        loss = (net(x0 + sigma * noise, torch.full((64,), sigma)) - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    held_out = data[1400:]
    noise = torch.randn_like(held_out)
    with torch.no_grad():
        c = torch.full((len(held_out),), sigma)
        fitted = (net(held_out + sigma * noise, c) - noise).square().mean().item()
    variance = data.var(dim=0)
    pixelwise = (variance / (variance + sigma**2)).mean().item()
    assert pixelwise < 1.0
    assert fitted < 0.7 * pixelwise
