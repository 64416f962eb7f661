"""Operators of images against scipy and torch."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

import sdescore as ss
from tests.helpers.operators import normal

inverse = ss.inverse
F64 = torch.float64
KERNEL = torch.tensor([[0.1, 0.3, 0.0], [0.2, 0.1, 0.4]], dtype=F64)


def test_blur_is_scipys_with_wrapped_edges() -> None:
    x = normal(1, 5, 6)
    for kernel in (KERNEL, KERNEL[:, :2], normal(5, 3)):
        found = inverse.Blur(kernel, (5, 6))(x)[0].numpy()
        expected = ndimage.convolve(x[0].numpy(), kernel.numpy(), mode="wrap")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    wide = inverse.Blur.gaussian(1.5, (16, 16))(normal(1, 16, 16))[0].numpy()
    expected = ndimage.gaussian_filter(normal(1, 16, 16)[0].numpy(), 1.5, mode="wrap", radius=6)
    np.testing.assert_allclose(wide, expected, rtol=0, atol=1e-12)
    row = inverse.Blur.gaussian(0.8, (2, 16), axes=1)(normal(1, 2, 16))[0].numpy()
    expected = ndimage.gaussian_filter1d(normal(1, 2, 16)[0].numpy(), 0.8, mode="wrap", radius=4)
    np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)


def test_downsample_mask_and_grayscale() -> None:
    x = normal(2, 3, 4, 6)
    blocks = torch.nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(inverse.Downsample(2, (3, 4, 6))(x), blocks)
    pairs = torch.nn.functional.avg_pool1d(x[:, 0], 3)
    torch.testing.assert_close(inverse.Downsample((3,), (4, 6))(x[:, 0]), pairs)
    vector = inverse.Downsample(2, (6,))(x[:, 0, 0])
    torch.testing.assert_close(vector, (x[:, 0, 0, ::2] + x[:, 0, 0, 1::2]) / 2)
    seen = x[:, 0] > 0
    assert torch.equal(inverse.Mask(seen[0])(x[:1, 0]), x[:1, 0][seen[:1]][None])
    grey = inverse.Grayscale((3, 4, 6))(x)[:, 0]
    torch.testing.assert_close(grey, 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])
