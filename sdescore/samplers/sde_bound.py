r"""A lower bound on the log-likelihood of the reverse SDE, in continuous time.

The reverse SDE of a score defines a model too: the distribution of the end points of its paths from
the prior π. The density of this model cannot be computed, and it is not that of the probability
flow unless the score is exact. By Girsanov's theorem it is bounded from below (Song et al. 2021,
arXiv:2101.09258, theorem 3; Huang et al. 2021, arXiv:2106.02808, theorem 3). For :math:`x = x_s` at
s = t_min

.. math:: \log p^{SDE}(x) \ge E \log \pi(x_T) + d \log\frac{\alpha_T}{\alpha_s}
   - \tfrac12 \int_s^T g^2\, E\bigl[ \lVert s(x_t) \rVert^2 + 2 \nabla \cdot s(x_t) \bigr]
   \mathrm{d}t , \qquad x_t = a x + \sqrt V z ,

a and V those of the transition from s to t. It is the loss of likelihood weighting, g², in the form
of implicit score matching. With an exact score and π = p_T it is an equality.

Three things make a good estimator. The log-SNR ℓ takes the place of t, :math:`g^2\, \mathrm{d}t =
-\sigma^2\, \mathrm{d}\ell`, so that all noise levels count alike. By Stein's identity, with z and
−z together,

.. math:: E\, \nabla \cdot s(x_t)
   = E\, \frac{\bigl(s(a x + \sqrt V z) - s(a x - \sqrt V z)\bigr)^\top z}{2 \sqrt V} ,

which needs no derivative of the network, and stays finite as V → 0. And a multiple of
:math:`\lVert z \rVert^2 - d`, whose mean is 0, takes away most of what :math:`\lVert z \rVert^2`
adds to the variance: all of it for Gaussian data of mean 0 and variance 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import DivergenceError, TimeError
from sdescore.noise.counter import Domain, standard_normal
from sdescore.noise.sources import Span
from sdescore.samplers.request import Request, Tick, called, domain_at, not_finite
from sdescore.shapes import align, sum_event
from sdescore.typing import Condition, Score
from sdescore.wrappers import sde_of

__all__ = ["SDEBound", "sde_bound"]


@dataclass(frozen=True, eq=False)
class SDEBound:
    """What :func:`sde_bound` found.

    Attributes
    ----------
    log_prob : Tensor
        ``(B,)`` nats: an unbiased estimate of a lower bound on the log density at t_min.
    standard_error : Tensor
        ``(B,)`` nats, of ``log_prob``, from the differences between neighbouring noise levels; NaN
        for one level. It tends to be too large, because the levels themselves differ too.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.GaussianScore(torch.zeros(2), 1.0, ss.VESDE())
    >>> x = torch.zeros(1, 2)
    >>> found = ss.samplers.sde_bound(score, x, times=200)
    >>> off = (found.log_prob - score.log_prob(x, score.sde.t_min)).abs()
    >>> bool(off < 4 * found.standard_error)
    True
    """

    log_prob: Tensor
    standard_error: Tensor


def sde_bound(
    model: Score,
    x: Tensor,
    *,
    times: int = 64,
    t_min: float | None = None,
    data_std: float = 0.0,
    seed: int = 0,
    label: Condition | None = None,
    max_batch: int | None = None,
    progress: bool = False,
) -> SDEBound:
    """A lower bound on the log density of data under the reverse SDE of a score.

    :meth:`sdescore.ProbabilityFlow.log_likelihood` is its counterpart for the probability flow, and
    has the same prior and the same t_min. The bound costs two evaluations for each of ``times``,
    and needs no derivatives.

    Parameters
    ----------
    model : Score
        A score that knows its SDE.
    x : Tensor
        ``(B, *E)``, float32 or float64: data, and the density is in their units.
    times : int
        Number of noise levels, >= 1. The log-SNR is divided into so many equal intervals; one level
        is drawn in each, with one noise.
    t_min, data_std
        As in :class:`sdescore.ProbabilityFlow`.
    seed : int
        Sample i has the noise of (seed, i), whatever its batch.
    label, max_batch, progress
        As in :meth:`sdescore.PredictorCorrector.sample`.

    Raises
    ------
    IncompatibleError, ShapeError, ParameterError
        A score without a linear SDE, or a bad argument.
    TimeError
        The log-SNR is infinite at t_min or T.
    DivergenceError
        The score is not finite.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VESDE(sigma_max=100.0)
    >>> score = ss.GaussianScore(torch.zeros(2), 1.0, sde)
    >>> x = torch.zeros(200, 2)
    >>> bound = ss.samplers.sde_bound(score, x).log_prob.mean()
    >>> round(bound.item(), 1)  # −log 2π: of an exact score the bound is an equality
    -1.8
    """
    sde = checks.linear(sde_of(model), "sde_bound", "wrap the network in ScoreModel(net, sde)")
    times = checks.count("times", times)
    checks.state(x, "x")
    request = Request(
        sde, [], model, init=x, label=label, seed=seed, dtype=x.dtype, device=x.device, name="x"
    )
    s = sde.t_min if t_min is None else checks.number("t_min", t_min, at_least=0, below=sde.T)
    high, low = sde.log_snr(s).item(), sde.log_snr(sde.T).item()
    finite = math.isfinite(high) and math.isfinite(low)
    got = f"{high:g} and {low:g}; choose another t_min, or an SDE with alpha_T > 0"
    checks.that(finite, "a finite log-SNR at t_min and T", got, TimeError)
    spans: list[Span] = [None] * times
    index = torch.arange(times, dtype=torch.float64, device="cpu").unsqueeze(1)

    def part(samples: range, tick: Tick | None) -> tuple[Tensor, ...]:
        state, labels = request.scale.to_state(request.start(samples, 0.0)), request.labels(samples)
        noise = request.open(samples, spans, domain_at(Domain.BOUND, s))
        domain = domain_at(Domain.BOUND, s, again=1)
        normal = standard_normal(seed, samples, range(times), (), domain=domain)
        level = (index + torch.special.ndtr(normal.double())) / times
        t = sde.time_at_log_snr(high + (low - high) * level).clamp(s, sde.T)
        kernel, (alpha_t, sigma_t) = sde.transition(s, t), sde.marginal(t)
        plain = alpha_t.square() + sigma_t.square()  # the variance of x_t for data of variance 1
        control = 2 / plain - kernel.variance / plain.square()
        terms = state.new_empty(len(samples), times)
        for i in range(times):
            a, std, g, c = (
                v[i].to(state) for v in (kernel.scale, kernel.variance.sqrt(), sigma_t, control)
            )
            z = noise.draw(i)
            mean, step = align(a, z) * state, align(std, z) * z
            up, down = (
                called(model, x_t, t[i].to(state), *labels, who="the score")
                for x_t in (mean + step, mean - step)
            )
            found = sum_event(0.5 * (up.square() + down.square()) + (up - down) * z / align(std, z))
            terms[:, i] = -0.5 * g.square() * (found + c * sum_event(z.square() - 1))
            if tick is not None:
                tick()
        bad, named = not_finite(terms, samples.start)
        if bad:
            first = int((~terms.isfinite()).any(0).nonzero()[0])
            text = f"the bound is not finite at level {first}, in {named}; check the model"
            raise DivergenceError(text, step=first, t=t[first].max().item(), samples=bad)
        to_T, variance = sde.transition(s, sde.T), sde.prior_std(data_std) ** 2
        spread = to_T.scale.square().item() * state.square() + to_T.variance.item()
        end = spread / variance + math.log(2 * math.pi * variance) - 2 * to_T.scale.log().item()
        return terms, -0.5 * sum_event(end)

    terms, end = request.fill(part, max_batch, progress, times, data=False)
    terms = (high - low) * terms
    end = end - (0.0 if request.scale.plain else request.scale.log_volume(request.shape[1:]))
    # Neighbours differ by their noises, and by little else: the level hardly matters to the mean.
    error = (terms.diff(dim=1).square().mean(1) / (2 * times)).sqrt()
    return SDEBound(end + terms.mean(1), error)
