r"""Pseudo-inverse guided diffusion, ΠGDM (Song et al. 2023, "Pseudoinverse-guided diffusion models
for inverse problems", ICLR, https://openreview.net/forum?id=9_gsMA8MRKQ).

ΠGDM assumes one posterior variance for all elements of x₀, :math:`C = r_t^2 I` (section 3):

.. math::
   \nabla \log p_t(y | x) \approx J^\top A^\top (r_t^2 A A^\top + \sigma_y^2 I)^{-1}
   (y - A \hat x_0), \qquad
   r_t^2 = \frac{\sigma^2 s^2}{\alpha^2 s^2 + \sigma^2} .

:math:`r_t^2` is the posterior variance of data with independent Gaussian elements of standard
deviation s. For such data the result is the exact posterior score.
"""

from __future__ import annotations

from torch import Tensor

from sdescore import checks
from sdescore.guidance.base import GuidedScore
from sdescore.inverse.conjugate_gradient import conjugate_gradient
from sdescore.inverse.measurement import Measurement
from sdescore.inverse.posterior_score import Linearised, Near, PosteriorScore, Product
from sdescore.score.convention import PLAIN, DataScale
from sdescore.shapes import align
from sdescore.typing import Score
from sdescore.wrappers import owner_of

__all__ = ["pigdm"]

# Products with A Aᵀ where no closed form is known; each is cheap beside the network.
_ITERATIONS, _TOLERANCE = 100, 1e-6


class _PiGDM(PosteriorScore):
    def __init__(self, score: Score, measurement: Measurement, data_std: float | None) -> None:
        super().__init__(score, measurement, "pigdm")
        self.data_std = spread_of(score, data_std)

    def extra_repr(self) -> str:
        return f"data_std={self.data_std}"

    def _weighed(
        self, residual: Tensor, A: Linearised, J: Product, alpha: Tensor, sigma: Tensor
    ) -> Tensor:
        r2 = element_variance(self.data_std, alpha, sigma)
        return isotropic(self.measurement, self.data_scale or PLAIN, residual, A, r2)

    def _terms(self, residual: Tensor, near: Near) -> tuple[Tensor, Tensor, Tensor]:
        u, log_psi, _ = super()._terms(residual, near)
        r2 = element_variance(self.data_std, near.alpha, near.sigma)
        return u, log_psi, r2.expand(len(residual))


def spread_of(score: Score, data_std: float | None) -> float:
    """s: ``data_std``, or the model's ``sigma_data``, or 1."""
    own = getattr(owner_of(score), "sigma_data", None) or 1.0 if data_std is None else data_std
    return checks.number("data_std", own, above=0, at_most=1e15)


def element_variance(data_std: float, alpha: Tensor, sigma: Tensor) -> Tensor:
    """r_t², the variance of an element of x₀ given the state."""
    spread = data_std**2
    return sigma.square() * spread / (alpha.square() * spread + sigma.square())


def isotropic(
    measurement: Measurement, scale: DataScale, residual: Tensor, A: Linearised, r2: Tensor
) -> Tensor:
    """``(r² A Aᵀ + σ_y² I)⁻¹`` times the residual ``(B, *M)``, A of states; r² is () or (B,)."""
    noise, operator = measurement.noise_std**2, measurement.operator
    if operator.linear and not isinstance(scale.std, tuple):
        return operator.solve(residual, noise, r2 * scale.std**2)
    gamma2 = align(r2, residual)

    def multiply(u: Tensor) -> Tensor:
        return noise * u + gamma2 * A.push(A.pull(u))

    return conjugate_gradient(multiply, residual, _ITERATIONS, _TOLERANCE)


def pigdm(score: Score, measurement: Measurement, data_std: float | None = None) -> GuidedScore:
    r"""The prior's score plus the likelihood's gradient with one variance for all elements.

    Parameters
    ----------
    score : callable
        ``(x, t)`` or ``(x, t, label)``, with a linear SDE and a derivative by autograd.
    measurement : Measurement
        Its noise may be 0. A nonlinear operator is replaced by its linearisation at x̂₀.
    data_std : float, optional
        s > 0, the data's standard deviation in the units of the states; by default the model's
        ``sigma_data``, or 1.

    Returns
    -------
    GuidedScore
        It costs one call of the score, one product with its Jacobian and one solve with the
        operator. Labels are those of :func:`sdescore.inverse.dps`.

    Raises
    ------
    IncompatibleError, ShapeError
        As :func:`sdescore.inverse.dps`.
    ParameterError
        ``data_std`` is not > 0.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> prior = ss.GaussianScore([0.0, 0.0], 1.0, ss.VPSDE())
    >>> see_first = ss.inverse.Mask(torch.tensor([True, False]))
    >>> seen = ss.inverse.Measurement(torch.tensor([2.0]), see_first, noise_std=0.5)
    >>> exact = prior.posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([2.0]), 0.5)
    >>> x = torch.tensor([[0.5, -1.0], [2.0, 0.3]])
    >>> torch.allclose(ss.inverse.pigdm(prior, seen)(x, 0.4), exact(x, 0.4), atol=1e-5)
    True
    """
    return _PiGDM(score, measurement, data_std)
