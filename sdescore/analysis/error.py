r"""The exact distribution of a sampler's output on Gaussian data, and its distance from the data.

The chain's numbers act on the spectrum of the data's covariance
(:mod:`sdescore.samplers.predictor_corrector.exact`). A sampler errs for three reasons, each the
distance between two known distributions:

1. the prior: the chain starts from N(0, σ_T²) in place of the diffused data,
2. the steps: a chain that starts from the diffused data does not end in the diffused data at the
   last time,
3. the end: the last denoise of the diffused data is not a draw of the data.

Where a model's own error is assumed, it is a fourth: the output against that of an exact score.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.analysis.model_error import constant_error
from sdescore.analysis.pca import data_rows, decomposed, mean_of
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.samplers.predictor_corrector.chain import Move
from sdescore.samplers.predictor_corrector.exact import AffineMap, AffineRows, Spectrum
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.tableau.tableau import flow_ending, mean_ending

__all__ = ["GaussianOutput", "gaussian_error"]


@dataclass(frozen=True, eq=False)
class GaussianOutput:
    r"""The distribution of a sampler's output beside the data's, mode by mode.

    All tensors are float64 and ``(M,)``, where not said otherwise. Gradients flow to the times.

    Attributes
    ----------
    evaluations : int
        Score evaluations of a sample.
    data_mean, data_variance, mean, variance : Tensor
        Of the data's modes, and of the output.
    exact_variance : Tensor
        Of the output of an exact score, which has the same mean.
    started_mean, started_variance : Tensor
        Of the output of an exact score, if the chain started from the diffused data.
    ended_mean, ended_variance : Tensor
        Of the last denoise of the diffused data at the last time, by one evaluation there.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=20)
    >>> found = ss.analysis.gaussian_error(sampler, torch.tensor([1.0, 0.01]))
    >>> round(found.w2.item(), 2), bool(found.w2_of_prior < 1e-4)  # the steps make all of the error
    (0.12, True)
    """

    evaluations: int
    data_mean: Tensor
    data_variance: Tensor
    mean: Tensor
    variance: Tensor
    exact_variance: Tensor
    started_mean: Tensor
    started_variance: Tensor
    ended_mean: Tensor
    ended_variance: Tensor

    @property
    def w2(self) -> Tensor:
        r"""2-Wasserstein distance to the data, ``()``:
        :math:`\sqrt{\sum (m - \mu)^2 + (\sqrt Q - \sqrt\Lambda)^2}`."""
        return w2(self.mean, self.variance, self.data_mean, self.data_variance)

    @property
    def w2_of_score(self) -> Tensor:
        """W2 between the output and the output of an exact score, ``()``."""
        return w2(self.mean, self.variance, self.mean, self.exact_variance)

    @property
    def w2_of_prior(self) -> Tensor:
        """W2 between an exact score's outputs from the prior and from the diffused data, ``()``."""
        return w2(self.mean, self.exact_variance, self.started_mean, self.started_variance)

    @property
    def w2_of_steps(self) -> Tensor:
        """W2 between a chain from the diffused data and those data's last denoise, ``()``."""
        return w2(self.started_mean, self.started_variance, self.ended_mean, self.ended_variance)

    @property
    def w2_of_end(self) -> Tensor:
        """W2 of the diffused data's last denoise to the data; ``w2`` is at most the four's sum."""
        return w2(self.ended_mean, self.ended_variance, self.data_mean, self.data_variance)

    @property
    def kl(self) -> Tensor:
        r"""KL(data ‖ output) in nats, ``()``:
        :math:`\tfrac12 \sum \Lambda/Q + (m - \mu)^2/Q - 1 - \log \Lambda/Q`.

        Infinite where a mode of the data has no variance in the output, NaN where it has none
        in the data.
        """
        ratio = self.data_variance / self.variance
        off = (self.mean - self.data_mean).square() / self.variance
        return 0.5 * (ratio + off - 1 - ratio.log()).sum()

    @property
    def relative_std(self) -> Tensor:
        """``√(Q/Λ) − 1``: the relative error of each mode's standard deviation."""
        return (self.variance / self.data_variance).sqrt() - 1


def gaussian_error(
    sampler: PredictorCorrector,
    spectrum: Tensor | None = None,
    *,
    data: Tensor | None = None,
    mean: Tensor | None = None,
    times: Tensor | None = None,
    score_error: float = 0.0,
) -> GaussianOutput:
    r"""The exact distribution of a sampler's output, for Gaussian data and their exact score.

    For other data, it is that of the Gaussian with the same mean and covariance. It shows which
    directions come out too wide or too narrow, and not what happens between modes.

    Parameters
    ----------
    sampler : PredictorCorrector
        On a linear SDE, with affine steps.
    spectrum : Tensor
        ``(M,)``, the eigenvalues Λ >= 0 of the data's covariance; a power spectrum, where the
        data are stationary.
    data : Tensor
        States ``(n, *E)``, n >= 2, in place of ``spectrum`` and ``mean``, which are computed from
        them. Of a model that standardises its data they are ``model.from_data(x)``.
    mean : Tensor, optional
        ``(M,)``; 0 by default.
    times : Tensor, optional
        Falling, ``(n,)`` float64, in place of the sampler's grid; may require gradients.
    score_error : float
        Standard deviation >= 0 of the model's error in ε, independent in all evaluations. A
        network's errors at neighbouring times may be alike, and then add up to more.

    Raises
    ------
    IncompatibleError
        A step that is not affine, an SDE that is not linear, or both or none of ``spectrum``
        and ``data``.
    ShapeError, ParameterError
        ``spectrum`` or ``mean`` is not ``(M,)``, or there are fewer than two data; NaN or infinite
        values, a negative variance or ``score_error``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=50)
    >>> error = ss.analysis.gaussian_error(sampler, torch.tensor([1.0, 0.01]))
    >>> [round(e, 3) for e in error.relative_std.tolist()]
    [-0.048, -0.052]
    """
    sde = checks.linear(sampler.sde, "an exact error", "simulate the sampler instead")
    score_error = checks.number("score_error", score_error, at_least=0)
    modes = requested(spectrum, data, mean)
    times = sampler.times if times is None else checks.time(times, sde.T, "times")
    rows = AffineRows(sampler.moves(times))
    chain = rows.on(sde, modes)
    erring = rows.on(sde, modes, constant_error(score_error)) if score_error else chain
    alpha_T, sigma_T = sde.marginal(times[0])
    prior = sigma_T.square() + (alpha_T * sampler.data_std).square()
    end = modes.marginal(sde, times[-1])
    if sampler.denoise:
        how = flow_ending if sampler.denoise == "flow" else mean_ending
        last = AffineRows([Move(0, times[-1].item(), 0.0, how(sde, times[-1:]))])
        end = push(last.on(sde, modes), *end)
    return GaussianOutput(
        sum(tableau.evaluations for tableau, _, _ in rows.rows),
        modes.mean,
        modes.variance,
        *push(erring, torch.zeros_like(modes.mean), prior),
        chain.transfer.square() * prior + chain.variance,
        *push(chain, *modes.marginal(sde, times[0])),
        *end,
    )


def push(chain: AffineMap, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance after the map of a Gaussian before it."""
    out = chain.transfer.square() * variance + chain.variance
    return chain.transfer * mean + chain.offset, out


def w2(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """2-Wasserstein distance of Gaussians with the same eigenvectors."""
    wide = variance.sqrt() - other_variance.sqrt()
    return ((mean - other_mean).square() + wide.square()).sum().sqrt()


def requested(spectrum: Tensor | None, data: Tensor | None, mean: Tensor | None) -> Spectrum:
    """The modes of a caller's spectrum or data, checked."""
    if (spectrum is None) == (data is None):
        raise IncompatibleError("expected one of spectrum= and data=, got both or none")
    if data is not None:
        if mean is not None:
            raise IncompatibleError("expected no mean= beside data=, which have their own")
        return data_spectrum(data)
    for name, value in (("spectrum", spectrum), ("mean", mean)):
        fits = value is None or (isinstance(value, Tensor) and checks.dense(name, value).ndim == 1)
        what = f"{getattr(value, 'dtype', '')} {getattr(value, 'shape', type(value).__name__)}"
        checks.that(fits, f"{name} to be a real tensor (M,)", what.strip(), ShapeError)
    variance = spectrum.to("cpu", torch.float64)  # type: ignore[union-attr]
    usable = len(variance) > 0 and bool((variance.isfinite() & (variance >= 0)).all())
    checks.that(usable, "finite variances >= 0, at least one", f"{spectrum!r:.200}")
    centre = torch.zeros_like(variance) if mean is None else mean.to("cpu", torch.float64)
    expected, got = f"mean of shape {tuple(variance.shape)}", tuple(centre.shape)
    checks.that(centre.shape == variance.shape, expected, got, ShapeError)
    checks.that(bool(centre.isfinite().all()), "a finite mean", f"{mean!r:.200}")
    return Spectrum(variance, centre)


def data_spectrum(data: Tensor) -> Spectrum:
    """Eigenvalues of the covariance of ``data`` ``(n, *E)``, and the mean along their vectors."""
    x = data_rows(data)
    mean = mean_of(x)
    variance, axes = decomposed(x, mean)
    return Spectrum(variance, mean @ axes)
