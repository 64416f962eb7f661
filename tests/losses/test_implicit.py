"""Values, traces and gradients against brute force."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sdescore.losses import (
    explicit_loss,
    finite_difference_loss,
    implicit_loss,
    sliced_loss,
)
from sdescore.score.divergence import exact_trace, probe_traces
from tests.helpers.objectives import (
    call,
    draw,
    gradients,
    networks,
    ones,
)


def jacobians(model: nn.Module, x: Tensor, t: float | None) -> Tensor:
    """``(B, d, d)``, sample by sample, differentiable."""
    return torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda y: call(model, y[None], t)[0], row, create_graph=True
            ).reshape(row.numel(), row.numel())
            for row in x
        ]
    )


@pytest.mark.parametrize("name", networks())
def test_values_and_parameter_gradients_agree_with_brute_force(name: str) -> None:
    model, x, t = networks()[name]
    J = jacobians(model, x, t)
    s = call(model, x, t).flatten(1)
    half = 0.5 * s.square().sum(1)
    v = draw(2, *x.shape, seed=7)
    flat = v.flatten(2)
    # Data that end at the state x at the time t, without noise.
    level: dict[str, Any] = {}
    if t is not None:
        level = {"t": t, "noise": torch.zeros_like(x), "weighting": ones}
        x = x / model.sde.marginal(t)[0]
    along = torch.einsum("kbi,bij,kbj->kb", flat, J, flat)
    cases = {
        "exact": (
            half + J.diagonal(dim1=1, dim2=2).sum(1),
            lambda c: implicit_loss(model, x, chunk_size=c, **level),
        ),
        "hutchinson": (
            half + along.mean(0),
            lambda c: implicit_loss(model, x, trace="hutchinson", probes=v, chunk_size=c, **level),
        ),
        "sliced": (
            (along + 0.5 * torch.einsum("kbi,bi->kb", flat, s).square()).mean(0),
            lambda c: sliced_loss(model, x, probes=v, chunk_size=c, **level),
        ),
    }
    for case, (oracle, objective) in cases.items():
        for chunk_size in (None, 1, 3):
            loss = objective(chunk_size)
            torch.testing.assert_close(loss.per_sample, oracle, rtol=1e-9, atol=1e-10, msg=case)
            assert loss.mean.item() == pytest.approx(oracle.mean().item(), rel=1e-9)
        torch.testing.assert_close(
            gradients(loss.mean, model),
            gradients(oracle.mean(), model),
            rtol=1e-7,
            atol=1e-9,
            msg=case,
        )


@given(d=st.integers(1, 9), n=st.integers(1, 5), chunk=st.one_of(st.none(), st.integers(1, 12)))
def test_trace_of_a_linear_field(d: int, n: int, chunk: int | None) -> None:
    """Each sample has a matrix of its own, so rows and elements cannot be mixed up."""
    matrices = draw(n, d, d)
    x = draw(n, d, seed=1).requires_grad_()
    s = torch.einsum("bij,bj->bi", matrices, x)
    trace = exact_trace(s, x, chunk_size=chunk)
    torch.testing.assert_close(trace, matrices.diagonal(dim1=1, dim2=2).sum(1))
    v = draw(3, n, d, seed=2)
    products = probe_traces(s, x, v, chunk_size=chunk)
    torch.testing.assert_close(products, torch.einsum("kbi,bij,kbj->bk", v, matrices, v))


def test_traces_are_summed_in_float32() -> None:
    """1 + 2⁻⁷ is exact in bfloat16, three of them are not."""
    x = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    trace = exact_trace(x * (1 + 2**-7), x)
    assert trace.dtype == torch.float32 and trace.tolist() == [3 + 3 * 2**-7] * 2


@pytest.mark.parametrize("event", [(), (1,), (2, 1, 3), (0,)])
def test_any_event(event: tuple[int, ...]) -> None:
    """s = −x + x³/3: ½‖s‖² + Σ(x² − 1), element by element."""
    x = draw(5, *event)
    score = lambda x: x**3 / 3 - x  # noqa: E731
    flat = x.reshape(5, math.prod(event))
    half = 0.5 * score(flat).square().sum(1)
    oracle = half + (flat.square() - 1).sum(1)
    torch.testing.assert_close(implicit_loss(score, x).per_sample, oracle)
    # Rademacher is exact on a diagonal Jacobian.
    hutchinson = implicit_loss(score, x, trace="hutchinson", probes=2)
    torch.testing.assert_close(hutchinson.per_sample, oracle)
    target = torch.zeros_like(x)
    torch.testing.assert_close(explicit_loss(score, x, target).per_sample, half)
    v = draw(1, 5, *event, seed=1)
    w = v[0].reshape(flat.shape)
    sliced = (w.square() * (flat.square() - 1)).sum(1) + 0.5 * (w * score(flat)).sum(1).square()
    torch.testing.assert_close(sliced_loss(score, x, probes=v).per_sample, sliced)
    different = finite_difference_loss(score, x, probes=v, epsilon=1e-4)
    torch.testing.assert_close(different.per_sample, sliced, rtol=1e-6, atol=1e-7)
    assert different.per_sample.shape == (5,)
    reduced = finite_difference_loss(score, x, probes=v, epsilon=1e-4, reduced_variance=True)
    other = sliced_loss(score, x, probes=v, reduced_variance=True)
    torch.testing.assert_close(reduced.per_sample, other.per_sample, rtol=1e-6, atol=1e-7)
