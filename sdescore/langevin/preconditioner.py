r"""A positive definite matrix P that says how far a Langevin step goes in which direction.

The Langevin equation

.. math:: \mathrm{d}x = P s\,\mathrm{d}r + \sqrt{2\vartheta}\,P^{1/2}\,\mathrm{d}w

has the same stationary distribution for every P: it is the plain one of
:math:`\tilde x = P^{-1/2} x`, whose score is :math:`P^{1/2} s`. With P near the covariance of the
distribution, :math:`\tilde x` has no stiff direction
(Roberts & Stramer 2002, "Langevin diffusions and Metropolis–Hastings algorithms").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.shapes import flat, float64, sum_event

__all__ = ["Preconditioner"]

Numbers = Tensor | Sequence[float] | Sequence[Sequence[float]] | float


@dataclass(frozen=True, eq=False)
class Preconditioner:
    r"""A preconditioner by its eigenvalues; it compares and hashes by its numbers.

    Make one by :meth:`diagonal` or :meth:`full`. These store float64, and raise ``ShapeError`` or
    ``ParameterError`` for what is no number or not positive (definite).

    Attributes
    ----------
    eigenvalues : Tensor
        > 0; event-shaped, or ``()``, one number for all elements, or ``(d,)`` beside ``vectors``.
    vectors : Tensor or None
        ``(d, d)``, an orthonormal eigenvector of the flattened event a column; None: diagonal.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> P = ss.langevin.Preconditioner.full([[2.0, 1.0], [1.0, 2.0]])
    >>> P.apply(torch.tensor([[1.0, 1.0]], dtype=torch.float64)).round(decimals=6)
    tensor([[3., 3.]], dtype=torch.float64)
    """

    eigenvalues: Tensor
    vectors: Tensor | None = None

    def __post_init__(self) -> None:
        checks.dense("eigenvalues", checks.instance("eigenvalues", self.eigenvalues, Tensor))
        if self.vectors is not None:
            checks.dense("vectors", checks.instance("vectors", self.vectors, Tensor))

    @classmethod
    def diagonal(cls, values: Numbers) -> Preconditioner:
        """From positive numbers, event-shaped or one for all elements."""
        eigenvalues = float64(values).detach().clone()  # type: ignore[arg-type]
        _require_positive(eigenvalues, "positive preconditioner values")
        return cls(eigenvalues)

    @classmethod
    def full(cls, matrix: Numbers) -> Preconditioner:
        """From a symmetric positive definite ``(d, d)`` over the flattened event."""
        P = float64(matrix).detach()  # type: ignore[arg-type]
        if P.ndim != 2 or P.shape[0] != P.shape[1]:
            checks.refuse("a preconditioner matrix (d, d)", tuple(P.shape), ShapeError)
        checks.finite_tensor("preconditioner", P)
        # The accuracy of the numbers as they came: a float32 covariance is not quite symmetric.
        own = matrix.dtype if isinstance(matrix, Tensor) else torch.float64
        eps = torch.finfo(own if own.is_floating_point else torch.float64).eps
        skew, largest = ((M.abs().max().item() if len(P) else 0.0) for M in (P - P.mT, P))
        symmetric = skew <= 16 * len(P) * eps * largest
        checks.that(symmetric, "a symmetric preconditioner", f"P - P^T up to {skew:g}")
        eigenvalues, vectors = torch.linalg.eigh(P)
        _require_positive(eigenvalues, "a positive definite preconditioner")
        return cls(eigenvalues, vectors)

    def require_event(self, event_shape: tuple[int, ...]) -> None:
        """Refuse an event of another shape, with a ``ShapeError``."""
        own, event, d = tuple(self.eigenvalues.shape), tuple(event_shape), math.prod(event_shape)
        if self.vectors is None and own not in ((), event):
            checks.refuse(f"preconditioner values of the event's shape {event}", own, ShapeError)
        if self.vectors is not None and own != (d,):
            expected = f"a preconditioner matrix of {d} rows for events of shape {event}"
            checks.refuse(expected, own[0], ShapeError)

    def to(self, x: Tensor) -> Preconditioner:
        """In the dtype and on the device of ``x``."""
        vectors = None if self.vectors is None else self.vectors.to(x)
        return Preconditioner(self.eigenvalues.to(x), vectors)

    def affine(self, scale: float, shift: float) -> Preconditioner:
        """``scale P + shift I``."""
        return Preconditioner(scale * self.eigenvalues + shift, self.vectors)

    def apply(self, v: Tensor) -> Tensor:
        """``P v`` for each row of ``v`` ``(B, *E)``."""
        return self._apply(self.eigenvalues, v)

    def sqrt_apply(self, v: Tensor) -> Tensor:
        """``P^{1/2} v``, the symmetric root, for each row of ``v`` ``(B, *E)``."""
        return self._apply(self.eigenvalues.sqrt(), v)

    def quadratic(self, v: Tensor) -> Tensor:
        """``vᵀ P v``, ``(B,)``."""
        if self.vectors is None:
            return sum_event(self.eigenvalues * v.square())
        return ((flat(v) @ self.vectors).square() * self.eigenvalues).sum(1)

    def _apply(self, eigenvalues: Tensor, v: Tensor) -> Tensor:
        if self.vectors is None:
            return eigenvalues * v
        rotated = (flat(v) @ self.vectors) * eigenvalues
        return (rotated @ self.vectors.mT).reshape(v.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Preconditioner) and self._numbers() == other._numbers()

    def __hash__(self) -> int:
        return hash(self._numbers())

    def _numbers(self) -> tuple[object, ...]:
        parts = [part for part in (self.eigenvalues, self.vectors) if part is not None]
        return tuple((tuple(p.shape), str(p.dtype), p.cpu().numpy().tobytes()) for p in parts)


def as_preconditioner(
    value: Preconditioner | Numbers | None, event_shape: tuple[int, ...]
) -> Preconditioner:
    """What a user gave for events of this shape: the identity for None, a diagonal or a matrix."""
    if value is None:
        return Preconditioner(torch.ones((), dtype=torch.float64, device="cpu"))
    if isinstance(value, Preconditioner):
        value.require_event(event_shape)
        return value
    shape, d = tuple(float64(value).shape), math.prod(event_shape)  # type: ignore[arg-type]
    if shape in ((), tuple(event_shape)):
        return Preconditioner.diagonal(value)
    if shape == (d, d):
        return Preconditioner.full(value)
    expected = f"a preconditioner of the event's shape {tuple(event_shape)}, or a matrix ({d}, {d})"
    checks.refuse(f"{expected} over its elements", shape, ShapeError)


def require_preconditioner(value: object) -> None:
    """Refuse what is neither None nor a :class:`Preconditioner`, such as a bare tensor."""
    if value is not None:
        example = "Preconditioner.diagonal(variances) or .full(covariance)"
        checks.instance("preconditioner", value, Preconditioner, example)


def _require_positive(eigenvalues: Tensor, expected: str) -> None:
    if not bool(((eigenvalues > 0) & eigenvalues.isfinite()).all()):
        got = f"an eigenvalue or value {eigenvalues.min().item():g}"
        checks.refuse(expected, f"{got}; add a small multiple of the identity to a singular one")
