"""A matrix as an operator, and a function with its derivative, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sdescore as ss
from tests.helpers.operators import normal

pytestmark = pytest.mark.fast

inverse = ss.inverse


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(("m", "shape"), [(3, (5,)), (5, (3, 1)), (4, (2, 2))])
def test_a_matrix_is_numpys_whatever_its_rank(m: int, shape: tuple[int, ...], rank: int) -> None:
    """A x, Aᵀ v, and (γ² A Aᵀ + σ² I)⁻¹ v; without noise the pseudo-inverse."""
    d = int(np.prod(shape))
    A = normal(m, rank, seed=1) @ normal(rank, d, seed=2)
    operator, M = inverse.Matrix(A, shape), A.numpy()
    x, v = normal(2, *shape, seed=3), normal(2, m, seed=4)
    np.testing.assert_allclose(operator(x), x.flatten(1).numpy() @ M.T, atol=1e-12)
    adjoint = operator.adjoint(v)
    assert adjoint.shape == x.shape
    np.testing.assert_allclose(adjoint.flatten(1), v.numpy() @ M, atol=1e-12)
    system = 2.0 * M @ M.T + 0.3 * np.eye(m)
    expected = np.linalg.solve(system, v.numpy().T).T
    np.testing.assert_allclose(operator.solve(v, 0.3, 2.0), expected, atol=1e-10)
    seen = operator(x)
    change = operator.adjoint(operator.solve(seen, 0.0)).flatten(1)
    np.testing.assert_allclose(change, seen.numpy() @ np.linalg.pinv(M, rcond=1e-10).T, atol=1e-9)


def test_the_adjoint_of_a_linear_function_is_the_transpose_of_its_matrix() -> None:
    """Second differences: a tridiagonal matrix, and one that is not its own transpose."""
    forward = inverse.Callable(lambda x: x[:, 1:] - 2 * x[:, :-1], (5,), linear=True)
    M = np.eye(4, 5, 1) - 2 * np.eye(4, 5)
    assert forward.measurement_shape == (4,)
    x, v = normal(3, 5), normal(3, 4, seed=1)
    np.testing.assert_allclose(forward(x), x.numpy() @ M.T, atol=1e-14)
    np.testing.assert_allclose(forward.adjoint(v), v.numpy() @ M, atol=1e-14)
    expected = np.linalg.solve(0.5 * M @ M.T + 0.1 * np.eye(4), v.numpy().T).T
    np.testing.assert_allclose(forward.solve(v, 0.1, 0.5), expected, atol=1e-8)


def test_a_function_takes_the_dtype_it_is_given() -> None:
    square = inverse.Callable(lambda x: x**2, (2,))
    assert not square.linear
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([[1.5, -3.0]], dtype=dtype)
        assert torch.equal(square(x), torch.tensor([[2.25, 9.0]], dtype=dtype))
