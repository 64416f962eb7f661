r"""The stationary distribution of a chain: the positive p with Q p = 0.

Pin the mass of one cell and the rest solves :math:`-Q_{rr}\, p_r = Q_{rj}\, p_j`, whose matrix is a
non-singular M-matrix, dominated by its diagonal. Elimination without pivoting has triangular
factors that are M-matrices too (Berman & Plemmons 1994, chapter 6), so its substitutions add
non-negative numbers only, and the result is non-negative.

Let τ be the mean times in which the cells reach the pinned one, :math:`-Q_{rr}^\top \tau = 1`.
Rounding errors ε q of the rates move p by at most about :math:`\varepsilon\, q \max \tau`. This is
small if the pinned cell is the likeliest, which :math:`(\delta I - Q)\, v = \text{const}` with a
small δ finds. It grows with a barrier like :math:`e^{\Delta U/\vartheta}`.
"""

from __future__ import annotations

import numpy as np

from sdescore.errors import IncompatibleError
from sdescore.fokker_planck.generator import Array, Sparse

ACCURACY = 1e-6


def stationary_mass(Q: Sparse) -> Array:
    """Masses >= 0 of sum 1, ``(N,)``, right to an L1 distance of 1e-6, or refused."""
    from scipy.sparse import csc_array, dia_array

    n = Q.shape[0]
    fastest = float(-Q.diagonal().min())
    slow = dia_array((np.full((1, n), 1e-12 * fastest), [0]), shape=Q.shape)
    columns = csc_array(Q)
    try:
        likely = int(np.argmax(_factors(csc_array(slow - Q)).solve(np.ones(n))))
        rest = np.delete(np.arange(n), likely)
        factors = _factors(-columns[rest][:, rest])
    except RuntimeError:
        raise _no_density(np.inf) from None
    uncertain = np.finfo(float).eps * fastest * np.abs(factors.solve(np.ones(n - 1), "T")).max()
    if not uncertain < ACCURACY:
        raise _no_density(uncertain)
    mass = np.ones(n)
    mass[rest] = factors.solve(columns[rest][:, [likely]].toarray()[:, 0])
    total: Array = mass / mass.sum()
    return total


def _factors(matrix: Sparse) -> Sparse:
    """Triangular factors, with pivots on the diagonal."""
    from scipy.sparse.linalg import splu

    options = {"SymmetricMode": True}
    return splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)


def _no_density(uncertain: float) -> IncompatibleError:
    return IncompatibleError(
        f"expected one stationary density, known to {ACCURACY:g}; got cells that reach one another "
        f"so rarely that rounding moves it by up to {uncertain:.2g} (g(t) = 0, or a barrier too "
        "high); use solve over the time that matters, from a start of your own"
    )
