r"""Diffusion posterior sampling (Chung et al. 2022, arXiv:2209.14687).

The likelihood of x₀ is taken at the posterior mean, :math:`p_t(y | x) \approx p(y | \hat x_0(x))`
(theorem 1). At high noise x₀ is far from its mean, and this likelihood is too narrow. A variance
that grows with the noise corrects it (Rozet & Louppe 2023, arXiv:2306.10574, section 3.2):

.. math:: \nabla \log p_t(y | x) \approx -\frac{\zeta}{2 (\sigma_y^2 + \gamma\, a\, r_t^2)}
   \nabla_x \lVert y - A(\hat x_0(x)) \rVert^2 , \qquad
   r_t^2 = \frac{\sigma^2 s^2}{\alpha^2 s^2 + \sigma^2}, \qquad
   a = \frac{\lVert A^\top r \rVert^2}{\lVert r \rVert^2}, \quad r = y - A(\hat x_0) .

:math:`r_t^2` is the variance that :func:`sdescore.inverse.pigdm` gives each element of x₀, and
:math:`a\, r_t^2` is the variance that this adds to y in the direction of the residual r. So DPS
solves ΠGDM's system along one direction. The paper's code takes a step of fixed length along the
gradient at each of 1,000 steps. Here the gradient is part of the score, so the result does not
depend on the number of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore import checks
from sdescore.guidance.base import GuidedScore
from sdescore.inverse.measurement import Measurement
from sdescore.inverse.pigdm import element_variance, spread_of
from sdescore.inverse.posterior_score import Linearised, PosteriorScore, Product
from sdescore.shapes import align, sum_event
from sdescore.typing import Score

__all__ = ["dps"]


class _DPS(PosteriorScore):
    def __init__(
        self, score: Score, measurement: Measurement, zeta: float, gamma: float, std: float | None
    ) -> None:
        super().__init__(score, measurement, "dps")
        self.zeta = checks.number("zeta", zeta, at_least=0)
        self.gamma = checks.number("gamma", gamma, at_least=0)
        self.data_std = spread_of(score, std)
        some = measurement.noise_std > 0 or gamma > 0
        checks.that(some, "gamma > 0 where the measurement has no noise", f"gamma={gamma}")

    def extra_repr(self) -> str:
        return f"zeta={self.zeta}, gamma={self.gamma}, data_std={self.data_std}"

    def _weighed(
        self, residual: Tensor, A: Linearised, J: Product, alpha: Tensor, sigma: Tensor
    ) -> Tensor:
        tiny = torch.finfo(residual.dtype).tiny
        a = sum_event(A.pull(residual).square()) / sum_event(residual.square()).clamp(min=tiny)
        r2 = element_variance(self.data_std, alpha, sigma)
        variance = self.measurement.noise_std**2 + self.gamma * a * r2
        # Without noise it is 0 where Aᵀ r = 0, and there the gradient is 0 with any factor.
        factor = torch.where(variance > 0, self.zeta / variance, 0.0)
        return align(factor, residual) * residual


def dps(
    score: Score,
    measurement: Measurement,
    zeta: float = 1.0,
    *,
    gamma: float = 0.5,
    data_std: float | None = None,
) -> GuidedScore:
    r"""The prior's score plus the likelihood's gradient at the posterior mean; any operator.

    It is cheaper and less exact than :func:`sdescore.inverse.pigdm` and
    :func:`sdescore.inverse.mmps`.

    Parameters
    ----------
    score : callable
        ``(x, t)`` or ``(x, t, label)``, with a linear SDE and a derivative by autograd.
    measurement : Measurement
        The observed y, with its operator and its noise.
    zeta : float
        ζ >= 0, a factor on the likelihood's gradient. At 1 the likelihood has its own weight.
    gamma : float
        γ >= 0, the share of ΠGDM's variance of y that is added. 0 gives the paper's likelihood,
        which requires noise > 0.
    data_std : float, optional
        s > 0, the data's standard deviation in the units of the states; by default the model's
        ``sigma_data``, or 1.

    Returns
    -------
    GuidedScore
        It costs one call of the score and one product with its Jacobian. A sampler's ``label`` goes
        to the score. ``label={"measurement": Y}`` gives each sample its own y, ``Y`` ``(B, *M)``.
        ``{"measurement": Y, "label": label}`` passes a label as well.

    Raises
    ------
    IncompatibleError
        The score is not callable or has no linear SDE, or ``measurement`` is no measurement. When
        called, the score has no gradient.
    ParameterError
        ``zeta``, ``gamma`` or ``data_std`` is out of range, or ``gamma`` and the noise are both 0.
    ShapeError
        When sampling, a row of y does not have the operator's ``measurement_shape``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> prior = ss.GaussianScore([0.0, 0.0], 1.0, ss.VPSDE())
    >>> see_first = ss.inverse.Mask(torch.tensor([True, False]))
    >>> seen = ss.inverse.Measurement(torch.tensor([2.0]), see_first, noise_std=0.5)
    >>> exact = prior.posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([2.0]), 0.5)
    >>> x, guided = torch.tensor([[0.5, -1.0], [2.0, 0.3]]), ss.inverse.dps(prior, seen, gamma=1.0)
    >>> torch.allclose(guided(x, 0.4), exact(x, 0.4), atol=1e-5)  # for this prior
    True
    """
    return _DPS(score, measurement, zeta, gamma, data_std)
