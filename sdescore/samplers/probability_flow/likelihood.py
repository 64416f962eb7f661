r"""How a likelihood finds its divergences, and what it is reported as.

The derivatives and the distributions of probes are those of :mod:`sdescore.score.divergence`. K
probes give K estimates of a log density. Their mean has the standard error
:math:`S/\sqrt K`, S² the estimates' variance, and the 95 % interval of Student's t with K − 1
degrees of freedom (Student 1908, Biometrika 6(1)). One estimate has no spread, and a few estimates
that coincide do not show theirs: two Rademacher probes in d = 2 are equal, up to a sign that does
not matter, in half of the cases. In both cases the error is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.noise.counter import Domain, NormalStream
from sdescore.score.divergence import PROBE_LAWS, exact_trace, probe_traces, probes_from_normal

__all__ = ["LogLikelihood", "bits_per_dim"]

DIVERGENCES = ("exact", "hutchinson")

# Fewer estimates than this that coincide say nothing: of two equally likely values, 21 draws show
# one alone with a probability of 1e-6.
ENOUGH = 21

Divergence = Callable[[Tensor, Tensor], Tensor]
"""``(score, x) -> (B, K)``: K estimates of each sample's ∇·s, the score made from ``x``."""


@dataclass(frozen=True)
class Trace:
    """How a likelihood finds its divergences.

    Parameters
    ----------
    divergence : {"exact", "hutchinson"}
        d derivatives per evaluation, or one per probe.
    probes : int
        K >= 1.
    probe_law : {"rademacher", "gaussian", "sphere"}
        The distribution of the probes.
    seed : int
        Sample ``i`` uses probes (seed, i).

    Raises
    ------
    IncompatibleError
        An unknown divergence or distribution.
    ParameterError
        ``probes`` is no positive integer, or ``seed`` no integer.
    """

    divergence: str
    probes: int
    probe_law: str
    seed: int

    def __post_init__(self) -> None:
        checks.choice("divergence", self.divergence, DIVERGENCES)
        checks.choice("probe_law", self.probe_law, PROBE_LAWS)
        vars(self).update(probes=checks.count("probes", self.probes), seed=checks.seed(self.seed))

    @property
    def estimates(self) -> int:
        """K, the number of estimates per sample."""
        return 1 if self.divergence == "exact" else self.probes

    def of(self, samples: range, x: Tensor) -> Divergence:
        """The rule for these samples, fixed probes and all; ``x`` ``(B, *E)`` is their state."""
        # PyTorch cannot take several derivatives of a network under autocast at a time.
        chunk = 1 if torch.is_autocast_enabled(x.device.type) else None
        if self.divergence == "exact":
            return lambda s, x: exact_trace(s, x, chunk_size=chunk).unsqueeze(1)
        stream = NormalStream(self.seed, samples, x.shape[1:], device=x.device, domain=Domain.TRACE)
        probes = probes_from_normal(self.probe_law, stream.draw(range(self.probes)).to(x))
        return lambda s, x: probe_traces(s, x, probes, chunk_size=chunk)

    def likelihood(
        self, latent: Tensor, integrals: Tensor, prior_std: float, evaluations: int
    ) -> LogLikelihood:
        """What the states at T ``(B, *E)`` and the K integrals ``(B, K)`` say."""
        log_det = integrals.mean(1)
        numel = math.prod(latent.shape[1:])
        squares = latent.reshape(len(latent), numel).div(prior_std).square().sum(1)
        prior = -0.5 * squares - numel * (math.log(prior_std) + 0.5 * math.log(2 * math.pi))
        error = torch.zeros_like(log_det)
        # In d = 1 the probes ±1 are exact.
        if self.divergence != "exact" and (numel > 1 or self.probe_law == "gaussian"):
            K = self.probes
            error = integrals.std(1) / math.sqrt(K) if K > 1 else torch.full_like(log_det, math.nan)
            if K < ENOUGH:
                rounding = 1e3 * torch.finfo(log_det.dtype).eps * (1 + log_det.abs())
                error = error.where(error > rounding, math.nan)
        margin = error * t_quantile(max(1, self.estimates - 1))
        return LogLikelihood(prior + log_det, error, margin, latent, log_det, evaluations)


def t_quantile(freedom: int) -> float:
    """Student's t that 2.5 % of draws exceed; the 95 % interval is ± so many standard errors.

    By bisection of the finite series for whole degrees of freedom (Abramowitz & Stegun 1964,
    26.7.3 and 26.7.4).
    """

    def within(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        term = total = 1.0 if freedom % 2 == 0 else math.cos(angle)
        for k in range(2 + freedom % 2, freedom, 2):
            term *= math.cos(angle) ** 2 * (k - 1) / k
            total += term
        if freedom % 2 == 0:
            return math.sin(angle) * total
        return 2 / math.pi * (angle + math.sin(angle) * (total if freedom > 1 else 0.0))

    low, high = 1.0, 20.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if within(middle) < 0.95 else (low, middle)
    return high


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """What :meth:`ProbabilityFlow.log_likelihood` found.

    Attributes
    ----------
    log_prob : Tensor
        ``(B,)`` nats: the prior's log density at ``latent`` plus ``log_det``.
    standard_error : Tensor
        ``(B,)`` nats, of the Hutchinson estimate over its K probes. 0 for the exact divergence. NaN
        where the error cannot be known: for one probe, and for fewer than 21 probes whose estimates
        all coincide. The solver's error is not in it.
    margin : Tensor
        ``(B,)`` nats: ``log_prob ± margin`` is the 95 % interval of Student's t for what
        infinitely many probes would give; 0 and NaN as above. It assumes estimates that are
        nearly normal. In one to three dimensions Rademacher's take few values, and the interval
        covers less (87 % for K = 7 in d = 2).
    latent : Tensor
        ``(B, *E)``, the state at T.
    log_det : Tensor
        ``(B,)`` nats, ``log |det ∂x_T/∂x|``; add your own prior's log density to it.
    evaluations : int
        Calls of the model, all chunks together.
    """

    log_prob: Tensor
    standard_error: Tensor
    margin: Tensor
    latent: Tensor
    log_det: Tensor
    evaluations: int


def bits_per_dim(log_prob: Tensor, numel: int, *, levels: int, width: float) -> Tensor:
    r"""Bits per dimension of data that were ``levels`` integers before they were scaled.

    .. math:: -\frac{\log p(x)}{d \ln 2} + \log_2 \frac{\text{levels}}{\text{width}}

    (Theis et al. 2016, arXiv:1511.01844, section 3.1.) ``x`` is the data with uniform
    dequantisation noise: level ``k`` fills ``[k, k + 1) · width / levels``, shifted at will.

    Parameters
    ----------
    log_prob : Tensor
        ``(B,)`` nats, of x in its scaled units.
    numel : int
        d >= 1, elements per sample.
    levels : int
        Number of integer levels, 256 for 8-bit images.
    width : float
        Length of the range they are scaled to, > 0: 2 for [-1, 1].

    Raises
    ------
    ParameterError
        A number out of its range.

    Examples
    --------
    >>> import math, torch, sdescore as ss
    >>> uniform = torch.tensor([-3 * math.log(2.0)])  # uniform on [-1, 1]³: 8 bits each
    >>> ss.bits_per_dim(uniform, 3, levels=256, width=2.0)
    tensor([8.])
    """
    numel, levels = checks.count("numel", numel), checks.count("levels", levels)
    width = checks.number("width", width, above=0)
    return -log_prob / (numel * math.log(2)) + math.log2(levels / width)
