r"""The exact law of a sampler's output on Gaussian data, and how far it is from the data's.

Nothing is sampled: the chain's numbers act on the spectrum of the data's covariance
(:mod:`sdescore.analysis.chain`). What a sampler gets wrong has three causes, each the difference of
two laws that are known:

1. the prior: the chain starts from N(0, σ_T²) in place of the diffused data,
2. the steps: the chain started right does not end in the diffused data at the last time,
3. the end: the last denoise of the diffused data is not a draw of the data.

A model's own error, where one is assumed, comes first: the output against that of an exact score.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.analysis.chain import AffineMap, AffineRows, Spectrum
from sdescore.analysis.model_error import constant
from sdescore.checks import finite, require
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.samplers.predictor_corrector.chain import Move
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.shapes import flat
from sdescore.tableau.ending import flow_ending, mean_ending

__all__ = ["GaussianError", "data_spectrum", "gaussian_error"]


@dataclass(frozen=True, eq=False)
class GaussianError:
    r"""The law of a sampler's output, mode by mode, beside the data's.

    All tensors are float64, ``(M,)`` where not said otherwise; gradients of the times flow.

    Attributes
    ----------
    evaluations : int
        Score evaluations of a sample.
    data_mean, data_variance : Tensor
        Of the data's modes.
    mean, variance : Tensor
        Of the output.
    exact_variance : Tensor
        Of the output of an exact score, which has the same mean.
    started_mean, started_variance : Tensor
        Of the output of an exact score if the chain started from the diffused data's law.
    ended_mean, ended_variance : Tensor
        Of the last denoise of the diffused data at the last time: what one evaluation there makes
        of it, whatever else a predictor of its own ending weighs.
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
        """W2 between that and the output of a chain that started right, ``()``."""
        return w2(self.mean, self.exact_variance, self.started_mean, self.started_variance)

    @property
    def w2_of_steps(self) -> Tensor:
        """W2 of the chain that started right to the diffused data's denoise, ``()``."""
        return w2(self.started_mean, self.started_variance, self.ended_mean, self.ended_variance)

    @property
    def w2_of_end(self) -> Tensor:
        """W2 of the diffused data's denoise to the data, ``()``. The four bound ``w2``."""
        return w2(self.ended_mean, self.ended_variance, self.data_mean, self.data_variance)

    @property
    def kl(self) -> Tensor:
        r"""KL(data ‖ output) in nats, ``()``: what the output's model costs in likelihood,
        :math:`\tfrac12 \sum \Lambda/Q + (m - \mu)^2/Q - 1 - \log \Lambda/Q`.

        Infinite where a mode of the data has no variance in the output, NaN where it has none
        in the data.
        """
        ratio = self.data_variance / self.variance
        off = (self.mean - self.data_mean).square() / self.variance
        return 0.5 * (ratio + off - 1 - ratio.log()).sum()

    @property
    def relative_std(self) -> Tensor:
        """``√(Q/Λ) − 1``: how much too wide each mode comes out."""
        return (self.variance / self.data_variance).sqrt() - 1


def gaussian_error(
    sampler: PredictorCorrector,
    spectrum: Tensor | None = None,
    *,
    data: Tensor | None = None,
    mean: Tensor | None = None,
    times: Tensor | None = None,
    score_error: float = 0.0,
) -> GaussianError:
    r"""The exact law of what ``sampler`` draws where the data are Gaussian and the score exact.

    On any other data it is the law for the Gaussian with the same mean and covariance: which
    directions come out too wide or too narrow, not what happens between modes.

    Parameters
    ----------
    sampler : PredictorCorrector
        On a linear SDE, with affine steps.
    spectrum : Tensor
        ``(M,)``, the eigenvalues Λ >= 0 of the data's covariance; a power spectrum, where the
        data are stationary.
    data : Tensor
        ``(n, *E)``, n >= 2, in place of ``spectrum`` and ``mean``: their eigenvalues, and the
        mean in the eigenvectors' directions.
    mean : Tensor, optional
        ``(M,)``; 0 by default.
    times : Tensor, optional
        Falling, ``(n,)`` float64, in place of the sampler's grid; may require gradients.
    score_error : float
        Standard deviation >= 0 of an error of every evaluation's ε, independent of the others: a
        model that is not exact. Errors alike at neighbouring times, as a network's may well be,
        add up to more in many short steps.

    Raises
    ------
    IncompatibleError
        A step that is not affine, an SDE that is not linear, or both or none of ``spectrum``
        and ``data``.
    ShapeError, ScheduleError
        A bad tensor.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=50)
    >>> error = ss.analysis.gaussian_error(sampler, torch.tensor([1.0, 0.01]))
    >>> [round(e, 3) for e in error.relative_std.tolist()]
    [-0.037, -0.221]
    """
    sde = sampler.sde
    if not hasattr(sde, "marginal"):
        raise IncompatibleError(
            f"expected a sampler on a LinearSDE, got one on {type(sde).__name__}"
        )
    usable = finite(score_error) and score_error >= 0
    require(usable, "a finite score_error >= 0", f"score_error={score_error!r}")
    modes = requested(spectrum, data, mean)
    times = sampler.times if times is None else times
    rows = AffineRows(sampler.moves(times))
    chain = rows.on(sde, modes)  # type: ignore[arg-type]
    erring = rows.on(sde, modes, constant(score_error)) if score_error else chain  # type: ignore[arg-type]
    alpha_T, sigma_T = sde.marginal(times[0])
    prior = sigma_T.square() + (alpha_T * sampler.data_std).square()
    start = modes.marginal(sde, times[0])  # type: ignore[arg-type]
    end = modes.marginal(sde, times[-1])  # type: ignore[arg-type]
    if sampler.denoise:
        how = flow_ending if sampler.denoise == "flow" else mean_ending
        last = AffineRows([Move(0, times[-1].item(), 0.0, how(sde, times[-1:]))])  # type: ignore[arg-type]
        end = push(last.on(sde, modes), *end)  # type: ignore[arg-type]
    return GaussianError(
        rows.evaluations,
        modes.mean,
        modes.variance,
        *push(erring, torch.zeros_like(modes.mean), prior),
        chain.transfer.square() * prior + chain.variance,
        *push(chain, *start),
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
    """The modes that a caller asks for."""
    if (spectrum is None) == (data is None):
        raise IncompatibleError("expected one of spectrum= and data=, got both or none")
    if data is not None:
        if mean is not None:
            raise IncompatibleError("expected no mean= beside data=, which have their own")
        return data_spectrum(data)
    for name, value in (("spectrum", spectrum), ("mean", mean)):
        if value is not None and (not isinstance(value, Tensor) or value.ndim != 1):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(f"expected {name} to be a tensor (M,), got {got}")
    variance = spectrum.to("cpu", torch.float64)  # type: ignore[union-attr]
    usable = len(variance) > 0 and bool((variance.isfinite() & (variance >= 0)).all())
    require(usable, "finite variances >= 0, at least one", f"{spectrum!r:.200}")
    centre = torch.zeros_like(variance) if mean is None else mean.to("cpu", torch.float64)
    if centre.shape != variance.shape:
        raise ShapeError(f"expected mean of shape {tuple(variance.shape)}, got {tuple(mean.shape)}")  # type: ignore[union-attr]
    require(bool(centre.isfinite().all()), "a finite mean", f"{mean!r:.200}")
    return Spectrum(variance, centre)


def data_spectrum(data: Tensor) -> Spectrum:
    """Eigenvalues of the covariance of ``data`` ``(n, *E)``, and the mean along their vectors."""
    if not isinstance(data, Tensor) or data.ndim < 1 or len(data) < 2 or data.numel() == 0:
        got = tuple(data.shape) if isinstance(data, Tensor) else type(data).__name__
        raise ShapeError(f"expected at least two data (n, *E), got {got}")
    x = flat(data).detach().to("cpu", torch.float64)
    require(bool(x.isfinite().all()), "finite data", "NaN or infinity")
    centre = x.mean(0)
    variance, vectors = torch.linalg.eigh((x - centre).T @ (x - centre) / (len(x) - 1))
    return Spectrum(variance.flip(0).clamp(min=0.0), (vectors.T @ centre).flip(0))
