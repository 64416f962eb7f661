r"""The errors of a log-likelihood, source by source.

:meth:`sdescore.ProbabilityFlow.log_likelihood` integrates numerically, may estimate the divergence,
ends in a prior that is not p_T, and gives the density of noised data, :math:`p_{t_{\min}}`. Each of
the four has an estimate here.

The last is Tweedie's. By Bayes, for every :math:`x_t`

.. math:: \log p_0(x_0) = \log p_t(x_t) + \log p(x_0 | x_t)
   - \log N(x_t;\, \alpha x_0, \sigma^2 I) .

Close to the data the posterior is nearly Gaussian with Tweedie's mean and covariance (Efron 2011,
"Tweedie's formula and selection bias", section 2)

.. math:: \mu = \frac{x_t + \sigma^2 s}{\alpha}, \qquad C = \frac{\sigma^2}{\alpha^2} M, \qquad
   M = I + \sigma^2 \nabla s .

At :math:`x_t = \alpha x_0` this gives

.. math:: \log p_0(x_0) = \log p_t(\alpha x_0) + d \log \alpha
   - \tfrac12 \sigma^2 s^\top M^{-1} s - \tfrac12 \log\det M ,

which is exact for Gaussian data, and for a mixture where one component is responsible for all that
lies within a few σ of :math:`x_0`. The change of :math:`\log p_t` between :math:`x_0` and
:math:`\alpha x_0` is taken as the score at the midpoint times the difference of the two points.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.samplers.probability_flow.flow import ProbabilityFlow
from sdescore.samplers.probability_flow.likelihood import LogLikelihood
from sdescore.samplers.request import Request, called
from sdescore.score.divergence import jacobian
from sdescore.shapes import flat, float64, sum_event, without_autocast
from sdescore.typing import Condition, Score

__all__ = ["LikelihoodErrors", "likelihood_errors"]

ORDERS = {"euler": 1, "midpoint": 2, "heun3": 3, "rk4": 4}


@dataclass(frozen=True, eq=False)
class LikelihoodErrors:
    """What :func:`likelihood_errors` found: four errors, each ``(B,)`` in nats.

    Attributes
    ----------
    found : LogLikelihood
        The likelihood that they are the errors of.
    solver : Tensor
        The ``log_prob`` of a tighter solve minus this one's.
    trace : Tensor
        The standard error of the probes, ``found.standard_error``: 0 for the exact divergence, NaN
        where it cannot be known.
    prior : Tensor
        The log density at ``found.latent`` of a Gaussian with the data's mean and standard
        deviation, noised to T, minus that of the prior. NaN without data.
    stopping : Tensor
        ``log p_0(x) − log p_{t_min}(x)`` by Tweedie's covariance. NaN where this covariance is not
        positive definite, which may happen for networks, and where it was not asked for.

    Notes
    -----
    ``found.log_prob + solver + prior + stopping`` estimates the log density of clean data.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde, x = ss.VESDE(sigma_min=0.1), torch.zeros(1, 2)
    >>> score = ss.GaussianScore(torch.zeros(2), 0.01, sde)
    >>> data = score.sample(1000, seed=0)
    >>> errors = ss.samplers.likelihood_errors(ss.ProbabilityFlow(sde), score, x, data=data)
    >>> clean = errors.found.log_prob + errors.solver + errors.prior + errors.stopping
    >>> round(errors.found.log_prob.item(), 1), round(clean.item(), 1)  # exact: −log(2π 0.01) = 2.8
    (2.1, 2.8)
    """

    found: LogLikelihood
    solver: Tensor
    trace: Tensor
    prior: Tensor
    stopping: Tensor


def likelihood_errors(
    flow: ProbabilityFlow,
    model: Score,
    x: Tensor,
    *,
    data: Tensor | None = None,
    stopping: bool = True,
    divergence: str = "exact",
    probes: int | Tensor = 1,
    probe_distribution: str = "rademacher",
    chunk_size: int | None = None,
    seed: int = 0,
    label: Condition | None = None,
    max_batch: int | None = None,
    progress: bool = False,
) -> LikelihoodErrors:
    """A log-likelihood, and estimates of its errors.

    It solves twice: once by ``flow``, and once at a tenth of its tolerances or with steps half as
    long. A fixed-step method's difference is multiplied by Richardson's
    ``1/(1 − 2^{−order})``.

    Parameters
    ----------
    flow : ProbabilityFlow
        Whose likelihood it is.
    model, x, divergence, probes, probe_distribution, chunk_size, seed, label, max_batch, progress
        As in :meth:`sdescore.ProbabilityFlow.log_likelihood`. Both solves use the same probes.
    data : Tensor, optional
        ``(N, *E)``, such as the data trained on, for the prior's error.
    stopping : bool
        Whether to estimate the error of stopping at t_min. It costs d derivatives and
        a d × d matrix for each sample.

    Raises
    ------
    ShapeError, IncompatibleError, ParameterError, DivergenceError
        As :meth:`sdescore.ProbabilityFlow.log_likelihood`, or ``data`` unlike ``x``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VESDE(sigma_min=0.1)  # noise of standard deviation 0.1 is left at the end
    >>> score = ss.GaussianScore(torch.zeros(2), 0.01, sde)
    >>> errors = ss.samplers.likelihood_errors(ss.ProbabilityFlow(sde), score, torch.zeros(1, 2))
    >>> round(errors.stopping.item(), 3)  # log of (0.01 + 0.1²)/0.01
    0.693
    """
    checks.instance("flow", flow, ProbabilityFlow, "ProbabilityFlow(sde)")
    checks.flag("stopping", stopping)
    checks.state(x, "x")
    if data is not None:
        checks.state(data, "data")
        like = data.shape[1:] == x.shape[1:] and len(data) > 1
        expected = f"data of shape (N >= 2, {', '.join(map(str, x.shape[1:]))})"
        checks.that(like, expected, tuple(data.shape), ShapeError)
        checks.finite_tensor("data", data)

    def solve(by: ProbabilityFlow) -> LogLikelihood:
        return by.log_likelihood(
            model,
            x,
            divergence=divergence,
            probes=probes,
            probe_distribution=probe_distribution,
            chunk_size=chunk_size,
            seed=seed,
            label=label,
            max_batch=max_batch,
            progress=progress,
        )

    found, (tighter, factor) = solve(flow), _tighter(flow)
    solver = factor * (solve(tighter).log_prob - found.log_prob)
    request = Request(flow.sde, [], model, init=x, label=label, dtype=x.dtype, device=x.device)
    unknown = torch.full_like(found.log_prob, math.nan)
    prior = unknown if data is None else _prior(flow, request, found.latent, data)
    end = _stopping(flow, request, x, max_batch) if stopping and x.numel() else unknown
    return LikelihoodErrors(found, solver, found.standard_error, prior, end)


def _tighter(flow: ProbabilityFlow) -> tuple[ProbabilityFlow, float]:
    """A more accurate flow, and the error of ``flow`` over the difference of the two."""
    if flow.method not in ORDERS:
        return dataclasses.replace(flow, rtol=0.1 * flow.rtol, atol=0.1 * flow.atol), 1.0
    factor = 1 / (1 - 2.0 ** -ORDERS[flow.method])
    if flow.grid is None:
        return dataclasses.replace(flow, steps=2 * (flow.steps or 0)), factor
    ratios = flow.sde.noise_ratio(flow.times)
    angles = ratios.atan()
    log_snr = -2 * (0.5 * (angles[1:] + angles[:-1])).tan().log()
    between = flow.sde.time_at_log_snr(log_snr)
    times = torch.cat([torch.stack([flow.times[:-1], between], 1).flatten(), flow.times[-1:]])
    return dataclasses.replace(flow, grid=times, steps=None, t_min=None, t_max=None), factor


def _prior(flow: ProbabilityFlow, request: Request, latent: Tensor, data: Tensor) -> Tensor:
    """By the mean and the standard deviation of every element of the data."""
    alpha, sigma = (v.item() for v in flow.sde.marginal(flow.interval[1]))
    states = float64(request.scale.to_state(data.detach()), like=latent)
    mean = alpha * states.mean(0)
    variance = alpha**2 * states.var(0, unbiased=False) + sigma**2
    x, plain = float64(latent), flow.start_std**2
    gain = x.square() / plain - (x - mean).square() / variance + math.log(plain) - variance.log()
    return 0.5 * sum_event(gain).to(latent.dtype)


def _stopping(flow: ProbabilityFlow, request: Request, x: Tensor, max_batch: int | None) -> Tensor:
    """The module docstring's correction."""
    t = flow.interval[0]
    alpha, sigma = (v.item() for v in flow.sde.marginal(t))
    states = request.scale.to_state(x)

    def part(samples: range, _tick: object) -> tuple[Tensor, ...]:
        x0, labels = states[samples.start : samples.stop].detach(), request.labels(samples)
        time = torch.tensor(t, dtype=x0.dtype, device=x0.device)

        def score(y: Tensor) -> Tensor:
            return called(request.model, y, time, *labels, who="the score")

        with torch.inference_mode(False), torch.enable_grad(), without_autocast(x0):
            y = (alpha * x0).clone().requires_grad_()
            s = score(y)
            slope = float64(jacobian(s, y))
        way = sum_event((alpha - 1) * x0 * score(0.5 * (1 + alpha) * x0)) if alpha != 1 else 0.0
        M = 0.5 * sigma**2 * (slope + slope.mT)
        M.diagonal(dim1=1, dim2=2).add_(1)
        L, failed = torch.linalg.cholesky_ex(M)
        whitened = torch.linalg.solve_triangular(
            L, float64(flat(s.detach())).unsqueeze(2), upper=False
        )
        quadratic = sigma**2 * whitened.square().sum((1, 2))
        half_log_det = L.diagonal(dim1=1, dim2=2).log().sum(1)
        gain = M.shape[1] * math.log(alpha) - 0.5 * quadratic - half_log_det + way
        return (gain.where(failed == 0, math.nan).to(x0.dtype),)

    return request.fill(part, max_batch, False, data=False)[0]
