r"""DiffPIR: the denoised state is pulled to the measurement, without a derivative of the score.

Half-quadratic splitting (Zhu et al. 2023, arXiv:2305.08995, eqs. 12–13 and algorithm 1) replaces
:math:`\hat x_0` by a nearby point that explains y as well,

.. math::
   \hat x_0' = \arg\min_x \frac{|y - A(x)|^2}{2 \sigma_y^2} + \frac{|x - \hat x_0|^2}{2 \gamma^2}
   = \hat x_0 + \gamma^2 A^\top (\gamma^2 A A^\top + \sigma_y^2 I)^{-1} (y - A(\hat x_0)),
   \qquad \gamma^2 = \frac{\sigma_t^2}{\alpha_t^2 \zeta},

with the strength ζ of the prior (the paper's lambda). The system is that of
:func:`sdescore.inverse.mmps`, with :math:`\gamma^2 I` as the covariance of the data given the
state. A nonlinear A is replaced by its linearisation at :math:`\hat x_0`. Without noise in the
measurement :math:`A \hat x_0' = y`, and the method is DDNM (Wang et al. 2023, arXiv:2212.00490,
eq. 13).
"""

from __future__ import annotations

from torch import Tensor

from sdescore import checks
from sdescore.guidance.base import GuidedScore
from sdescore.inverse.measurement import Measurement
from sdescore.inverse.pigdm import isotropic
from sdescore.inverse.posterior_score import Linearised, PosteriorScore, Product, parts
from sdescore.score.convention import PLAIN
from sdescore.score.posterior_mean import score_and_mean
from sdescore.shapes import align, without_autocast
from sdescore.typing import Condition, Score, Time

__all__ = ["diffpir"]


class _DiffPIR(PosteriorScore):
    def __init__(self, score: Score, measurement: Measurement, strength: float) -> None:
        super().__init__(score, measurement, "diffpir")
        self.strength = checks.number("strength", strength, above=0)

    def extra_repr(self) -> str:
        return f"strength={self.strength}"

    def _weighed(
        self, residual: Tensor, A: Linearised, J: Product, alpha: Tensor, sigma: Tensor
    ) -> Tensor:
        r2 = sigma.square() / (alpha.square() * self.strength)
        return isotropic(self.measurement, self.data_scale or PLAIN, residual, A, r2)

    def _forward(self, x: Tensor, t: Time, label: Condition | None) -> Tensor:
        own, y = parts(label)
        s, x0 = score_and_mean(self.score, self.sde, x, t, own)  # type: ignore[arg-type]
        with without_autocast(x):
            residual, near = self._seen(x0.detach(), lambda v: v, t, y)
            u = self._weighed(residual, *near)
            # σ²/α times what is added to the score is what is added to x̂₀: r² Aᵀ u.
            return s + near.A.pull(u) / align(near.alpha * self.strength, x)


def diffpir(score: Score, measurement: Measurement, strength: float = 1.0) -> GuidedScore:
    r"""The prior's score with its denoised state pulled to the measurement, without derivatives.

    Parameters
    ----------
    score : callable
        ``(x, t)`` or ``(x, t, label)``, with a linear SDE.
    measurement : Measurement
        Its noise may be 0. A nonlinear operator is replaced by its linearisation at x̂₀.
    strength : float
        The prior's ζ > 0. The paper takes 1 to 25.

    Returns
    -------
    GuidedScore
        It costs one call of the score and one solve with the operator. It takes no product with a
        Jacobian, so the score need not be differentiable. Labels are those of
        :func:`sdescore.inverse.dps`.

    Raises
    ------
    IncompatibleError, ShapeError
        As :func:`sdescore.inverse.dps`.
    ParameterError
        ``strength`` is not > 0.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> prior = ss.GaussianScore([0.0, 0.0], 1.0, ss.VPSDE())
    >>> see_first = ss.inverse.Mask(torch.tensor([True, False]))
    >>> seen = ss.inverse.Measurement(torch.tensor([2.0]), see_first, noise_std=0.0)
    >>> sampler = ss.PredictorCorrector(prior.sde, predictor=ss.DDIM(eta=1.0), steps=20)
    >>> x = sampler.sample(ss.inverse.diffpir(prior, seen), (3, 2))
    >>> bool((x[:, 0] - 2).abs().max() < 1e-5)
    True
    """
    return _DiffPIR(score, measurement, strength)
