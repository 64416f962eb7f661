"""Traces of Jacobians: all of it, and estimates whose mean and variance are known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from sdescore.score.divergence import deflated_traces, exact_trace, jacobian, probe_traces

F64 = torch.float64
ALPHA = 1e-6


def curved(x: Tensor) -> Tensor:
    """A field on (B, 2, 3) that mixes all elements, with a Jacobian that is not symmetric."""
    flat = x.flatten(1)
    mixing = torch.linspace(-1, 1, 36, dtype=x.dtype).view(6, 6)
    return ((flat @ mixing).sin() + flat.roll(1, 1) * flat).view_as(x)


def test_the_jacobian_is_autograds() -> None:
    x = torch.randn(4, 2, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    got = jacobian(curved(x), x)
    for i in range(4):
        row = x[i : i + 1].detach()
        want = torch.autograd.functional.jacobian(curved, row).reshape(6, 6)
        torch.testing.assert_close(got[i], want)
    torch.testing.assert_close(got.diagonal(dim1=1, dim2=2).sum(1), exact_trace(curved(x), x))


def estimates(A: Tensor, n: int, k: int, probes: int, seed: int = 0, shift: float = 0.0) -> Tensor:
    """``n`` times the estimates of tr A, ``(n, probes)``, each row with a sketch of its own."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(k + probes, n, len(A), dtype=F64, generator=generator)
    x = torch.zeros(n, len(A), dtype=F64, requires_grad=True)
    return deflated_traces(x @ A.T, x, normal[:k], normal[k:], shift)


def skewed(d: int = 12) -> Tensor:
    """A matrix with singular values 2⁻ⁱ that is not symmetric."""
    generator = torch.Generator().manual_seed(5)
    left, right = torch.linalg.qr(torch.randn(2, d, d, dtype=F64, generator=generator))[0]
    return left @ torch.diag(0.5 ** torch.arange(d, dtype=F64)) @ (right.T + left.T)


def test_hutch_plus_plus_is_unbiased() -> None:
    """The mean of 20,000 estimates against the trace, two-sided at alpha = 1e-6 (CLT)."""
    A = skewed()
    got = estimates(A, 20_000, 3, 1)[:, 0]
    slack = stats.norm.isf(ALPHA / 2) * got.std().item() / math.sqrt(len(got))
    assert abs(got.mean().item() - A.trace().item()) < slack
    assert slack < 0.01 * A.trace().abs().item()


def test_hutch_plus_plus_knows_a_few_directions_and_the_identity() -> None:
    """A matrix of rank k, a multiple of I, and their sum with a known shift leave no error."""
    generator = torch.Generator().manual_seed(1)
    low = torch.randn(9, 3, dtype=F64, generator=generator) @ torch.randn(
        3, 9, dtype=F64, generator=generator
    )
    eye = torch.eye(9, dtype=F64)
    cases = ((low, 3, 0.0), (-2.5 * eye, 2, 0.0), (0 * low, 2, 0.0), (low - 40 * eye, 3, -40.0))
    for A, k, shift in cases:
        off = estimates(A, 50, k, 2, shift=shift) - A.trace()
        assert off.abs().max() < 1e-11


def test_hutch_plus_plus_varies_less_than_hutchinson() -> None:
    """Twelve derivatives each on a spectrum that halves: a tenth of the variance, and less."""
    A = skewed()
    n = 4000
    plus = estimates(A, n, 4, 4).mean(1)
    x = torch.zeros(n, 12, dtype=F64, requires_grad=True)
    signs = torch.randn(12, n, 12, dtype=F64, generator=torch.Generator().manual_seed(2)).sign()
    plain = probe_traces(x @ A.T, x, signs).mean(1)
    assert plus.var() < 0.1 * plain.var()


def test_the_spread_given_a_subspace_is_that_of_a_sphere() -> None:
    """One sketch for all; the variance of 40,000 estimates within 5 % (over six deviations)."""
    A, k, n = skewed(), 3, 40_000
    generator = torch.Generator().manual_seed(3)
    sketch = torch.randn(k, 1, 12, dtype=F64, generator=generator)
    probes = torch.randn(1, n, 12, dtype=F64, generator=generator)
    x = torch.zeros(n, 12, dtype=F64, requires_grad=True)
    got = deflated_traces(x @ A.T, x, sketch.expand(k, n, 12), probes)[:, 0]
    projector = sketch[:, 0] @ A  # rows Aᵀw
    _, _, right = torch.linalg.svd(projector, full_matrices=True)
    rest = right[k:]  # an orthonormal basis of what the sketch leaves
    B = rest @ ((A + A.T) / 2) @ rest.T
    m = 12 - k
    want = 2 * m / (m + 2) * (B.square().sum() - B.trace().square() / m)
    assert got.var().item() == pytest.approx(want.item(), rel=0.05)
