r"""Fréchet distance: optimal transport between the Gaussians fitted to two sample sets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from sdescore.metrics.samples import flatten_pair

__all__ = ["frechet_distance"]


def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""Squared Fréchet (2-Wasserstein) distance between Gaussians fitted to two sample sets.

    .. math::

        d^2 = \|\mu_x - \mu_y\|^2
            + \operatorname{tr}\bigl(C_x + C_y - 2\,(C_x C_y)^{1/2}\bigr)

    With :math:`C_x = A^\top A` and :math:`C_y = B^\top B` the trace is the least
    :math:`\|A - Q B\|_F^2` over orthogonal Q, attained at :math:`Q = U V^\top` where
    :math:`A B^\top = U S V^\top`. It is computed so, with the centred samples over
    :math:`\sqrt{N - 1}` as A and B: a sum of squares is never negative, and small distances keep
    their digits. It is in the square of the data's units.

    The samples are usually features of images; distances in two feature spaces cannot be compared.

    Parameters
    ----------
    x, y : Tensor
        As in :func:`~sdescore.metrics.energy_distance`, N and M >= 2. N may be smaller than the
        number of entries d: the cost is O(k d (N + M)) with k the smaller of max(N, M) and d.

    Raises
    ------
    ShapeError, ParameterError
        As :func:`~sdescore.metrics.energy_distance`; ShapeError also for fewer than two samples.

    Notes
    -----
    Dowson and Landau (1982), "The Fréchet distance between multivariate normal distributions";
    the trace is eq. 1 of Bhatia, Jain and Lim (2019), "On the Bures–Wasserstein distance between
    positive definite matrices", arXiv:1712.01504, its least-squares form their theorem 1.

    It is zero for any two sets with equal means and covariances, whatever their distributions.
    At finite sizes it is biased upwards, the more the larger d: compare at equal sizes, beside the
    :func:`~sdescore.metrics.noise_floor`.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    >>> frechet_distance(x, x + torch.tensor([3.0, 4.0]))
    25.0
    """
    a, b = flatten_pair(x, y, at_least=2)  # a covariance needs two
    shift = a.mean(0) - b.mean(0)
    a, b = _root(a), _root(b)
    missing = len(a) - len(b)  # zero rows below A or B leave AᵀA and BᵀB as they are
    a, b = (pad(m, (0, 0, 0, max(0, n))) for m, n in ((a, -missing), (b, missing)))
    u, _, vh = torch.linalg.svd(a @ b.T)
    return float(shift.square().sum() + (u.T @ a - vh @ b).square().sum())


def _root(samples: Tensor) -> Tensor:
    """Some A ``(k, d)`` with AᵀA the covariance of the samples ``(n, d)``, k = min(n, d)."""
    centred = samples - samples.mean(0)
    root: Tensor = torch.linalg.qr(centred / (len(samples) - 1) ** 0.5, mode="r").R
    return root
