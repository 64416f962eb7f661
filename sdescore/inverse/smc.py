r"""Twisted sequential Monte Carlo (Wu et al. 2023, arXiv:2306.17775), exact for many particles.

A sampler with Gaussian steps :math:`p(x_s | x_t)` defines a prior of its own: the distribution of
its last state :math:`x_0`. The target is the posterior under this prior,
:math:`p(x_0) p(y | x_0) / p(y)`. A guide gives twisting functions
:math:`\psi_t(x_t) \approx p(y | x_t)`, which estimate early where the measurement is likely, and
proposals q that move there. Particles of weight w are moved and weighted by

.. math::
   x_s \sim q(x_s | x_t), \qquad
   w \leftarrow w\, \frac{p(x_s | x_t)\, \psi_s(x_s)}{q(x_s | x_t)\, \psi_t(x_t)}, \qquad
   \psi_0(x_0) = p(y | x_0)

(algorithm 1, eqs. 6–9), and are resampled in proportion to w when the weights have become unequal.
The product of the mean weights is an unbiased estimate of p(y). Any positive :math:`\psi` gives the
exact result in the limit; a good one gives it with few particles.

The steps are those of the bridge :math:`x_s | x_t, x_0` at :math:`\hat x_0`. The variance v that
the guide gives each element of :math:`x_0` is added:

.. math::
   p(x_s | x_t) = N(k_t x_t + k_0 \hat x_0,\ \Sigma), \qquad
   q(x_s | x_t) = N(k_t x_t + k_0 \hat x_0 + h,\ \Sigma), \qquad
   h = k_0 \tfrac{\sigma_t^2}{\alpha_t} \nabla \log \psi_t, \qquad
   \Sigma = (\tilde\beta + k_0^2 v) I ,

which is exact at any step length for data that are :math:`N(m, I \tau^2)` (Bao et al. 2022,
arXiv:2201.06503, eq. 7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import DivergenceError, ScheduleError
from sdescore.grids.base import CustomGrid, Grid
from sdescore.inverse.posterior_score import PosteriorScore
from sdescore.noise.counter import Domain, standard_normal
from sdescore.noise.sources import NoiseStream, Span
from sdescore.samplers.request import Request, evaluating, not_finite, require_rows_apart
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align, sum_event

__all__ = ["Particles", "TwistedSMC"]


@dataclass(frozen=True, eq=False)
class Particles:
    """A weighted sample of a posterior.

    Attributes
    ----------
    x : Tensor
        ``(n, *E)``, in the units of the data.
    weights : Tensor
        ``(n,)`` float64, with sum 1.
    log_evidence : float
        The estimate of log p(y), in nats.
    effective : Tensor
        ``(steps,)``: the effective number of particles, 1 / Σ w², after each step.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> prior = ss.GaussianScore([0.0], 1.0, ss.VPSDE())
    >>> see = ss.inverse.Mask(torch.tensor([True]))
    >>> seen = ss.inverse.Measurement(torch.tensor([1.0]), see, noise_std=1.0)
    >>> smc = ss.inverse.TwistedSMC(prior.sde, steps=20)
    >>> found = smc.sample(ss.inverse.pigdm(prior, seen), particles=1000)
    >>> mean = (found.weights @ found.x.double()).item()  # of the posterior, 0.5
    >>> abs(mean - 0.5) < 0.1, found.draw(10).shape
    (True, torch.Size([10, 1]))
    """

    x: Tensor
    weights: Tensor
    log_evidence: float
    effective: Tensor

    def draw(self, n: int | None = None, *, seed: int = 0) -> Tensor:
        """``n`` draws of equal weight, ``(n, *E)``, by default as many as particles.

        By systematic resampling: a particle is drawn n w times, rounded up or down at random.
        """
        n = len(self.x) if n is None else checks.count("n", n)
        return self.x[systematic(self.weights, n, checks.seed(seed), 0)]


@dataclass(frozen=True)
class TwistedSMC:
    """Posterior samples with weights, and the evidence, from interacting particles.

    Parameters
    ----------
    sde : LinearSDE
        The forward SDE; the model's own.
    steps : int, optional
        Evaluations of each particle, >= 2; optional where the grid has its own number.
    grid : Grid, tensor or sequence of float, optional
        The times; by default the SDE's own grid.
    threshold : float
        In [0, 1]: particles are resampled when their effective number is below this share of all.

    Raises
    ------
    ScheduleError, TimeError
        ``steps`` or ``grid`` is out of range.
    IncompatibleError, ParameterError
        ``sde`` is not linear; ``threshold`` is out of range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> prior = ss.MixtureScore([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], [0.1, 0.2], ss.VPSDE())
    >>> see_first = ss.inverse.Mask(torch.tensor([True, False]))
    >>> seen = ss.inverse.Measurement(torch.tensor([0.2]), see_first, noise_std=0.3)
    >>> smc = ss.inverse.TwistedSMC(prior.sde, steps=60)
    >>> found = smc.sample(ss.inverse.moments(prior, seen), particles=2000)
    >>> exact = prior.log_evidence(torch.tensor([[1.0, 0.0]]), torch.tensor([0.2]), 0.3)
    >>> abs(found.log_evidence - exact) < 0.05
    True
    """

    sde: LinearSDE
    steps: int | None = None
    grid: Grid | Tensor | Sequence[float] | None = None
    threshold: float = 0.5
    times: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sde = checks.linear(self.sde, "a TwistedSMC")
        checks.number("threshold", self.threshold, at_least=0, at_most=1)
        grid = sde.default_grid if self.grid is None else self.grid
        grid = grid if isinstance(grid, Grid) else CustomGrid(grid)
        n = self.steps
        n = None if n is None else checks.count("steps", n, at_least=2, error=ScheduleError)
        vars(self).update(times=grid.times(sde, n))

    def sample(
        self,
        guide: PosteriorScore,
        particles: int,
        *,
        seed: int = 0,
        max_batch: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Particles:
        """Run ``particles`` particles from noise to data.

        Parameters
        ----------
        guide : GuidedScore
            A prior with a measurement: :func:`~sdescore.inverse.moments` is the best,
            :func:`~sdescore.inverse.mmps` and :func:`~sdescore.inverse.pigdm` cost less.
            :func:`~sdescore.inverse.dps` gives most particles almost no weight, because its
            likelihood is too narrow. The measurement's noise is > 0.
        particles : int
            >= 1.
        seed : int
            A particle's noise depends on (seed, its index), and resampling on (seed, step).
        max_batch : int, optional
            The most particles on which the network is called at a time, >= 1.
        dtype, device : optional
            Of the particles; by default the model's, and at least float32.

        Raises
        ------
        IncompatibleError
            ``guide`` is not one of these, or it is on another SDE.
        ParameterError
            The measurement has no noise, or a number is out of range.
        DivergenceError
            A particle or all weights turned NaN or infinite.
        """
        example = "inverse.moments(score, measurement)"
        checks.instance("guide", guide, PosteriorScore, example)  # type: ignore[type-abstract]
        std = guide.measurement.noise_std
        checks.that(std > 0, "a measurement with noise_std > 0 for its likelihood", f"{std}")
        n = checks.count("particles", particles)
        shape = (n, *guide.measurement.operator.event_shape)
        spans: list[Span] = [None, *pairwise(self.times.tolist())]
        request = Request(self.sde, spans, guide, shape, seed=seed, dtype=dtype, device=device)
        size = n if max_batch is None else checks.count("max_batch", max_batch)
        with evaluating(guide), torch.no_grad():
            noise = request.open(request.samples, spans, Domain.SAMPLER)
            return self._run(guide, request, noise, size)

    def _run(
        self, guide: PosteriorScore, request: Request, noise: NoiseStream, size: int
    ) -> Particles:
        sde, times, scale = self.sde, self.times, request.scale
        n, first = len(request.samples), times[0]
        x = (sde.marginal(first)[1].item() * noise.draw(0)).clone()
        require_rows_apart(guide, x, times, sde.marginal(times))
        log_evidence, effective = 0.0, []
        now = Twist.of(guide, x, first, size)
        log_w = now.log_psi
        for k, t in enumerate(times):
            if k + 1 < len(times):
                s = times[k + 1]
                bridge = sde.bridge(s, t)
                k_t, k_0, beta = (
                    float(v) for v in (bridge.weight_t, bridge.weight_0, bridge.variance)
                )
                Sigma = align(beta + k_0**2 * now.variance, x)
                z = noise.draw(k + 1)
                shift = k_0 * now.shift
                x = k_t * x + k_0 * now.mean + shift + Sigma.sqrt() * z
                # log p − log q, for the two have one covariance
                log_w = log_w - sum_event(shift * (0.5 * shift / Sigma + z / Sigma.sqrt())).double()
                then = Twist.of(guide, x, s, size)
                log_w = log_w + then.log_psi - now.log_psi
            else:
                x = scale.to_data(now.mean)
                likelihood = guide.measurement.log_likelihood(x)
                log_w, then = log_w + likelihood.double() - now.log_psi, now
            self._require_finite(x, log_w, k, t.item())
            weights = log_w.softmax(0)
            effective.append(1 / weights.square().sum())
            now = then
            if k + 1 < len(times) and effective[-1] < self.threshold * n:
                log_evidence += (log_w.logsumexp(0) - math.log(n)).item()
                rows = systematic(weights, n, request.seed, k + 1)
                x, now, log_w = x[rows], now.rows(rows), torch.zeros_like(log_w)
        log_evidence += (log_w.logsumexp(0) - math.log(n)).item()
        return Particles(x, weights, log_evidence, torch.stack(effective))

    def _require_finite(self, x: Tensor, log_w: Tensor, step: int, t: float) -> None:
        samples, named = not_finite(x)
        if samples or not bool(log_w.logsumexp(0).isfinite()):
            what = (
                f"the particles are not finite in {named}" if samples else "no particle has weight"
            )
            message = f"{what} after step {step} (from t = {t:g}); use more steps or another guide"
            raise DivergenceError(message, step=step, t=t, samples=samples)


@dataclass(frozen=True, eq=False)
class Twist:
    """What a guide says of particles at one time; all but ``log_psi`` in the particles' dtype."""

    log_psi: Tensor  # (n,) float64
    mean: Tensor  # x̂₀ in the units of the states, (n, *E)
    shift: Tensor  # σ²/α ∇ log ψ, (n, *E)
    variance: Tensor  # v of x₀ given the state, (n,)

    @classmethod
    def of(cls, guide: PosteriorScore, x: Tensor, t: Tensor, size: int) -> Twist:
        """In parts of ``size`` particles."""
        parts = [guide.twist(part, t) for part in torch.split(x, size)]
        return cls(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def rows(self, rows: Tensor) -> Twist:
        """Some of the particles."""
        return Twist(self.log_psi[rows], self.mean[rows], self.shift[rows], self.variance[rows])


def systematic(weights: Tensor, n: int, seed: int, step: int) -> Tensor:
    """``n`` indices by systematic resampling, with one uniform number of (seed, step)."""
    normal = standard_normal(seed, [0], range(step, step + 1), (), domain=Domain.RESAMPLE)
    u = torch.special.ndtr(normal[0, 0].double()).to(weights)
    points = (torch.arange(n, dtype=torch.float64, device=weights.device) + u) / n
    return torch.searchsorted(weights.cumsum(0), points).clamp(max=len(weights) - 1)
