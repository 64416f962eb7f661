r"""A mixture of Gaussians seen through a linear measurement: again a mixture, and its evidence.

With :math:`y = A x_0 + n`, :math:`n \sim N(0, r^2 I)` and a component's covariance
:math:`C = F F^\top`, let :math:`A F = P D Q^\top` be a singular value decomposition. Then

.. math::
   E[x_0 | y] = m + F Q \frac{D}{D^2 + r^2} P^\top (y - A m), \qquad
   \mathrm{Cov}[x_0 | y] = F Q \frac{r^2}{D^2 + r^2} Q^\top F^\top, \\
   w_k' \propto w_k\, N\bigl(y;\, A m_k,\, P_k (D_k^2 + r^2) P_k^\top\bigr)

(Bishop 2006, "Pattern recognition and machine learning", eqs. 2.113–2.117). No inverse of a
covariance enters, so r = 0 and a singular C need nothing special. Noise of another covariance
:math:`R = L L^\top` is whitened first, with :math:`L^{-1} y` and :math:`L^{-1} A`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.score.numbers import finite


@dataclass(frozen=True)
class Conditioned:
    """A mixture given a measurement, float64."""

    log_evidence: Tensor  # ()
    log_weights: Tensor  # (K,)
    means: Tensor  # (K, d)
    covariances: Tensor  # (K, d, d)


def conditioned(
    log_weights: Tensor, means: Tensor, factors: Tensor, A: Tensor, y: Tensor, noise: Tensor
) -> Conditioned:
    """The mixture with ``factors`` F ``(K, d, d)`` given ``y`` ``(m,)``; ``noise`` as measured."""
    m = len(y)
    log_volume = torch.zeros_like(log_weights[0])
    if noise.ndim == 2:
        L = torch.linalg.cholesky(noise)
        A, y = (torch.linalg.solve_triangular(L, v, upper=False) for v in (A, y[:, None]))
        y, log_volume, noise = y[:, 0], L.diagonal().log().sum(), torch.ones_like(noise[0, 0])
    P, D, Qt = torch.linalg.svd(A @ factors)  # (K, m, m), (K, min(m, d)), (K, d, d)
    D2 = D.square()
    seen = torch.nn.functional.pad(D2, (0, m - D.shape[1])) + noise.square()
    least = (m * torch.finfo(D.dtype).eps) ** 2 * seen.amax(1, keepdim=True)
    got = "noise = 0 and a combination of rows of A that no datum changes; give noise > 0"
    checks.that(bool((seen > least).all()), "a measurement with a density", got)
    rest = (P.mT @ (y - means @ A.T)[..., None])[..., 0]  # Pᵀ(y − A m), (K, m)
    joint = log_weights - 0.5 * (rest.square() / seen + seen.log() + math.log(2 * math.pi)).sum(1)
    evidence = joint.logsumexp(0)
    lifted = factors @ Qt.mT
    k = D.shape[1]
    gain = (D / seen[:, :k] * rest[:, :k])[..., None]
    left = torch.ones_like(lifted[:, 0])  # r²/(D² + r²), 1 in the directions that A does not see
    left[:, :k] = noise.square() / seen[:, :k]
    root = lifted * left.sqrt()[:, None]
    return Conditioned(
        evidence - log_volume,
        joint - evidence,
        means + (lifted[..., :k] @ gain)[..., 0],
        root @ root.mT,
    )


def measured(A: Any, y: Any, noise: Any, event: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """A ``(m, d)``, y ``(m,)`` and the noise's std ``()`` or covariance ``(m, m)``, float64."""
    d = math.prod(event)
    matrix = A.matrix() if hasattr(A, "matrix") else A
    matrix, y, noise = finite("A", matrix), finite("y", y).flatten(), finite("noise", noise)
    m = len(y)
    expected = f"A of shape ({m}, {d}), for y has {m} numbers and an event {d}"
    checks.that(m > 0 and matrix.shape == (m, d), expected, tuple(matrix.shape), ShapeError)
    expected = f"noise as one standard deviation or a covariance ({m}, {m})"
    checks.that(noise.shape in ((), (m, m)), expected, tuple(noise.shape), ShapeError)
    if not noise.ndim:
        checks.that(bool(noise >= 0), "a standard deviation noise >= 0", f"{noise:g}")
        return matrix, y, noise
    skew = (noise - noise.T).abs().max().item()
    lowest = torch.linalg.eigvalsh(noise)[0].item()
    fits = skew <= 1e-6 * noise.abs().max().item() and lowest > 0
    got = f"a least eigenvalue {lowest:g} and C - C^T up to {skew:g}"
    checks.that(fits, "a symmetric positive definite covariance of the noise", got)
    return matrix, y, noise
