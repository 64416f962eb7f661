r"""Generalised conjugate residuals, one system a sample (Eisenstat, Elman & Schultz 1983).

The iterate of k products with H has the smallest residual :math:`\lVert b - H u \rVert` among all
combinations of :math:`b, H b, \dots, H^{k-1} b`. H need not be symmetric or positive definite. The
Jacobian of an imperfect network is neither, and conjugate gradients may then take steps of any
length. Every sample stops by itself, so its solution does not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.shapes import align, sum_event


def conjugate_residual(
    multiply: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float
) -> Tensor:
    """Solve ``H u = b`` for ``u``; the arguments are those of conjugate gradients."""
    u, residual = torch.zeros_like(b), b
    square = sum_event(b * b)
    goal = max(tolerance, 8 * torch.finfo(b.dtype).eps) ** 2 * square
    past: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(iterations):
        active = square > goal
        if not bool(active.any()):
            break
        direction, product = residual, multiply(residual)
        for p, q, size in past:
            share = align(sum_event(product * q) / size, b)
            direction, product = direction - share * p, product - share * q
        size = sum_event(product * product)
        active = active & (size > 0)
        size = torch.where(active, size, 1.0)
        step = align(torch.where(active, sum_event(residual * product) / size, 0.0), b)
        u, residual = u + step * direction, residual - step * product
        square = torch.where(active, sum_event(residual * residual), 0.0)
        past.append((direction, product, size))
    return u
