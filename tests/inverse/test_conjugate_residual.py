"""Conjugate residuals: least squares in the Krylov space, by numpy."""

from __future__ import annotations

import pytest
import torch

from sdescore.inverse.conjugate_residual import conjugate_residual
from tests.helpers.posteriors import F64, states


def test_conjugate_residuals_are_least_squares_in_the_krylov_space() -> None:
    """By numpy, also where H is neither symmetric nor definite; each sample stops alone."""
    generator = torch.Generator().manual_seed(0)
    H = torch.randn(5, 5, generator=generator, dtype=F64)
    b = torch.cat([states(3).repeat(1, 2)[:, :5], torch.zeros(1, 5, dtype=F64)])
    powers = [b]
    for k in range(1, 6):
        found = conjugate_residual(lambda u: u @ H.T, b, k, 0.0)
        for i in range(3):
            K = torch.stack([power[i] for power in powers], 1)
            weights = torch.linalg.lstsq(H @ K, b[i]).solution
            torch.testing.assert_close(found[i], K @ weights, rtol=1e-6, atol=1e-8)
        assert not found[3].any()
        powers.append(powers[-1] @ H.T)
    torch.testing.assert_close(found @ H.T, b)
    loose = conjugate_residual(lambda u: u @ H.T, b, 5, 0.5)
    for i in range(3):
        alone = conjugate_residual(lambda u: u @ H.T, b[i : i + 1], 5, 0.5)
        torch.testing.assert_close(loose[i], alone[0], rtol=1e-12, atol=1e-14)
        assert 0 < (b[i] - loose[i] @ H.T).norm() <= 0.5 * b[i].norm()


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_the_tolerance_is_relative_to_the_right_side(size: float) -> None:
    generator = torch.Generator().manual_seed(3)
    H = torch.eye(8, dtype=F64) + 0.3 * torch.randn(8, 8, dtype=F64, generator=generator)
    b = torch.randn(4, 8, dtype=F64, generator=generator)
    found = conjugate_residual(lambda u: u @ H.T, b, 8, 0.1)
    scaled = conjugate_residual(lambda u: u @ H.T, size * b, 8, 0.1)
    torch.testing.assert_close(scaled / size, found, rtol=1e-12, atol=1e-12)
    residual = (b - found @ H.T).norm(dim=1) / b.norm(dim=1)
    assert bool((residual <= 0.1).all()) and bool((residual > 1e-6).any())
