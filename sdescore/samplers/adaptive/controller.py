r"""Which steps are good enough, and how long the next one is.

The error of a step of one sample is the root mean square over its elements of
:math:`E_i / (a + r \max(|x_i|, |x'_i|))`, x and x′ being the states before and after it
(Hairer, Nørsett & Wanner 1993, II.4, eqs. 4.10–4.11; per sample as in Jolicoeur-Martineau et al.
2021, arXiv:2105.14080, section 3). A step is taken if e ≤ 1. The next has its size times

.. math:: S\, e_n^{-0.7/p}\, e_{n-1}^{0.4/p}

(Gustafsson 1991, ACM TOMS 17(4)), :math:`S\, e_n^{-1/p}` after a rejection, between bounds; the
step right after a rejection does not grow.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdescore import checks
from sdescore.shapes import flat

SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
INTEGRAL, PROPORTIONAL = 0.7, 0.4
SMALLEST = 1e-10  # an error of 0 is taken for this one


def scaled_error(
    difference: Tensor, before: Tensor, after: Tensor, rtol: float, atol: float
) -> Tensor:
    """e of each sample, ``(B,)`` float64 on the CPU; 0 for an event without elements."""
    scale = atol + rtol * torch.maximum(before.abs(), after.abs())
    relative = flat(difference / scale)
    squares = relative.to(checks.with_float64(relative.device), torch.float64).square()
    return squares.sum(1).div(max(1, squares.shape[1])).sqrt().cpu()


def next_step(
    h: Tensor, error: Tensor, last: Tensor, order: float, grows: Tensor
) -> tuple[Tensor, Tensor]:
    """The next step's length, and the error to pass as ``last`` with it; all ``(B,)`` float64.

    ``h`` and ``error`` are those of the step just tried, whose error falls as :math:`h^{order}`;
    ``last`` is the error of the step taken before, 1 at first, and ``grows`` says whether that step
    was taken as well.
    """
    error = error.clamp(min=SMALLEST)
    taken = error <= 1
    steady = error ** (-INTEGRAL / order) * last ** (PROPORTIONAL / order)
    factor = SAFETY * torch.where(taken, steady, error ** (-1 / order))
    factor = factor.clamp(SHRINK, GROW)
    factor = torch.where(grows, factor, factor.clamp(max=1.0))
    return h * factor, torch.where(taken, error, last)


def on_a_scale(h: Tensor) -> Tensor:
    """``h`` rounded to a scale of eight steps to an octave.

    A network rounds differently in another batch, which changes the error estimate a little. A step
    size that followed the estimate exactly would carry that change on to the samples, and every
    further step would enlarge it. A step size on a coarse scale changes only where the estimate
    lies at the edge between two sizes, or at 1.
    """
    # Not by exp2, which rounds a number otherwise beside others.
    return (8 * h.log2()).round().mul(math.log(2) / 8).exp()
