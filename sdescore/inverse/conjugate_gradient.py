r"""Conjugate gradients for one symmetric system a sample (Hestenes & Stiefel 1952, algorithm 3.1).

Every sample has its own step lengths and stops by itself, so its solution does not depend on the
batch. A sample also stops where :math:`p^\top H p \le 0` for its search direction p. Then either
only rounding error is left, or H is not positive definite.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.shapes import align, sum_event


def conjugate_gradient(
    multiply: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float
) -> Tensor:
    """Solve ``H u = b`` for ``u``, like ``b`` ``(B, *M)``, starting from u = 0.

    Parameters
    ----------
    multiply : callable
        ``u -> H u`` of every sample.
    iterations : int
        The largest number of products with H.
    tolerance : float
        A sample stops where ``|b − H u| <= tolerance |b|``.
    """
    u, residual, direction = torch.zeros_like(b), b, b
    square = sum_event(b * b)
    goal = tolerance**2 * square
    for _ in range(iterations):
        active = square > goal
        if not bool(active.any()):
            break
        product = multiply(direction)
        curvature = sum_event(direction * product)
        active = active & (curvature > 0)
        step = align(torch.where(active, square / torch.where(active, curvature, 1.0), 0.0), b)
        u, residual = u + step * direction, residual - step * product
        last, square = square, torch.where(active, sum_event(residual * residual), 0.0)
        direction = residual + align(square / torch.where(active, last, 1.0), b) * direction
    return u
