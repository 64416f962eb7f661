"""Operators by scipy, by closed forms, and by the linear algebra of their matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.rooms import members
from tests.helpers.callers import SETTINGS
from tests.helpers.operators import OPERATORS, adjoint_error, normal

inverse = ss.inverse
F64 = torch.float64
MATRIX = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 1.0]], dtype=F64)
LINEAR = {name: operator for name, operator in OPERATORS.items() if operator.linear}
LINEAR |= {
    "blur that loses a frequency": inverse.Blur(torch.tensor([0.5, 0.5]), (4,)),
    "singular matrix": inverse.Matrix(torch.outer(MATRIX[0], MATRIX[1])),
}


@pytest.fixture(params=LINEAR)
def operator(request: pytest.FixtureRequest) -> ss.inverse.Operator:
    return LINEAR[request.param]


@pytest.mark.parametrize("kind", members("sdescore.inverse", inverse.Operator))
def test_every_operator_has_examples_of_its_own_kind(kind: type[ss.inverse.Operator]) -> None:
    assert kind.examples() and all(type(example) is kind for example in kind.examples())


def test_a_class_of_a_user_has_none() -> None:
    class Own(inverse.Operator):
        def _apply(self, x: Tensor) -> Tensor:
            return x

    assert list(Own.examples()) == []


def test_the_adjoint_passes_the_dot_test(operator: ss.inverse.Operator) -> None:
    assert adjoint_error(operator) < 1e-12


def close(found: Tensor, expected: np.ndarray, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, rtol=0, atol=atol)


def test_the_value_and_the_adjoint_are_the_matrix_and_its_transpose(
    operator: ss.inverse.Operator,
) -> None:
    A = operator.matrix().numpy()
    x, v = normal(3, *operator.event_shape), normal(3, *operator.measurement_shape, seed=1)
    close(operator(x), x.flatten(1).numpy() @ A.T)
    close(operator.adjoint(v), v.flatten(1).numpy() @ A)


def test_solve_is_the_inverse_and_without_noise_the_pseudo_inverse(
    operator: ss.inverse.Operator,
) -> None:
    """By numpy; numbers of each sample's own too."""
    A, v = operator.matrix().numpy(), normal(2, *operator.measurement_shape)
    own = torch.tensor([0.1, 7.0], dtype=F64)
    for sigma2, gamma2 in ((0.3, 2.0), (own, 0.5), (0.2, own), (0.5, 0.0)):
        found = operator.solve(v, sigma2, gamma2)
        for i, row in enumerate(v.flatten(1).numpy()):
            s, g = (float(c[i]) if isinstance(c, Tensor) else c for c in (sigma2, gamma2))
            expected = np.linalg.solve(g * A @ A.T + s * np.eye(len(A)), row)
            np.testing.assert_allclose(found[i].flatten().numpy(), expected, rtol=0, atol=1e-8)
    seen = operator(normal(2, *operator.event_shape, seed=2))  # what the operator can give
    change = operator.adjoint(operator.solve(seen, 0.0))
    close(change, seen.flatten(1).numpy() @ np.linalg.pinv(A).T, 1e-7)


def test_autograd_sees_through(operator: ss.inverse.Operator) -> None:
    x = normal(1, *operator.event_shape).requires_grad_()
    v = normal(1, *operator.measurement_shape).requires_grad_()
    assert torch.autograd.gradcheck(operator, x)
    assert torch.autograd.gradcheck(operator.adjoint, v)
    assert torch.autograd.gradgradcheck(operator, x)
    _, pushed = torch.func.jvp(operator, (x,), (x,))
    torch.testing.assert_close(pushed, operator(x))


def test_the_callers_world_and_the_dtype(operator: ss.inverse.Operator) -> None:
    """The same bits in every setting, and float32 to its rounding."""
    x, v = (normal(2, *shape) for shape in (operator.event_shape, operator.measurement_shape))
    plain = operator(x), operator.adjoint(v), operator.solve(v, 0.3)
    for setting in SETTINGS.values():
        with setting():
            again = operator(x), operator.adjoint(v), operator.solve(v, 0.3)
        assert all(map(torch.equal, plain, again))
    x, v = x.float(), v.float()
    for one, other in zip(
        plain, (operator(x), operator.adjoint(v), operator.solve(v, 0.3)), strict=True
    ):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other.double(), one, rtol=1e-4, atol=1e-5)
