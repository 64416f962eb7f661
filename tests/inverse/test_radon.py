"""The Radon transform."""

from __future__ import annotations

import math

import torch

import sdescore as ss

inverse = ss.inverse
F64 = torch.float64


def test_radon_integrates_along_beams() -> None:
    """A Gaussian blob off the middle: its line integrals are Gaussians in s, at every angle."""
    size, std, (u, v) = 41, 3.0, (4.0, -6.0)
    place = torch.arange(size, dtype=F64) - (size - 1) / 2
    blob = torch.exp(-0.5 * ((place - u) ** 2 + (place[:, None] - v) ** 2) / std**2)
    angles = [0.0, 17.0, 90.0, 120.0]
    found = inverse.Radon((size, size), angles)(blob[None])[0]
    s = torch.arange(found.shape[1], dtype=F64) - (found.shape[1] - 1) / 2
    for row, angle in zip(found, angles, strict=True):
        a = math.radians(angle)
        middle = u * math.cos(a) + v * math.sin(a)
        expected = std * math.sqrt(2 * math.pi) * torch.exp(-0.5 * ((s - middle) / std) ** 2)
        # Bilinear sampling widens the blob: its variance grows by at most 1/4 of 9, and the
        # largest value falls by half of that share.
        assert (row - expected).abs().max() < 0.02 * expected.max()
