r"""Monotone cubic interpolation of a table, for the discrete SDEs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class MonotoneCubic:
    """Piecewise cubic through ``values`` at the times ``k / (n − 1)``, monotone and C¹.

    Fritsch & Carlson's monotone interpolant as scipy's ``PchipInterpolator`` builds it;
    exact at the knots.
    """

    def __init__(self, values: list[float]) -> None:
        from scipy.interpolate import PchipInterpolator

        # As arrays: an SDE stores this at its first use, which may be inside a transform of
        # torch.func, whose tensors live no longer than it does.
        self._knots = np.arange(len(values)) / (len(values) - 1)
        self._values = np.array(values, dtype=np.float64)
        # Highest power first, one column per cell.
        self._coefficients = PchipInterpolator(self._knots, self._values).c.copy()

    @property
    def knots(self) -> Tensor:
        """The times of the table, ``(n,)`` float64."""
        return torch.from_numpy(self._knots)

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Times, values, and the coefficients of the cells."""
        arrays = (self._knots, self._values, self._coefficients)
        knots, values, coefficients = (torch.from_numpy(array).to(device) for array in arrays)
        return knots, values, coefficients

    def _locate(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        knots, _, coefficients = self._table(t.device)
        cell = torch.searchsorted(knots, t.contiguous(), right=True) - 1
        cell = cell.clamp(0, len(knots) - 2)
        return coefficients[:, cell], t - knots[cell], cell

    def __call__(self, t: Tensor) -> Tensor:
        """The interpolant at ``t``, float64, like ``t``."""
        c, u, _ = self._locate(t)
        return ((c[0] * u + c[1]) * u + c[2]) * u + c[3]

    def inverse(self, values: Tensor) -> Tensor:
        """The times at which a strictly rising interpolant has ``values``, float64, like them.

        Newton's method, or a halving where it would leave the bracket. An element's result does not
        depend on the others: what has converged stays as it is.
        """
        knots, table, coefficients = self._table(values.device)
        cell = torch.searchsorted(table, values.contiguous(), right=True) - 1
        cell = cell.clamp(0, len(knots) - 2)
        c, target = coefficients[:, cell], values - table[cell]
        low, high = torch.zeros_like(target), knots[cell + 1] - knots[cell]
        u = (high * target / (table[cell + 1] - table[cell])).clamp(low, high)
        for _ in range(110):
            excess = ((c[0] * u + c[1]) * u + c[2]) * u - target
            low, high = torch.where(excess < 0, u, low), torch.where(excess > 0, u, high)
            new = u - excess / ((3 * c[0] * u + 2 * c[1]) * u + c[2])
            usable = ((new > low) & (new < high)) | (new == u)
            new = torch.where(excess == 0, u, torch.where(usable, new, 0.5 * (low + high)))
            if bool((new == u).all()):
                break
            u = new
        return knots[cell] + u

    def between(self, s: Tensor, t: Tensor) -> Tensor:
        """The value at ``t >= s`` less that at ``s``; in neighbouring cells nothing cancels."""
        shape = (s + t).shape
        s, t = s.expand(shape), t.expand(shape)
        c, u, cell = self._locate(s)
        d, v, cell_t = self._locate(t)
        knots, values, _ = self._table(s.device)
        across = (
            rise(c, u, knots[cell + 1] - knots[cell])
            + (values[cell_t] - values[cell + 1])
            + rise(d, torch.zeros_like(v), v)
        )
        return torch.where(cell == cell_t, rise(c, u, v), across)

    def derivative(self, t: Tensor) -> Tensor:
        """Its derivative at ``t``, >= 0, float64, like ``t``."""
        c, u, _ = self._locate(t)
        # It may be 0 at a knot, where it must not round to −10⁻¹⁶: g is its square root.
        return ((3 * c[0] * u + 2 * c[1]) * u + c[2]).clamp(min=0.0)


def rise(c: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The cubic's value at ``v`` less that at ``u``, with the factor ``v − u`` taken out."""
    return (v - u) * (c[0] * (u * u + u * v + v * v) + c[1] * (u + v) + c[2])
