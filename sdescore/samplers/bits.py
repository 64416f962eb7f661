r"""Bits per dimension of data that are integers, by a continuous model.

A datum ``x`` of ``levels`` integers stands for the bin of width w around it, and a continuous model
gives the bin the probability (Theis et al. 2016, arXiv:1511.01844, section 3.1; Ho et al. 2019,
arXiv:1902.00275, eq. 11)

.. math:: P(x) = w^d \int_{[0,1]^d} p\bigl(x + w (u - \tfrac12)\bigr)\, \mathrm{d}u
   = w^d\, E_{u \sim q} \frac{p(x + w (u - \tfrac12))}{q(u | x)} .

Uniform dequantization has q = 1, a variational one a density of its own. By Jensen's inequality

.. math:: \log P(x) \ge E_q \Bigl[ \log \frac1S \sum_{s=1}^S \frac{p(v_s)}{q(u_s | x)} \Bigr]
   + d \log w \ge E_q \Bigl[ \frac1S \sum_{s=1}^S \log \frac{p(v_s)}{q(u_s | x)} \Bigr] + d \log w .

The right-hand side is the usual bound. The middle is importance-weighted (Burda et al. 2016,
arXiv:1509.00519, eq. 8) and tends to log P(x) as the number of draws S grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.noise.counter import Domain, NormalStream
from sdescore.samplers.probability_flow.flow import ProbabilityFlow
from sdescore.samplers.variational_bound import Bins
from sdescore.score.interface import require_scalars
from sdescore.typing import Condition, Score
from sdescore.wrappers import sde_of

__all__ = ["BitsPerDimension", "bits_per_dimension", "dequantize"]

Dequantization = str | Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class BitsPerDimension:
    """What :func:`bits_per_dimension` found: an upper bound for each datum, on average.

    Attributes
    ----------
    bits : Tensor
        ``(B,)`` bits per dimension, all draws together.
    draws : Tensor
        ``(B, S)`` bits per dimension, of each draw alone.
    trace_error : Tensor
        ``(B,)``, the standard error of ``bits`` due to the probes of the divergence: 0 for the
        exact divergence, NaN where it cannot be known.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.GaussianScore(torch.zeros(3), 0.25, ss.VPSDE())
    >>> x = (8 * score.sample(100, seed=0)).round().clamp(-8, 8) / 8  # 17 levels
    >>> found = ss.bits_per_dimension(score, x, levels=17, draws=2)
    >>> print(f"{found.mean:.1f} ± {found.standard_error:.2f}", tuple(found.draws.shape))
    3.9 ± 0.04 (100, 2)
    """

    bits: Tensor
    draws: Tensor
    trace_error: Tensor

    @property
    def mean(self) -> float:
        """The mean over the data."""
        return self.bits.mean().item()

    @property
    def standard_error(self) -> float:
        """The standard error of :attr:`mean`, by the spread over the data; NaN for one datum.

        It includes the noise of dequantization and probes, which are drawn anew for each datum.
        """
        n = len(self.bits)
        return (self.bits.std() / math.sqrt(n)).item() if n > 1 else math.nan


def bits_per_dimension(
    model: Score,
    x: Tensor,
    *,
    levels: int = 256,
    data_range: Sequence[float] = (-1.0, 1.0),
    flow: ProbabilityFlow | None = None,
    dequantization: Dequantization = "uniform",
    draws: int = 1,
    importance_weighted: bool = False,
    divergence: str = "exact",
    probes: int = 1,
    probe_distribution: str = "rademacher",
    chunk_size: int | None = None,
    seed: int = 0,
    label: Condition | None = None,
    max_batch: int | None = None,
    progress: bool = False,
) -> BitsPerDimension:
    """Bits per dimension of integers under the probability flow of a score.

    Parameters
    ----------
    model : Score
        A score that knows its SDE, or any score if ``flow`` is passed.
    x : Tensor
        ``(B, *E)``, float32 or float64: integers 0 … levels − 1, scaled to ``data_range``.
    levels : int
        Number of integers, >= 2; 256 for 8-bit images.
    data_range : (float, float)
        What 0 and levels − 1 were scaled to.
    flow : ProbabilityFlow, optional
        Solver, t_min and prior; by default ``ProbabilityFlow(model.sde)``.
    dequantization : "uniform" or callable
        ``q(x, z) -> (u, log_q)`` turns standard normal numbers z into u in [0, 1], both like ``x``.
        ``log_q`` ``(B,)`` is the log density of u in nats.
    draws : int
        S >= 1 dequantizations of each datum; each costs a likelihood.
    importance_weighted : bool
        Whether to average the S densities in place of their logarithms, which gives a tighter
        bound. It needs the exact divergence.
    divergence, probes, probe_distribution, chunk_size, label, max_batch, progress
        As in :meth:`sdescore.ProbabilityFlow.log_likelihood`.
    seed : int
        Datum i has the dequantization and the probes of (seed, i), whatever its batch.

    Raises
    ------
    ParameterError
        ``x`` holds no such integers, u is outside [0, 1], or an option is out of its range.
    IncompatibleError
        The score knows no linear SDE, or an unknown dequantization.
    ShapeError, DivergenceError
        As :meth:`sdescore.ProbabilityFlow.log_likelihood`, or ``log_q`` is not ``(B,)``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore(torch.zeros(3), 100.0, sde)  # much wider than the bins at 0
    >>> bits = ss.bits_per_dimension(score, torch.zeros(1, 3), levels=257)
    >>> round(bits.mean, 1)  # log₂ of 10 √(2π) over the bin's width, 2/256
    11.6
    """
    flow = flow_of(model, flow, "bits_per_dimension")
    draws = checks.count("draws", draws)
    exact = not checks.flag("importance_weighted", importance_weighted) or divergence == "exact"
    expected = 'divergence="exact" for importance_weighted=True'
    checks.that(exact, f"{expected}: the noise of probes would raise the mean density", divergence)
    checks.state(x, "x")
    bins, numel = Bins.of(levels, data_range), math.prod(x.shape[1:])
    found, errors = [], []
    for s, (v, log_q) in enumerate(dequantized(x, bins, dequantization, draws, seed)):
        one = flow.log_likelihood(
            model,
            v,
            divergence=divergence,
            probes=probes,
            probe_distribution=probe_distribution,
            chunk_size=chunk_size,
            seed=seed + s * 0x9E3779B97F4A7C15,  # other probes for each draw
            label=label,
            max_batch=max_batch,
            progress=progress,
        )
        found.append(one.log_prob.double() - log_q + numel * math.log(bins.width))
        errors.append(one.standard_error.double())
    log_probs, unit = torch.stack(found, 1), max(1, numel) * math.log(2)
    whole = log_probs.mean(1)
    if importance_weighted:
        whole = log_probs.logsumexp(1) - math.log(draws)
    trace_error = torch.stack(errors, 1).square().sum(1).sqrt() / draws
    return BitsPerDimension(-whole / unit, -log_probs / unit, trace_error / unit)


def dequantize(
    x: Tensor, *, levels: int = 256, data_range: Sequence[float] = (-1.0, 1.0), seed: int = 0
) -> Tensor:
    """Add uniform noise as wide as a bin to integers ``x`` ``(B, *E)``; the result is like ``x``.

    Datum i has the noise of (seed, i): that of the first draw of :func:`bits_per_dimension`.
    Arguments and errors are those of :func:`bits_per_dimension`.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> x = torch.tensor([[-1.0, 0.0, 1.0]])  # 0, 1, 2 in [−1, 1]
    >>> ((ss.samplers.dequantize(x, levels=3) - x).abs() < 0.5).all()
    tensor(True)
    """
    return next(dequantized(x, Bins.of(levels, data_range), "uniform", 1, seed))[0]


def flow_of(model: Score, flow: ProbabilityFlow | None, user: str) -> ProbabilityFlow:
    """``flow``, or by default that of the model's SDE."""
    if flow is None:
        advice = "pass flow=ProbabilityFlow(sde), or wrap the network in ScoreModel(net, sde)"
        flow = ProbabilityFlow(checks.linear(sde_of(model), user, advice))
    return checks.instance("flow", flow, ProbabilityFlow, "ProbabilityFlow(sde)")


def dequantized(
    x: Tensor,
    bins: Bins,
    dequantization: Dequantization,
    draws: int,
    seed: int,
    differentiable: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """What fills the bins, like ``x``, and log q ``(B,)``, draw by draw."""
    q = dequantization
    if q != "uniform" and (isinstance(q, str) or not callable(q)):
        expected = 'dequantization="uniform" or a function (x, z) -> (u, log_q)'
        checks.refuse(expected, f"{dequantization!r:.100}", IncompatibleError)
    checks.state(x, "x")
    bins.require(x)
    stream = NormalStream(
        seed, range(len(x)), tuple(x.shape[1:]), device=x.device, domain=Domain.DEQUANTIZATION
    )
    log_q = x.new_zeros(len(x), dtype=torch.float64)
    for s in range(draws):
        z = stream.draw(range(s, s + 1))[0].to(x)
        if isinstance(dequantization, str):
            u = torch.special.ndtr(z)
        else:
            with torch.set_grad_enabled(differentiable):
                pair = dequantization(x, z)
            expected, got = "a dequantization that returns (u, log_q)", type(pair).__name__
            fits = isinstance(pair, tuple) and len(pair) == 2
            checks.that(fits, expected, got, IncompatibleError)
            u, log_q = pair
            checks.same_shape(u, x, "u")
            require_scalars(log_q, x, "log_q")
            checks.finite_tensor("log_q", log_q)
            inside = bool(((u >= 0) & (u <= 1)).all())
            checks.that(inside, "a dequantization with u in [0, 1]", f"{u.min():g} to {u.max():g}")
        yield x + bins.width * (u - 0.5), log_q
