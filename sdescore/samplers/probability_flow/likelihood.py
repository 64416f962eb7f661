r"""How a likelihood is reported, with its standard error.

K probes give K estimates of a log density. Their mean has the standard error
:math:`S/\sqrt K`, S² the estimates' variance, and the 95 % interval of Student's t with K − 1
degrees of freedom (Student 1908, Biometrika 6(1)). The error is NaN for one estimate and for a few
that coincide, which hide their spread (two Rademacher probes in d = 2 are equal up to a sign in
half of the cases).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks

__all__ = ["LogLikelihood", "bits_per_dim"]

# Fewer estimates than this that coincide say nothing: of two equally likely values, 21 draws show
# one alone with a probability of 1e-6.
ENOUGH = 21


def standard_error(estimates: Tensor) -> Tensor:
    """Of the mean of K estimates ``(B, K)``, by their spread: ``(B,)``; NaN where they hide it."""
    K, mean = estimates.shape[1], estimates.mean(1)
    if K == 1:
        return torch.full_like(mean, math.nan)
    error = estimates.std(1) / math.sqrt(K)
    if K < ENOUGH:
        rounding = 1e3 * torch.finfo(mean.dtype).eps * (1 + mean.abs())
        error = error.where(error > rounding, math.nan)
    return error


def t_quantile(freedom: int) -> float:
    """Student's t that 2.5 % of draws exceed; the 95 % interval is ± so many standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """What :meth:`ProbabilityFlow.log_likelihood` found.

    :func:`sdescore.samplers.likelihood_errors` has the errors of the solver, of the prior and of
    stopping at t_min.

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
        nearly normal. In one to three dimensions Rademacher probes take few values, and the
        interval covers less (87 % for K = 7 in d = 2).
    latent : Tensor
        ``(B, *E)``, the state at T.
    log_det : Tensor
        ``(B,)`` nats, ``log |det ∂x_T/∂x|``; add your own prior's log density to it.
    evaluations : Tensor
        ``(B,)`` int64 on the CPU: calls of the model with each sample. The first calls, which
        test whether it computes each sample by itself, are not counted.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.GaussianScore(torch.zeros(3), 0.25, ss.VPSDE())
    >>> flow, x = ss.ProbabilityFlow(score.sde), torch.zeros(1, 3)
    >>> found = flow.log_likelihood(score, x, divergence="hutchinson", probes=8)
    >>> std = score.sde.marginal(score.sde.T)[1].item()
    >>> prior = torch.distributions.Normal(0.0, std).log_prob(found.latent).sum(1)  # or your own
    >>> torch.allclose(found.log_prob, prior + found.log_det)
    True
    """

    log_prob: Tensor
    standard_error: Tensor
    margin: Tensor
    latent: Tensor
    log_det: Tensor
    evaluations: Tensor


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
