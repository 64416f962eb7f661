r"""The Fokker–Planck operator as the generator of a Markov chain on the cells.

Integrated over a cell, :math:`\partial_t p = -\nabla \cdot J` with :math:`J = b\,p - D\,\nabla p`
says that its mass changes by the fluxes through its faces. Through a face between cells i and
i + 1, h apart, the exponentially fitted flux takes J and b as constant from centre to centre
(Scharfetter & Gummel 1969, IEEE Trans. Electron Devices 16, 64; in physics Chang & Cooper 1970,
J. Comput. Phys. 6, 1):

.. math::
   J = \frac{D}{h} \bigl[ B(-P)\, p_i - B(P)\, p_{i+1} \bigr], \qquad
   P = \frac{b h}{D}, \qquad B(z) = \frac{z}{e^z - 1} .

So mass jumps from i to i + 1 at the rate :math:`D B(-P)/h^2`, and back at :math:`D B(P)/h^2`. Both
are positive whatever the Péclet number P, J vanishes exactly on :math:`p_{i+1} = e^P p_i`,
Boltzmann's ratio, and the error is O(h²). From :math:`B(-z) = B(z) + z`,

.. math:: \frac{D}{h^2} B(\mp P) = \frac{D}{h^2} B(|P|) + \frac{\max(\pm b, 0)}{h},

which neither cancels nor divides by zero: at D = 0 it is the upwind flux, of error O(h).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdescore.fokker_planck.box import Box

Array = NDArray[np.float64]
Sparse = Any  # scipy.sparse.csr_array; scipy ships no types


def bernoulli(z: Array) -> Array:
    """``B(z) = z / (exp(z) − 1)`` for ``z >= 0``: 1 at 0, 0 at infinity."""
    # Past 700 B is below 1e-301, and the exponential would overflow.
    z = np.minimum(z, 700.0)
    return np.divide(z, np.expm1(z), out=np.ones_like(z), where=z > 0)


def jump_rates(drift: Array, diffusivity: float, width: float) -> tuple[Array, Array]:
    """Rates of the jumps along and against the axis, through faces with this normal drift."""
    speed = np.abs(drift)
    spread = np.zeros_like(speed)
    if diffusivity > 0:
        with np.errstate(over="ignore"):  # an infinite Péclet number is one
            spread = diffusivity / width**2 * bernoulli(speed * width / diffusivity)
    return spread + np.maximum(drift, 0) / width, spread + np.maximum(-drift, 0) / width


def chain_generator(box: Box, drift: Sequence[Array], diffusivity: float) -> Sparse:
    """The matrix Q of ``dp/dt = Q p``: off-diagonals >= 0, columns that sum to 0.

    ``drift[a]`` is the drift's component a at ``box.faces(a)``; ``diffusivity`` is D = g²/2.
    """
    from scipy.sparse import csr_array

    total = math.prod(box.cells)
    leaving = np.zeros(total)
    rows, columns, rates = [], [], []
    for axis, (b, width) in enumerate(zip(drift, box.widths, strict=True)):
        before, behind = (side.numpy() for side in box.sides(axis))
        along, against = jump_rates(b, diffusivity, width)
        rows += [behind, before]
        columns += [before, behind]
        rates += [along, against]
        # Each cell stands before at most one face of an axis, so nothing is overwritten.
        leaving[before] += along
        leaving[behind] += against
    every = np.arange(total)
    entries = np.concatenate([*rates, -leaving])
    indices = np.concatenate([*rows, every]), np.concatenate([*columns, every])
    return csr_array((entries, indices), shape=(total, total))
