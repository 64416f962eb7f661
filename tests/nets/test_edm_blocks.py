"""The blocks of EDM's networks, and what connects them, by their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as f

from sdescore.nets import SongUNet
from sdescore.nets import blocks_edm as blocks
from tests.helpers.edm_nets import NCSNPP, SMALL
from tests.helpers.nets import perturbed


def filtered(x: np.ndarray, taps: tuple[int, ...]) -> np.ndarray:
    """Down-sampling by the sum over taps, one axis after the other, with zeros outside."""
    line, n = np.array(taps) / sum(taps), len(taps) // 2
    for axis in (-2, -1):
        size = x.shape[axis]
        rows = []
        for i in range(size // 2):
            at = [2 * i + k - n + 1 for k in range(2 * n)]
            inside = [(w, j) for w, j in zip(line, at, strict=True) if 0 <= j < size]
            rows.append(sum(w * x.take(j, axis) for w, j in inside))
        x = np.stack(rows, axis)
    return x


@pytest.mark.parametrize("taps", blocks.FILTERS)
def test_down_sampling_is_the_sum_over_taps(taps: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    down = blocks.Resample(False, taps).double()
    np.testing.assert_allclose(down(x).numpy(), filtered(x.numpy(), taps), atol=1e-15)


@pytest.mark.parametrize("taps", blocks.FILTERS)
def test_up_sampling_is_four_times_the_transpose_and_preserves_constants(
    taps: tuple[int, ...],
) -> None:
    down, up = (blocks.Resample(kind, taps).double() for kind in (False, True))
    x, y = torch.randn(2, 3, 6, 8).double(), torch.randn(2, 3, 3, 4).double()
    torch.testing.assert_close((up(y) * x).sum(), 4 * (y * down(x)).sum())
    inside = up(torch.ones(1, 1, 6, 6).double())[..., 2:-2, 2:-2]
    torch.testing.assert_close(inside, torch.ones_like(inside))


@pytest.mark.parametrize("up", [False, True])
def test_the_box_filter_is_the_mean_and_the_copy(up: bool) -> None:
    x = torch.randn(2, 3, 4, 6)
    y = f.interpolate(x, scale_factor=2) if up else f.avg_pool2d(x, 2)
    torch.testing.assert_close(blocks.Resample(up, (1, 1))(x), y)


@pytest.mark.parametrize("taps", blocks.FILTERS)
def test_the_fused_convolution_filters_a_larger_image(taps: tuple[int, ...]) -> None:
    """What it makes of the image with zeros around is filtered, and the rim is cut off."""
    torch.manual_seed(0)
    conv = blocks.ResampledConv(3, 5, 3, up=False, taps=taps, fused=True).double()
    x = torch.randn(2, 3, 6, 8).double()
    wide = f.conv2d(f.pad(x, (4, 4, 4, 4)), conv.weight, conv.bias, padding=1)
    expected = filtered(wide.detach().numpy(), taps)[..., 2:-2, 2:-2]
    np.testing.assert_allclose(conv(x).detach().numpy(), expected, atol=1e-14)


def test_resampling_convolutions_are_the_filter_then_the_convolution() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 8)
    for up in (False, True):
        conv = blocks.ResampledConv(3, 5, 3, up=up, taps=(1, 3, 3, 1))
        y = f.conv2d(blocks.Resample(up, (1, 3, 3, 1))(x), conv.weight, conv.bias, padding=1)
        torch.testing.assert_close(conv(x), y)


def attended(h: Tensor, block: nn.Module, heads: int) -> Tensor:
    """Attention in torch's own kernel; channels run over heads, then channels, then q, k and v."""
    size, channels = h.shape[-2:], h.shape[1]
    qkv = f.conv2d(
        f.group_norm(h, block.norm2.num_groups, *block.norm2.parameters(), eps=block.norm2.eps),
        block.qkv.weight,
        block.qkv.bias,
    )
    qkv = qkv.reshape(len(h), heads, channels // heads, 3, -1).permute(3, 0, 1, 4, 2)
    y = f.scaled_dot_product_attention(*qkv).transpose(2, 3).reshape(len(h), channels, *size)
    return f.conv2d(y, block.proj.weight, block.proj.bias)


def test_song_block_is_its_formula() -> None:
    torch.manual_seed(0)
    block = perturbed(blocks.Block(blocks.SONG, 8, 16, 12, 0.1, (1, 1), attend=True))
    block = block.double().eval()
    x, vector = torch.randn(2, 8, 5, 4).double(), torch.randn(2, 12).double()
    h = f.silu(f.group_norm(x, 2, *block.norm0.parameters(), eps=1e-6))
    h = f.conv2d(h, *block.conv0.parameters(), padding=1)
    h = h + (vector @ block.affine.weight.T + block.affine.bias)[:, :, None, None]
    h = f.silu(f.group_norm(h, 4, *block.norm1.parameters(), eps=1e-6))
    h = f.conv2d(h, *block.conv1.parameters(), padding=1)
    h = (h + f.conv2d(x, *block.skip.parameters())) / math.sqrt(2)
    h = (h + attended(h, block, heads=1)) / math.sqrt(2)
    torch.testing.assert_close(block(x, vector), h)


@pytest.mark.parametrize("channels", [64, 128])
def test_adm_block_is_its_formula(channels: int) -> None:
    torch.manual_seed(0)
    block = perturbed(
        blocks.Block(blocks.ADM, channels, channels, 12, 0.1, (1, 1), down=True, attend=True)
    )
    block = block.double().eval()
    x, vector = torch.randn(2, channels, 6, 4).double(), torch.randn(2, 12).double()
    groups = channels // 4 if channels < 128 else 32
    h = f.silu(f.group_norm(x, groups, *block.norm0.parameters(), eps=1e-5))
    h = f.conv2d(f.avg_pool2d(h, 2), *block.conv0.parameters(), padding=1)
    scale, shift = (vector @ block.affine.weight.T + block.affine.bias)[:, :, None, None].chunk(
        2, 1
    )
    h = (1 + scale) * f.group_norm(h, groups, *block.norm1.parameters(), eps=1e-5) + shift
    h = f.conv2d(f.silu(h), *block.conv1.parameters(), padding=1) + f.avg_pool2d(x, 2)
    h = h + attended(h, block, heads=channels // 64)
    torch.testing.assert_close(block(x, vector), h)


def test_embeddings_are_their_formulas() -> None:
    c = torch.tensor([-1.5, 0.0, 3.0]).double()
    for endpoint, last in ((True, 3), (False, 4)):
        angle = c[:, None] * torch.tensor([10 ** (-4 * k / last) for k in range(4)]).double()
        expected = torch.cat([angle.cos(), angle.sin()], dim=1)
        torch.testing.assert_close(
            blocks.PositionalEmbedding(8, endpoint)(c), expected, rtol=0, atol=1e-6
        )
    torch.manual_seed(0)
    fourier = blocks.FourierEmbedding(20_000)
    assert 15.5 < fourier.freqs.std() < 16.5 and abs(fourier.freqs.mean()) < 0.5
    angle = 2 * math.pi * c[:, None] * fourier.freqs.double()
    expected = torch.cat([angle.cos(), angle.sin()], dim=1)
    torch.testing.assert_close(fourier(c), expected, rtol=0, atol=1e-4)


def test_ncsnpp_by_hand() -> None:
    """The whole of a network of two levels, part by part, from its named parts."""
    torch.manual_seed(0)
    net = perturbed(SongUNet(**SMALL, **NCSNPP, decoder_type="skip", classes=3, augment_dim=2))
    net = net.double().eval()
    x, c = torch.randn(2, 2, 8, 8).double(), torch.tensor([0.3, -0.7]).double()
    augment = torch.randn(2, 2).double()
    angle = 2 * math.pi * c[:, None] * net.map_noise.freqs
    vector = torch.cat([angle.sin(), angle.cos()], dim=1)
    vector = vector + math.sqrt(3) * net.map_label.weight[:, [2, 0]].T + net.map_label.bias
    vector = vector + augment @ net.map_augment.weight.T
    vector = f.silu(net.map_layer1(f.silu(net.map_layer0(vector))))
    enc, dec = net.enc, net.dec
    a = enc["8x8_conv"](x)
    b = enc["8x8_block0"](a, vector)
    d = (enc["4x4_down"](b, vector) + enc["4x4_aux_residual"](x)) / math.sqrt(2)
    e = enc["4x4_block0"](d, vector)
    h = dec["4x4_in1"](dec["4x4_in0"](e, vector), vector)
    h = dec["4x4_block0"](torch.cat([h, e], dim=1), vector)
    h = dec["4x4_block1"](torch.cat([h, d], dim=1), vector)
    y = dec["4x4_aux_conv"](f.silu(dec["4x4_aux_norm"](h)))
    h = dec["8x8_up"](h, vector)
    h = dec["8x8_block0"](torch.cat([h, b], dim=1), vector)
    h = dec["8x8_block1"](torch.cat([h, a], dim=1), vector)
    y = dec["8x8_aux_up"](y) + dec["8x8_aux_conv"](f.silu(dec["8x8_aux_norm"](h)))
    torch.testing.assert_close(net(x, c, torch.tensor([2, 0]), augment), y)
