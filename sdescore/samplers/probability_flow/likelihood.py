"""What a likelihood is reported as."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from sdescore.checks import finite, is_count, require

__all__ = ["LogLikelihood", "bits_per_dim"]


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """What :meth:`ProbabilityFlow.log_likelihood` found.

    Attributes
    ----------
    log_prob : Tensor
        ``(B,)`` nats: the prior's log density at ``latent`` plus ``log_det``.
    standard_error : Tensor
        ``(B,)`` nats, of the Hutchinson estimate over its probes: 0 for the exact divergence,
        NaN for a single probe, which cannot know its error. The solver's error is not in it.
    latent : Tensor
        ``(B, *E)``, the state at T.
    log_det : Tensor
        ``(B,)`` nats, ``log |det ∂x_T/∂x|``; add your own prior's log density to it.
    evaluations : int
        Calls of the model, all chunks together.
    """

    log_prob: Tensor
    standard_error: Tensor
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
    ScheduleError
        A number out of its range.

    Examples
    --------
    >>> import math, torch, sdescore as ss
    >>> uniform = torch.tensor([-3 * math.log(2.0)])  # uniform on [-1, 1]³: 8 bits each
    >>> ss.bits_per_dim(uniform, 3, levels=256, width=2.0)
    tensor([8.])
    """
    require(is_count(numel) and numel >= 1, "numel >= 1", f"numel={numel!r}")
    require(is_count(levels) and levels >= 1, "levels >= 1", f"levels={levels!r}")
    require(finite(width) and width > 0, "width > 0", f"width={width!r}")
    return -log_prob / (numel * math.log(2)) + math.log2(levels / width)
