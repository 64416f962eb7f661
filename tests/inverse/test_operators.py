"""Operators by scipy, by closed forms, and by the linear algebra of their matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

import sdescore as ss
from sdescore.rooms import members
from tests.helpers.callers import SETTINGS
from tests.helpers.operators import OPERATORS, adjoint_error, normal

inverse = ss.inverse
F64 = torch.float64
MATRIX = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 1.0]], dtype=F64)
KERNEL = torch.tensor([[0.1, 0.3, 0.0], [0.2, 0.1, 0.4]], dtype=F64)
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
