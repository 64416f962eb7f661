r"""DDPM's variational bound on the log-likelihood of integers, in bits per dimension.

A DDPM of N levels is a model of discrete data: noise at the highest level, N − 1 Gaussian steps
back, and a decoder at the lowest. Its negative log-likelihood is at most (Ho et al. 2020,
arXiv:2006.11239, eq. 5)

.. math:: L = \underbrace{D(q(x_T | x_0) \,\|\, p(x_T))}_{\text{prior}}
   + \sum_{i \ge 1} E\, D(q(x_{i-1} | x_i, x_0) \,\|\, p_\theta(x_{i-1} | x_i))
   - E \log p_\theta(x_0 | x_{\text{lowest}}) ,

D the Kullback–Leibler divergence. With :math:`x_t = a x_s + \sqrt{V} z`, :math:`r =
\sigma_s^2/\sigma_t^2`, the posterior's variance :math:`\tilde\beta = r V` and the model's
:math:`\Sigma = r^e V`, both of :class:`sdescore.Ancestral`, an element's divergence is

.. math:: \tfrac12 \Bigl[ y + e^{-y} - 1
   + \frac{\alpha_s^2 V^2}{\sigma_t^4}\, \frac{(x_0 - \hat x_0)^2}{\Sigma} \Bigr], \qquad
   y = \log\frac{\Sigma}{\tilde\beta} = -(1 - e) \log r .

The decoder is a Gaussian around :math:`\hat x_0`, integrated over the bin of each integer; the
first and the last bin reach to infinity (Ho et al. 2020, eq. 13). At the lowest level
:math:`\tilde\beta = 0`; there the released codes take that of the level above, and so does this
one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import DivergenceError, IncompatibleError
from sdescore.noise.counter import Domain
from sdescore.noise.sources import NoiseSource, Span
from sdescore.predictors.ancestral import VARIANCES
from sdescore.samplers.predictor_corrector.chain import Program
from sdescore.samplers.predictor_corrector.loop import BoundModel
from sdescore.samplers.request import Request, Tick, not_finite
from sdescore.sde.discrete import DiscreteVPSDE
from sdescore.shapes import float64, sum_event
from sdescore.typing import Condition, Score
from sdescore.wrappers import sde_of

__all__ = ["VariationalBound", "variational_bound"]

TOLERANCE = 0.05
"""How far a datum may be from its integer, as float32 rounds those of 16 bits."""


@dataclass(frozen=True, eq=False)
class VariationalBound:
    """What :func:`variational_bound` found, in bits per dimension.

    Attributes
    ----------
    bits_per_dim : Tensor
        ``(B,)``, the bound on −log₂ p(x0)/d: ``prior`` plus the sum of ``terms`` over the levels.
    terms : Tensor
        ``(B, N)``. ``terms[:, 0]`` is the decoder's, −log₂ p(x0 | x at level 0)/d, and
        ``terms[:, i]`` the divergence of the step from level i to level i − 1.
    prior : Tensor
        ``(B,)``, the divergence of the data at the highest level from N(0, I).

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> coin = torch.tensor([[-1.0], [1.0]])
    >>> model = ss.EmpiricalScore(coin, ss.DiscreteVPSDE.linear(1000))
    >>> found = ss.samplers.variational_bound(model, coin, levels=2)
    >>> torch.allclose(found.bits_per_dim, found.prior + found.terms.sum(1))
    True
    """

    bits_per_dim: Tensor
    terms: Tensor
    prior: Tensor


def variational_bound(
    model: Score,
    x0: Tensor,
    *,
    levels: int,
    data_range: tuple[float, float] = (-1.0, 1.0),
    variance: str = "fixed_small",
    seed: int = 0,
    noise: NoiseSource | None = None,
    label: Condition | None = None,
    max_batch: int | None = None,
    progress: bool = False,
) -> VariationalBound:
    """A bound on the negative log-likelihood of a DDPM, with one noise for each level.

    It is an unbiased estimate of the expected bound, and costs N evaluations a sample. The
    likelihood of :meth:`sdescore.ProbabilityFlow.log_likelihood` is another number, that of a
    continuous model.

    Parameters
    ----------
    model : ScoreModel or callable
        A score on :class:`sdescore.DiscreteVPSDE`; ``ss.guidance.clipped(model)`` clips x̂₀ as
        DDPM's code does.
    x0 : Tensor
        ``(B, *E)``, float32 or float64: integers 0 … levels − 1, scaled to ``data_range``.
    levels : int
        Number of integers, >= 2; 256 for 8-bit images.
    data_range : (float, float)
        What 0 and levels − 1 were scaled to.
    variance : str
        Of the steps, as in :class:`sdescore.Ancestral`.
    seed : int
        Sample i has the noise of (seed, i), whatever its batch.
    noise : NoiseSource, optional
        Replaces the seeded noise; draw i is that of level i.
    label, max_batch, progress
        As in :meth:`sdescore.PredictorCorrector.sample`.

    Returns
    -------
    VariationalBound
        Each sample's bound, and its term at each level; on the model's device.

    Raises
    ------
    IncompatibleError
        The model is on another SDE or on one of a single level, the variance is unknown, or it is
        ``"learned_range"`` and the model has none.
    ParameterError
        ``x0`` holds no such integers, or another option is out of range.
    ShapeError
        ``x0`` is no ``(B, *E)``, or its dtype is another.
    DivergenceError
        A term is not finite.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> coin = torch.tensor([[-1.0], [1.0]])  # two values, so one bit is the least
    >>> model = ss.EmpiricalScore(coin, ss.DiscreteVPSDE.linear(1000))
    >>> bound = ss.samplers.variational_bound(model, coin.repeat(500, 1), levels=2)
    >>> round(bound.bits_per_dim.mean().item(), 1), bound.terms.shape
    (1.0, torch.Size([1000, 1000]))
    """
    sde = sde_of(model)
    table = hasattr(sde, "betas") and len(sde.betas) >= 2
    expected = "a model on DiscreteVPSDE with two levels or more"
    checks.that(table, expected, f"one on {sde!r:.200}", IncompatibleError)
    checks.choice("variance", variance, VARIANCES)
    checks.state(x0, "x0")
    bins = Bins.of(levels, data_range)
    bins.require(x0)
    times = sde.level_times()
    N, learned = len(times), variance == "learned_range"
    spans: list[Span] = [None] * N
    request = Request(
        sde, spans, model, init=x0, label=label, seed=seed, noise=noise, dtype=x0.dtype, name="x0"
    )
    marginal, steps = sde.marginal(times), Steps.of(sde)
    program = Program([], times.tolist(), ["x0"] * N, spans, False, learned, True, marginal)
    alpha, sigma = (v.tolist() for v in marginal)
    log_ratio, gain = steps.log_ratio.tolist(), steps.gain.tolist()

    def part(samples: range, tick: Tick | None) -> tuple[Tensor, ...]:
        data = request.start(samples, 0.0)
        z0 = request.scale.to_state(data)
        denoiser = BoundModel(request, samples, program)
        draws = request.open(samples, spans, Domain.BOUND)
        terms = z0.new_empty(len(samples), N)
        for i in range(N):
            x = alpha[i] * z0 + sigma[i] * draws.draw(i)
            mean = denoiser.output(x, i)
            # Σ = V r^e, and at the lowest level that of Steps.log_std.
            e = torch.full_like(mean, float(variance == "fixed_small" or i == 0))
            if denoiser.variance is not None:
                e = 0.5 * (1 - denoiser.variance.of(x))
            if i == 0:
                lower, upper = (request.scale.to_state(edge) for edge in bins.edges(data))
                term = -log_probability(lower, upper, mean, steps.log_std(e)).to(z0)
            else:
                term = divergence((z0 - mean).square(), e, log_ratio[i], gain[i])
            terms[:, i] = sum_event(term)
            if tick is not None:
                tick()
        bad, named = not_finite(terms, samples.start)
        if bad:
            level = int((~terms.isfinite()).any(0).nonzero()[0])
            text = f"the bound's term at level {level} is not finite, in {named}; check the model"
            raise DivergenceError(text, step=level, t=times[level].item(), samples=bad)
        prior = 0.5 * (alpha[-1] ** 2 * (z0.square() - 1) - math.log1p(-(alpha[-1] ** 2)))
        return terms, sum_event(prior)

    nats = request.fill(part, max_batch, progress, N, data=False)
    terms, prior = (v / (math.log(2) * max(1, math.prod(x0.shape[1:]))) for v in nats)
    return VariationalBound(prior + terms.sum(1), terms, prior)


@dataclass(frozen=True, eq=False)
class Steps:
    """The numbers of the steps from each level i to i − 1 of a DDPM; 0 at the lowest level."""

    log_ratio: Tensor  # log r, (N,) float64
    gain: Tensor  # α_s² V/σ_t⁴, (N,) float64
    log_small: float  # the decoder's two variances
    log_large: float

    @classmethod
    def of(cls, sde: DiscreteVPSDE) -> Steps:
        """Those of a table of two levels or more."""
        times = sde.level_times()
        bridge = sde.bridge(times[:-1], times[1:])
        log_ratio = (bridge.variance / bridge.added_variance).log()
        gain = bridge.weight_0.square() / bridge.added_variance
        zero = log_ratio.new_zeros(1)
        large = 2 * math.log(sde.marginal(times[0])[1].item())
        small = bridge.variance[0].log().item()
        return cls(torch.cat([zero, log_ratio]), torch.cat([zero, gain]), small, large)

    def log_std(self, e: Tensor) -> Tensor:
        """Half the log of the decoder's variance β^(1 − e) β̃^e, β̃ that of the level above."""
        return 0.5 * ((1 - e) * self.log_large + e * self.log_small)


def divergence(
    squared_error: Tensor, e: Tensor, log_ratio: float | Tensor, gain: float | Tensor
) -> Tensor:
    """The divergence of a step whose model has the variance Σ = V r^e, for each element."""
    y = (e - 1) * log_ratio
    return 0.5 * (y + torch.expm1(-y) + gain * (-e * log_ratio).exp() * squared_error)


@dataclass(frozen=True)
class Bins:
    """The integers 0 … levels − 1 on a line from ``low``, ``width`` apart."""

    levels: int
    low: float
    width: float

    @classmethod
    def of(cls, levels: int, data_range: Sequence[float]) -> Bins:
        """The bins of a number of levels and the range that they were scaled to."""
        levels = checks.count("levels", levels, at_least=2)
        ends = checks.numbers("data_range", data_range, at_least=2)
        two = len(ends) == 2 and ends[0] < ends[1]
        checks.that(two, "data_range=(low, high), low < high", f"{data_range!r:.100}")
        low, high = ends
        return cls(levels, low, (high - low) / (levels - 1))

    def require(self, x0: Tensor) -> None:
        """Refuse data that are none of the integers, looked at by blocks."""
        for block in torch.split(x0.detach().flatten(), 1 << 20):
            index = (float64(block) - self.low) / self.width
            nearest = index.round()
            inside = (nearest >= 0) & (nearest < self.levels)
            if not bool((inside & ((index - nearest).abs() <= TOLERANCE)).all()):
                high = self.low + self.width * (self.levels - 1)
                expected = f"x0 as {self.levels} integers scaled to [{self.low:g}, {high:g}]"
                got = f"other values in [{block.min():g}, {block.max():g}]"
                checks.refuse(expected, f"{got}; pass the data's own levels= and data_range=")

    def edges(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of each datum's bin, float64; the first and the last bin reach to infinity."""
        x0 = float64(x0)
        index = ((x0 - self.low) / self.width).round()
        lower, upper = x0 - 0.5 * self.width, x0 + 0.5 * self.width
        lower = lower.where(index > 0, -math.inf)
        return lower, upper.where(index < self.levels - 1, math.inf)


def log_probability(lower: Tensor, upper: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """``log P(lower < mean + std z < upper)`` of a standard normal z, float64."""
    mean, std = float64(mean), float64(log_std).exp()
    # An infinite end stays out of the graph: the gradient through it is 0 times infinity.
    inside = [(v.isfinite(), v) for v in (lower, upper)]
    low, high = (((v.where(at, 0.0) - mean) / std).where(at, v) for at, v in inside)
    # The interval or its mirror image, so that both tails are computed where they are small.
    left = low + high <= 0
    low, high = low.where(left, -high), high.where(left, -low)
    most = torch.special.log_ndtr(high)
    found: Tensor = most + torch.log(-torch.expm1(torch.special.log_ndtr(low) - most))
    return found
