"""The blocks of NCSN++ against independent formulas in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdescore.nets import blocks_ncsnpp as blocks
from sdescore.nets import fir, layers_ncsnpp
from tests.helpers.nets import inductor, perturbed

f = nn.functional
TAPS = [[1.0, 3.0, 3.0, 1.0], [1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0, 7.0]]


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def upfirdn(x: Tensor, taps: list[float], up: int, down: int, start: int, length: int) -> Tensor:
    """Zeros between the pixels, a full convolution, every ``down``-th value, along both axes."""
    signal = pytest.importorskip("scipy.signal")
    kernel = up * np.array(taps) / sum(taps)
    y = x.numpy()
    for axis in (2, 3):
        full = signal.upfirdn(kernel, y, up=up, down=1, axis=axis)
        margin = [(0, 0)] * 4
        margin[axis] = (len(taps), len(taps))  # zeros, where the full convolution has ended
        full = np.pad(full, margin)
        first = start + len(taps)
        y = np.take(full, range(first, first + down * length, down), axis=axis)
    return torch.from_numpy(y)


@pytest.mark.parametrize("taps", TAPS, ids=str)
def test_fir_resampling_is_a_convolution(taps: list[float]) -> None:
    torch.manual_seed(0)
    x, n = double(2, 3, 8, 8), len(taps)
    before = (n - 1) // 2  # zeros before an image: half of what keeps its size, rounded up
    down = upfirdn(x, taps, 1, 2, n - 1 - before, 4)
    torch.testing.assert_close(fir.fir_down(x, taps), down)
    up = upfirdn(x, taps, 2, 1, n - 2 - before, 16)
    torch.testing.assert_close(fir.fir_up(x, taps), up)
    beyond = upfirdn(x, taps, 2, 1, n - 3 - before, 18)
    torch.testing.assert_close(fir.fir_up(x, taps, beyond=1), beyond)


def test_fir_up_is_four_times_the_transpose_of_fir_down() -> None:
    torch.manual_seed(0)
    x, y = double(1, 2, 8, 8), double(1, 2, 4, 4)
    one = (fir.fir_down(x, TAPS[0]) * y).sum()
    torch.testing.assert_close(4 * one, (x * fir.fir_up(y, TAPS[0])).sum())


def test_fir_keeps_a_constant_inside_the_image() -> None:
    x = torch.full((1, 1, 8, 8), 3.0)
    for y in (fir.fir_down(x, TAPS[0]), fir.fir_up(x, TAPS[0])):
        torch.testing.assert_close(y[..., 1:-1, 1:-1], torch.full_like(y, 3.0)[..., 1:-1, 1:-1])


@pytest.mark.parametrize("taps", TAPS, ids=str)
def test_a_convolution_sees_the_filtered_image_without_a_border(taps: list[float]) -> None:
    """On an image inside a wide margin of zeros the order of filter and margin is of no account."""
    torch.manual_seed(0)
    x = f.pad(double(1, 2, 8, 8), (8, 8, 8, 8))
    for direction, filtered in (("up", fir.fir_up(x, taps)), ("down", x)):
        layer = blocks.Resample(direction, taps, 2, 3).double()
        weight, bias = layer.Conv2d_0.weight, layer.Conv2d_0.bias
        with torch.no_grad():
            bias.copy_(double(3))
        if direction == "up":
            expected = f.conv2d(filtered, weight, bias, padding=1)
        else:
            every = f.conv2d(x, weight, bias, padding=1)  # at every pixel, then filtered
            expected = fir.fir_down(every - bias[:, None, None], taps) + bias[:, None, None]
        torch.testing.assert_close(layer(x)[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])


def test_without_fir_pixels_are_repeated_or_averaged() -> None:
    x = double(2, 3, 4, 6)
    up = blocks.Resample("up", None)(x)
    assert torch.equal(up, x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    down = blocks.Resample("down", None)(x)
    torch.testing.assert_close(down, x.reshape(2, 3, 2, 2, 3, 2).mean(dim=(3, 5)))


def group_norm(x: Tensor, layer: nn.GroupNorm) -> Tensor:
    shaped = x.reshape(len(x), layer.num_groups, -1)
    mean = shaped.mean(dim=2, keepdim=True)
    variance = (shaped - mean).square().mean(dim=2, keepdim=True)
    normed = ((shaped - mean) / torch.sqrt(variance + 1e-6)).reshape(x.shape)
    return normed * layer.weight[:, None, None] + layer.bias[:, None, None]


def swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


@pytest.mark.parametrize("rescale", [False, True])
def test_attention_is_its_formula(rescale: bool) -> None:
    torch.manual_seed(0)
    layer = perturbed(blocks.Attention(8, 0.0, None, rescale)).double()
    x = double(2, 8, 3, 5)
    h = group_norm(x, layer.GroupNorm_0)

    def nin(part: layers_ncsnpp.NIN, y: Tensor) -> Tensor:
        return torch.einsum("bihw,io->bohw", y, part.W) + part.b[:, None, None]

    q, k, v = nin(layer.NIN_0, h), nin(layer.NIN_1, h), nin(layer.NIN_2, h)
    weight = torch.exp(torch.einsum("bchw,bcij->bhwij", q, k) / math.sqrt(8))
    weight = weight / weight.sum(dim=(3, 4), keepdim=True)
    y = x + nin(layer.NIN_3, torch.einsum("bhwij,bcij->bchw", weight, v))
    torch.testing.assert_close(layer(x), y / math.sqrt(2) if rescale else y)


@pytest.mark.parametrize("kind", ["ddpm", "biggan"])
@pytest.mark.parametrize("outputs", [8, 12])
def test_a_residual_block_is_its_formula(kind: str, outputs: int) -> None:
    torch.manual_seed(0)
    block = blocks.ResidualBlock(
        kind,
        8,
        outputs,
        16,
        act=nn.SiLU(),
        dropout=0.5,
        scale=0.0,
        groups=None,
        skip_rescale=True,
        resample=blocks.Resample("down", None) if kind == "biggan" else None,
    )
    block = perturbed(block).double().eval()
    x, vector = double(2, 8, 4, 4), double(2, 16)

    def lower(y: Tensor) -> Tensor:
        return y.unfold(2, 2, 2).unfold(3, 2, 2).mean(dim=(4, 5)) if kind == "biggan" else y

    h = (
        f.conv2d(lower(swish(group_norm(x, block.GroupNorm_0))), block.Conv_0.weight, padding=1)
        + (block.Conv_0.bias + swish(vector) @ block.Dense_0.weight.T + block.Dense_0.bias)[
            :, :, None, None
        ]
    )
    h = f.conv2d(
        swish(group_norm(h, block.GroupNorm_1)), block.Conv_1.weight, block.Conv_1.bias, padding=1
    )
    skip = x
    if kind == "biggan":
        skip = f.conv2d(lower(x), block.Conv_2.weight, block.Conv_2.bias)
    elif outputs != 8:
        skip = torch.einsum("bihw,io->bohw", x, block.NIN_0.W) + block.NIN_0.b[:, None, None]
    torch.testing.assert_close(block(x, vector), (skip + h) / math.sqrt(2))


def test_features_of_the_time_are_their_formulas() -> None:
    c = torch.tensor([0.5, 999.0], dtype=torch.float64)
    y = layers_ncsnpp.positional_features(c, 8)
    for i, level in enumerate([0.5, 999.0]):
        for k in range(4):
            angle = level * 10_000 ** (-k / 3)
            assert y[i, k].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert y[i, 4 + k].item() == pytest.approx(math.cos(angle), abs=1e-12)
    fourier = layers_ncsnpp.FourierFeatures(4, 16.0).double()
    angle = 2 * math.pi * c[:, None] * fourier.W
    expected = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
    torch.testing.assert_close(fourier(c), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0])
def test_weights_are_drawn_with_the_variance_of_their_fans(scale: float) -> None:
    torch.manual_seed(0)
    weight = layers_ncsnpp.convolution(64, 128, scale=scale).weight
    variance = max(scale, 1e-10) / (9 * 96)
    assert weight.double().square().mean().item() == pytest.approx(variance, rel=0.02)
    assert weight.abs().max().item() <= math.sqrt(3 * variance) * (1 + 1e-6)


@pytest.mark.slow
def test_compiled_attention_has_a_finite_gradient_in_bfloat16() -> None:
    torch.manual_seed(0)
    block, x = blocks.Attention(8, 1.0, 2, False), torch.randn(4, 8, 8, 8)
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.3)
    results = []
    for function in (torch.compile(block), block):
        with inductor(), torch.autocast("cpu", torch.bfloat16):
            y = function(x)
        with inductor():
            results.append(torch.autograd.grad(y.float().square().mean(), list(block.parameters())))
    for compiled, eager in zip(*results, strict=True):
        assert (compiled - eager).norm() <= 0.1 * eager.norm() + 1e-6
