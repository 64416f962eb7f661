"""A measurement: its likelihood, and other libraries' operators."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import sdescore as ss
from tests.helpers.operators import normal

inverse = ss.inverse
F64 = torch.float64
MATRIX = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 1.0]], dtype=F64)


def operators_of_others() -> dict[str, Callable[[], Any]]:
    kernel = torch.tensor([[0.0, 0.1, 0.0], [0.2, 0.4, 0.1], [0.0, 0.2, 0.0]])
    seen = (normal(1, 6, 6, dtype=torch.float32) > 0).float()

    def physics() -> Any:
        return pytest.importorskip("deepinv").physics

    return {
        "any object": lambda: SimpleNamespace(A=lambda x: 3 * x, A_adjoint=lambda y: 3 * y),
        "deepinv blur": lambda: physics().Blur(filter=kernel[None, None], padding="circular"),
        "deepinv inpainting": lambda: physics().Inpainting((1, 6, 6), mask=seen),
    }


@pytest.mark.parametrize("name", operators_of_others())
def test_another_librarys_operator_is_taken_as_it_is(name: str) -> None:
    theirs = operators_of_others()[name]()
    x, v = (normal(2, 1, 6, 6, seed=seed, dtype=torch.float32) for seed in (0, 1))
    y = theirs.A(x)
    operator = inverse.Measurement(y[0], theirs, 0.1).operator
    assert operator.event_shape == (1, 6, 6)
    torch.testing.assert_close(operator(x), y)
    A = operator.matrix(torch.float32).double()
    expected = torch.linalg.solve(2 * A @ A.T + 0.3 * torch.eye(36), v.double().flatten(1).T).T
    found = operator.solve(v, 0.3, 2.0).flatten(1).double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_likelihood_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    operator, x = inverse.Matrix(MATRIX), normal(4, 3)
    y = normal(2, seed=3)
    found = inverse.Measurement(y, operator, 0.7).log_likelihood(x)
    expected = stats.norm.logpdf(y.numpy(), (x @ MATRIX.T).numpy(), 0.7).sum(1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    other = inverse.Measurement(y, operator, 0.7).log_likelihood(x, (x + 1) @ MATRIX.T)
    apart = ((x + 1) @ MATRIX.T - x @ MATRIX.T).numpy()
    np.testing.assert_allclose(other.numpy(), stats.norm.logpdf(apart, 0, 0.7).sum(1), rtol=1e-9)


def test_a_function_with_a_domain_is_an_operator() -> None:
    """The checks at the door call it on any numbers, and NaN there says nothing."""
    operator = inverse.Callable(torch.log, (3,))
    seen = inverse.Measurement(torch.zeros(3), operator, 0.1)
    assert torch.equal(seen.residual(torch.ones(2, 3)), torch.zeros(2, 3))
