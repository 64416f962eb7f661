r"""MMPS with an explicit matrix for the covariance of y given the state.

.. math::
   \log \psi_t(x) = \log N(y;\, A \hat x_0,\, \Sigma_y), \qquad
   \Sigma_y = \sigma_y^2 I + A C A^\top, \qquad C = \mathrm{Cov}[x_0 | x_t]
   = \frac{\sigma^2}{\alpha} J^\top

For a measurement of m numbers, the matrix :math:`\Sigma_y` takes m products with the Jacobian. Its
determinant is then known, which :func:`sdescore.inverse.mmps` does not compute.
:class:`sdescore.inverse.TwistedSMC` needs the determinant to compare particles in modes of
different width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdescore import checks
from sdescore.guidance.base import GuidedScore
from sdescore.inverse.measurement import Measurement
from sdescore.inverse.posterior_score import Linearised, Near, PosteriorScore, Product
from sdescore.shapes import align, sum_event
from sdescore.typing import Score

__all__ = ["moments"]


class _Moments(PosteriorScore):
    def __init__(self, score: Score, measurement: Measurement) -> None:
        super().__init__(score, measurement, "moments")
        std = measurement.noise_std
        checks.that(std > 0, "a measurement with noise_std > 0 for moments", f"{std}; use mmps")

    def _weighed(
        self, residual: Tensor, A: Linearised, J: Product, alpha: Tensor, sigma: Tensor
    ) -> Tensor:
        return self._terms(residual, Near(A, J, alpha, sigma))[0]

    def _terms(self, residual: Tensor, near: Near) -> tuple[Tensor, Tensor, Tensor]:
        m = math.prod(residual.shape[1:])
        gain, columns = align(near.sigma.square() / near.alpha, residual.flatten(1)), []
        size = torch.zeros_like(residual.flatten(1)[:, 0])
        for i in range(m):
            unit = torch.zeros_like(residual).flatten(1)
            unit[:, i] = 1.0
            v = near.A.pull(unit.reshape(residual.shape))
            columns.append(gain * near.A.push(near.J(v)).flatten(1))
            size = size + sum_event(v * v)
        ACA = torch.stack(columns, 2)
        # An imperfect network's covariance need be neither symmetric nor positive.
        values, U = torch.linalg.eigh(0.5 * (ACA + ACA.mT))
        values = values.clamp(min=0)
        total = values + self.measurement.noise_std**2
        rotated = (U.mT @ residual.flatten(1)[..., None])[..., 0]
        u = (U @ (rotated / total)[..., None])[..., 0]
        log_psi = -0.5 * (rotated.square() / total + total.log()).sum(1)
        return (
            u.reshape(residual.shape),
            log_psi,
            values.sum(1) / size.clamp(min=torch.finfo(size.dtype).tiny),
        )


def moments(score: Score, measurement: Measurement) -> GuidedScore:
    r"""The prior's score plus the likelihood's gradient by Tweedie's covariance, solved exactly.

    Parameters
    ----------
    score : callable
        ``(x, t)`` or ``(x, t, label)``, with a linear SDE and a derivative by autograd.
    measurement : Measurement
        It has m numbers, and its noise is > 0.

    Returns
    -------
    GuidedScore
        It costs one call of the score and m + 1 products with its Jacobian. Labels are those of
        :func:`sdescore.inverse.dps`. It is the best guide of :class:`sdescore.inverse.TwistedSMC`.

    Raises
    ------
    IncompatibleError, ShapeError
        As :func:`sdescore.inverse.dps`.
    ParameterError
        The measurement has no noise.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> prior = ss.GaussianScore([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]], ss.VPSDE())
    >>> see_first = ss.inverse.Mask(torch.tensor([True, False]))
    >>> seen = ss.inverse.Measurement(torch.tensor([2.0]), see_first, noise_std=0.5)
    >>> exact = prior.posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([2.0]), 0.5)
    >>> x = torch.tensor([[0.5, -1.0], [2.0, 0.3]])
    >>> torch.allclose(ss.inverse.moments(prior, seen)(x, 0.4), exact(x, 0.4), atol=1e-5)
    True
    """
    return _Moments(score, measurement)
