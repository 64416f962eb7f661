r"""Moment matching posterior sampling, MMPS (Rozet et al. 2024, arXiv:2405.13712).

Tweedie's formula gives the covariance of x₀ from the derivative J of the posterior mean,
:math:`C = \mathrm{Cov}[x_0 | x_t] = \frac{\sigma^2}{\alpha} J^\top` (section 4.2), so

.. math::
   \nabla \log p_t(y | x) \approx J^\top A^\top
   \Bigl(\sigma_y^2 I + \frac{\sigma^2}{\alpha} A J^\top A^\top \Bigr)^{-1} (y - A \hat x_0) .

The system is solved by generalised conjugate residuals, because a network's J is not symmetric.
Each product with :math:`J^\top` is a backward pass through the graph of the network's one call. For
Gaussian data the result is the exact posterior score.
"""

from __future__ import annotations

from torch import Tensor

from sdescore import checks
from sdescore.guidance.base import GuidedScore
from sdescore.inverse.conjugate_residual import conjugate_residual
from sdescore.inverse.measurement import Measurement
from sdescore.inverse.posterior_score import Linearised, PosteriorScore, Product
from sdescore.shapes import align
from sdescore.typing import Score

__all__ = ["mmps"]


class _MMPS(PosteriorScore):
    def __init__(
        self, score: Score, measurement: Measurement, iterations: int, tolerance: float
    ) -> None:
        super().__init__(score, measurement, "mmps")
        self.iterations = checks.count("iterations", iterations)
        self.tolerance = checks.number("tolerance", tolerance, at_least=0, below=1)

    def extra_repr(self) -> str:
        return f"iterations={self.iterations}, tolerance={self.tolerance}"

    def _weighed(
        self, residual: Tensor, A: Linearised, J: Product, alpha: Tensor, sigma: Tensor
    ) -> Tensor:
        noise = self.measurement.noise_std**2

        def multiply(u: Tensor) -> Tensor:
            v = A.pull(u)
            return noise * u + A.push(align(sigma.square() / alpha, v) * J(v))

        return conjugate_residual(multiply, residual, self.iterations, self.tolerance)


def mmps(
    score: Score, measurement: Measurement, *, iterations: int = 10, tolerance: float = 1e-3
) -> GuidedScore:
    r"""The prior's score plus the likelihood's gradient with Tweedie's posterior covariance.

    Parameters
    ----------
    score : callable
        ``(x, t)`` or ``(x, t, label)``, with a linear SDE and a derivative by autograd.
    measurement : Measurement
        Its noise may be 0. A nonlinear operator is replaced by its linearisation at x̂₀.
    iterations : int
        The largest number of products with the covariance, >= 1.
    tolerance : float
        In [0, 1). A sample stops earlier once its relative residual is at most this.

    Returns
    -------
    GuidedScore
        It costs one call of the score and at most ``iterations + 1`` products with its Jacobian.
        Labels are those of :func:`sdescore.inverse.dps`.

    Raises
    ------
    IncompatibleError, ShapeError
        As :func:`sdescore.inverse.dps`.
    ParameterError
        ``iterations`` or ``tolerance`` is out of range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> prior = ss.GaussianScore([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]], ss.VPSDE())
    >>> see_first = ss.inverse.Mask(torch.tensor([True, False]))
    >>> seen = ss.inverse.Measurement(torch.tensor([2.0]), see_first, noise_std=0.5)
    >>> exact = prior.posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([2.0]), 0.5)
    >>> x = torch.tensor([[0.5, -1.0], [2.0, 0.3]])
    >>> torch.allclose(ss.inverse.mmps(prior, seen)(x, 0.4), exact(x, 0.4), atol=1e-5)
    True
    """
    return _MMPS(score, measurement, iterations, tolerance)
