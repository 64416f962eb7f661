r"""Operators x → A(x) with an adjoint, on batches ``(B, *E) → (B, *M)``.

A linear operator's adjoint is its transpose, :math:`\langle A x, v \rangle = \langle x, A^\top v
\rangle`. The methods of this package solve

.. math:: (\gamma^2 A A^\top + \sigma^2 I)\, u = v ,

in closed form where the eigenvalues of :math:`A A^\top` are known, else by conjugate gradients.
With σ = 0 and γ = 1 the solution is :math:`u = (A A^\top)^+ v`, by the pseudo-inverse. So
:math:`A^\top (A A^\top)^+ (y - A x)` is the smallest change of x that explains y.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.inverse.conjugate_gradient import conjugate_gradient
from sdescore.score.numbers import Numbers, finite
from sdescore.shapes import align, float64, without_autocast
from sdescore.typing import Time
from sdescore.wrappers import undisturbed

if TYPE_CHECKING:
    from typing_extensions import Self  # of typing from Python 3.11 on

__all__ = ["Operator"]


class Operator(ABC):
    """A measurement without its noise, ``x (B, *E) -> A(x) (B, *M)``, each sample on its own.

    A subclass defines ``_apply``, and ``_adjoint`` where it is linear. Both are written in PyTorch,
    so autograd sees through them; they compute in the dtype and on the device of their argument.

    Attributes
    ----------
    event_shape : tuple of int
        ``*E``.
    measurement_shape : tuple of int
        ``*M``.
    linear : bool
        Whether A is a matrix. An affine function is not linear.
    """

    linear: bool = True

    def __init__(self, event_shape: Sequence[int], measurement_shape: Sequence[int]) -> None:
        self.event_shape = checks.shape(event_shape, "event_shape", 0, 0)
        self.measurement_shape = checks.shape(measurement_shape, "measurement_shape", 0, 0)

    @classmethod
    def examples(cls) -> Sequence[Self]:
        """Members that stand for the class in the documentation's table and in the tests.

        By default there are none, as for a class of your own. A class of this package gives one
        member of each kind, on small events.
        """
        return []

    @abstractmethod
    def _apply(self, x: Tensor) -> Tensor:
        """``(B, *E) -> (B, *M)``."""

    def _adjoint(self, y: Tensor) -> Tensor:
        """``(B, *M) -> (B, *E)``, of a linear operator."""
        raise NotImplementedError

    def _solve(self, v: Tensor, sigma2: Tensor, gamma2: Tensor) -> Tensor:
        """By conjugate gradients to rounding; σ² and γ² broadcast over ``v``."""

        def multiply(u: Tensor) -> Tensor:
            return gamma2 * self._apply(self._adjoint(u)) + sigma2 * u

        tolerance = 8 * torch.finfo(v.dtype).eps
        return conjugate_gradient(multiply, v, 2 * math.prod(self.measurement_shape), tolerance)

    def __call__(self, x: Tensor) -> Tensor:
        """``A(x)``.

        Raises
        ------
        ShapeError
            ``x`` is not ``(B, *E)``.
        """
        _require("x", x, self.event_shape)
        with without_autocast(x):
            found: Tensor = undisturbed(self._apply, x, who=type(self).__name__)
            return found

    def adjoint(self, y: Tensor) -> Tensor:
        """``Aᵀ y``, ``(B, *M) -> (B, *E)``.

        Raises
        ------
        ShapeError
            ``y`` is not ``(B, *M)``.
        IncompatibleError
            The operator is not linear.
        """
        self._require_linear("an adjoint")
        _require("y", y, self.measurement_shape)
        with without_autocast(y):
            found: Tensor = undisturbed(self._adjoint, y, who=f"{type(self).__name__}'s adjoint")
            return found

    def solve(self, v: Tensor, sigma2: Time, gamma2: Time = 1.0) -> Tensor:
        """``u`` with ``(γ² A Aᵀ + σ² I) u = v``, of least length; like ``v`` ``(B, *M)``.

        Parameters
        ----------
        v : Tensor
            ``(B, *M)``.
        sigma2, gamma2 : float or Tensor
            σ² and γ², >= 0; one number, or one for each sample ``(B,)``.

        Raises
        ------
        ParameterError
            σ² or γ² is a number and is not finite and >= 0; a tensor's values are not looked at.
        ShapeError
            ``v`` is not ``(B, *M)``, or σ² or γ² is neither one number nor one a sample.
        IncompatibleError
            The operator is not linear.
        """
        self._require_linear("solve")
        _require("v", v, self.measurement_shape)
        for name, value in (("sigma2", sigma2), ("gamma2", gamma2)):
            if not isinstance(value, Tensor):
                checks.number(name, value, at_least=0)
        sigma, gamma = (align(float64(value, v).to(v), v) for value in (sigma2, gamma2))
        with without_autocast(v):
            return self._solve(v, sigma, gamma)

    def matrix(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """A as a matrix ``(m, d)`` over flattened events, on the CPU; of a linear operator."""
        self._require_linear("a matrix")
        real = isinstance(dtype, torch.dtype) and dtype.is_floating_point
        checks.that(real, "dtype as a floating-point dtype of torch", f"{dtype!r:.100}")
        numel = math.prod(self.event_shape)
        basis = torch.eye(numel, dtype=dtype, device="cpu").reshape(numel, *self.event_shape)
        return self(basis).reshape(numel, -1).T

    def _require_linear(self, user: str) -> None:
        expected = f"a linear operator for {user}"
        checks.that(self.linear, expected, f"{type(self).__name__}, not linear", IncompatibleError)


class Diagonal(Operator):
    """An operator that knows the eigenvalues of A Aᵀ, in the coordinates of ``_rotate``."""

    eigenvalues: Constant

    def _rotate(self, v: Tensor) -> Tensor:
        """``v`` in the coordinates of the eigenvectors."""
        return v

    def _rotate_back(self, v: Tensor) -> Tensor:
        return v

    def _solve(self, v: Tensor, sigma2: Tensor, gamma2: Tensor) -> Tensor:
        gain = gamma2 * self.eigenvalues.like(v) + sigma2
        used = gain > 0
        inverse = torch.where(used, 1 / torch.where(used, gain, 1.0), 0.0)
        return self._rotate_back(inverse * self._rotate(v))


class Constant:
    """A float64 (or complex128) tensor, and its casts, which are made once."""

    def __init__(self, value: Tensor) -> None:
        with torch.inference_mode(False):  # whose tensors autograd refuses later
            self._source = value.detach().clone()
        self._casts: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        # The usual casts are made now: one made inside a torch.func transform is wrapped by it.
        for dtype in (torch.float32, torch.float64):
            self.like(torch.empty(0, dtype=dtype, device="cpu"))

    def like(self, x: Tensor) -> Tensor:
        """The value in the precision and on the device of ``x``."""
        key = x.dtype, x.device
        if key not in self._casts:
            dtype = x.dtype.to_complex() if self._source.is_complex() else x.dtype
            with torch.inference_mode(False):
                self._casts[key] = self._source.to(x.device, dtype)
        return self._casts[key]


def numbers(name: str, value: Numbers, ndim: Sequence[int], which: str) -> Tensor:
    """``value`` as a float64 tensor on the CPU, refused unless it has such a number of axes."""
    found = finite(name, value)
    fits = found.ndim in ndim and found.numel() > 0
    checks.that(fits, f"{name} {which} of real numbers", f"shape {tuple(found.shape)}", ShapeError)
    return found


def _require(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    checks.state(value, name)
    expected = f"{name} of shape (B, {', '.join(map(str, shape))})"
    checks.that(value.shape[1:] == shape, expected, tuple(value.shape), ShapeError)
