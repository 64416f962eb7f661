r"""Scores whose denoised state stays in the range of the data.

A network's estimate :math:`\hat x_0 = (x + \sigma^2 s)/\alpha` may leave the range of pixels, most
of all at high noise. DDPM clips it (Ho et al. 2020, arXiv:2006.11239, the released code). Under
strong guidance dynamic thresholding keeps images from saturating (Saharia et al. 2022,
arXiv:2205.11487, section 2.3):

.. math:: \hat x_0 \leftarrow \frac{r}{m}\, \mathrm{clip}(\hat x_0, -m, m), \qquad
   m = \max\bigl(r,\ \text{the quantile } q \text{ of } |\hat x_0|\bigr)

for a range [−r, r]. For another range, x̂₀ is taken relative to the middle of the range. The
score changes by :math:`\alpha/\sigma^2` times the change of x̂₀. So it is unchanged, bit for bit,
where nothing is clipped.
"""

from __future__ import annotations

from torch import Tensor

from sdescore import checks
from sdescore.guidance.base import GuidedScore, call
from sdescore.score.convention import PLAIN
from sdescore.score.interface import require_label
from sdescore.score.variance import knows_variance, with_variance
from sdescore.shapes import align, flat
from sdescore.typing import Condition, Score, Time
from sdescore.wrappers import owner_of

__all__ = ["clipped"]


class _Clipped(GuidedScore):
    def __init__(self, score: Score, limit: float | None, quantile: float | None) -> None:
        super().__init__([score])
        checks.linear(getattr(self, "sde", None), "clipped", "pass a score with an SDE")
        low, high = getattr(owner_of(score), "data_range", None) or (-1.0, 1.0)
        if limit is not None:
            high = checks.number("limit", limit, above=0, at_most=1e15)
            low = -high
        self.score, self.centre, self.limit = score, (low + high) / 2, (high - low) / 2
        self.quantile = quantile
        if quantile is not None:
            self.quantile = checks.number("quantile", quantile, above=0, at_most=1)

    def extra_repr(self) -> str:
        low, high = self.centre - self.limit, self.centre + self.limit
        return f"range=({low:g}, {high:g}), quantile={self.quantile}"

    def require_label(self, label: object) -> None:
        require_label(self.score, label)

    @property
    def has_variance(self) -> bool:
        return knows_variance(self.score)

    def with_variance(
        self, x: Tensor, t: Time, label: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        score, v = with_variance(self.score, x, t, label)
        return self._bounded(score, x, t), v

    def forward(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        return self._bounded(call(self.score, x, t, label), x, t)

    def _bounded(self, score: Tensor, x: Tensor, t: Time) -> Tensor:
        alpha_t, sigma_t = (align(v.to(x), x) for v in self.sde.marginal(t))  # type: ignore[attr-defined]
        x0 = (x + sigma_t.square() * score) / alpha_t
        scale = self.data_scale or PLAIN
        data = scale.to_data(x0) - self.centre
        bounded = data.clamp(-self.limit, self.limit)
        if self.quantile is not None and data.numel():
            sizes = flat(data).abs().quantile(self.quantile, dim=1).clamp(min=self.limit)
            most = align(sizes, data)
            bounded = data.clamp(-most, most) * (self.limit / most)
        change = scale.to_state(bounded) - scale.to_state(data)
        return score + (alpha_t / sigma_t.square()) * change.to(x)


def clipped(
    score: Score, limit: float | None = None, *, quantile: float | None = None
) -> GuidedScore:
    r"""A score whose denoised state x̂₀ lies in the range of the data.

    Parameters
    ----------
    score : callable
        A model, or another score with a linear SDE; also a guided one.
    limit : float, optional
        r > 0, for the range [−r, r] in the units of the data. By default the range is the model's
        ``data_range``, or [−1, 1] where it has none.
    quantile : float, optional
        q in (0, 1] of dynamic thresholding, taken over the elements of each sample; 0.995 is
        usual. By default x̂₀ is clipped instead.

    Returns
    -------
    GuidedScore
        Its derivative in x is that of the clipped estimate, which is 0 where x̂₀ is clipped.

    Raises
    ------
    IncompatibleError
        The score is not callable, or has no linear SDE.
    ParameterError
        ``limit`` or ``quantile`` is out of range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.GaussianScore(torch.tensor([3.0]), 1e-4, ss.VPSDE())  # x̂₀ = 3, nearly
    >>> sampler = ss.PredictorCorrector(score.sde, predictor=ss.DDIM(), steps=20)
    >>> sampler.sample(ss.guidance.clipped(score), (2, 1)).flatten().tolist()
    [1.0, 1.0]
    """
    return _Clipped(score, limit, quantile)
