"""Any matrix as an operator, and any function that PyTorch can differentiate."""

from __future__ import annotations

import math
from collections import abc
from collections.abc import Sequence

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.inverse.operators import Constant, Diagonal, Operator, numbers

__all__ = ["Callable", "Matrix"]


class Matrix(Diagonal):
    """``A x`` for a matrix A; its singular values are found once.

    Parameters
    ----------
    A : Tensor
        ``(m, d)``; ``*M`` is ``(m,)``.
    event_shape : tuple of int, optional
        ``*E`` with d elements, flattened in their order; by default ``(d,)``.

    Raises
    ------
    ShapeError
        A is no matrix of real numbers, or has another number of columns.
    ParameterError
        A is not finite.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> total = ss.inverse.Matrix(torch.tensor([[1.0, 1.0]]))
    >>> total(torch.tensor([[2.0, 3.0]])).tolist(), total.adjoint(torch.tensor([[4.0]])).tolist()
    ([[5.0]], [[4.0, 4.0]])
    """

    def __init__(self, A: Tensor, event_shape: Sequence[int] | None = None) -> None:
        matrix = numbers("A", A, (2,), "(m, d)")
        m, d = matrix.shape
        super().__init__((d,) if event_shape is None else event_shape, (m,))
        expected = f"A with {math.prod(self.event_shape)} columns for the event {self.event_shape}"
        checks.that(math.prod(self.event_shape) == d, expected, tuple(matrix.shape), ShapeError)
        U, singular, _ = torch.linalg.svd(matrix, full_matrices=m > d)
        eps = max(m, d) * torch.finfo(torch.float64).eps  # what rounding cannot tell from 0 is 0
        square = torch.where(singular > eps * singular.max(), singular, 0.0).square()
        padding = torch.zeros(m - len(square), dtype=torch.float64, device="cpu")
        self._A, self._U = Constant(matrix), Constant(U)
        self.eigenvalues = Constant(torch.cat([square, padding]))

    @classmethod
    def examples(cls) -> Sequence[Matrix]:
        A = [[1.0, 2.0, 0.0], [0.5, -1.0, 1.0]]
        wide = torch.tensor(A, dtype=torch.float64, device="cpu")
        return [cls(wide), cls(wide.T @ wide[:, :2], (2, 1))]

    def _rotate(self, v: Tensor) -> Tensor:
        return v @ self._U.like(v)

    def _rotate_back(self, v: Tensor) -> Tensor:
        return v @ self._U.like(v).T

    def _apply(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self._A.like(x).T

    def _adjoint(self, y: Tensor) -> Tensor:
        return (y @ self._A.like(y)).reshape(-1, *self.event_shape)


class Callable(Operator):
    """Any function of a batch that PyTorch can differentiate.

    Parameters
    ----------
    function : callable
        ``(B, *E) -> (B, *M)``, each sample on its own, in the dtype of its argument.
    event_shape : tuple of int
        ``*E``.
    measurement_shape : tuple of int, optional
        ``*M``; by default that of the function's value at one sample of zeros, float32 on the CPU.
    linear : bool
        Whether the function is linear. Then autograd computes its adjoint, and
        :class:`sdescore.inverse.Measurement` tests it.

    Raises
    ------
    IncompatibleError
        ``function`` is not callable, or returns no real tensor.
    ShapeError
        A shape is no sequence of sizes > 0. When called, the function's value is not ``(B, *M)``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> cube = ss.inverse.Callable(lambda x: x**3, (2,))
    >>> cube(torch.tensor([[1.0, 2.0]]))
    tensor([[1., 8.]])
    """

    def __init__(
        self,
        function: abc.Callable[[Tensor], Tensor],
        event_shape: Sequence[int],
        measurement_shape: Sequence[int] | None = None,
        *,
        linear: bool = False,
    ) -> None:
        self._function = checks.function("function", function)
        self.linear = checks.flag("linear", linear)
        super().__init__(event_shape, () if measurement_shape is None else measurement_shape)
        if measurement_shape is None:
            zeros = torch.zeros(1, *self.event_shape, dtype=torch.float32, device="cpu")
            with torch.no_grad():
                value = function(zeros)
            checks.state(value, "the function's value")
            self.measurement_shape = tuple(value.shape[1:])

    @classmethod
    def examples(cls) -> Sequence[Callable]:
        reverse = cls(lambda x: x.flip(1).cumsum(1), (4,), linear=True)
        return [reverse, cls(lambda x: x**3, (2,))]

    def _apply(self, x: Tensor) -> Tensor:
        y = self._function(x)
        checks.state(y, "the function's value")
        expected = f"the function to return shape {(len(x), *self.measurement_shape)}"
        fits = y.shape == (len(x), *self.measurement_shape)
        checks.that(fits, expected, tuple(y.shape), ShapeError)
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        zeros = y.new_zeros(len(y), *self.event_shape)
        with torch.inference_mode(False):
            zeros, y = (v.clone() if v.is_inference() else v for v in (zeros, y))
            _, pull = torch.func.vjp(self._apply, zeros)  # type: ignore[misc]
            found: Tensor = pull(y)[0]
            return found
