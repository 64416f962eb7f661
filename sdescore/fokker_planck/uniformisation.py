r"""The action of :math:`e^{\tau Q}` by uniformisation (Jensen 1953, Skand. Aktuarietidskr. 36, 87).

With q the largest rate at which any cell is left, :math:`P = I + Q/q` is a stochastic matrix, and

.. math:: e^{\tau Q} p = \sum_{k \ge 0} e^{-m} \frac{m^k}{k!}\, P^k p, \qquad m = q\,\tau :

the chain jumps at the times of a Poisson process, and P says where to. Every term is
non-negative, so nothing cancels, p stays non-negative and its mass stays what it was, at any m.
"""

from __future__ import annotations

import math

import numpy as np

from sdescore.fokker_planck.generator import Array, Sparse

TAIL = 40.0  # weights below e^-40 = 4e-18 of the largest are left out


def poisson_weights(m: float) -> tuple[int, Array]:
    """``(first, weights)``: probabilities of k = first, first + 1, … under Poisson(m).

    By ratios outwards from the mode, then divided by their sum (Fox & Glynn 1988, Comm. ACM 31,
    440): nothing over- or underflows at any m, and the mass of what is left out is not lost.
    """
    # Bernstein's bounds P(k − m <= −x) <= exp(−x²/2m), P(k − m >= x) <= exp(−x²/(2m + 2x/3))
    # (Boucheron et al. 2013, section 2.4) say how far to go.
    low = max(0, math.floor(m - math.sqrt(2 * TAIL * m)))
    high = math.ceil(m + TAIL / 3 + math.sqrt((TAIL / 3) ** 2 + 2 * TAIL * m))
    mode = math.floor(m)
    falling = np.cumprod(np.arange(mode, low, -1) / m)[::-1] if m > 0 else np.empty(0)
    rising = np.cumprod(m / np.arange(mode + 1, high + 1))
    weights = np.concatenate([falling, [1.0], rising])
    large = np.flatnonzero(weights > math.exp(-TAIL))
    weights = weights[large[0] : large[-1] + 1]
    return low + int(large[0]), weights / weights.sum()


def uniformise(Q: Sparse) -> tuple[float, Sparse]:
    """``(q, P)`` with ``Q = q (P − I)``, P ≥ 0 with columns that sum to 1; q = 0 gives P = I."""
    from scipy.sparse import dia_array

    q = float(-Q.diagonal().min())
    P = Q.copy()
    if q > 0:
        P.data = P.data / q  # not by 1/q, which overflows for the smallest q
    ones = np.ones((1, P.shape[0]))
    return q, (P + dia_array((ones, [0]), shape=P.shape)).tocsr()


def poisson_mixture(P: Sparse, first: int, weights: Array, p: Array) -> Array:
    """``Σ_k weights[k] P^(first + k) p``: ``first + len(weights) − 1`` products."""
    for _ in range(first):
        p = P @ p
    total: Array = weights[0] * p
    for weight in weights[1:]:
        p = P @ p
        total += weight * p
    return total
