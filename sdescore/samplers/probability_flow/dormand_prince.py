r"""Dormand and Prince's method of order 5, with a step size for each sample.

.. math:: k_i = \hat v\Bigl(y + h \sum_{j<i} a_{ij} k_j,\; \varphi + c_i h\Bigr), \qquad
   y' = y + h \sum_i b_i k_i, \qquad E = h \sum_i e_i k_i

(Dormand & Prince 1980, J. Comput. Appl. Math. 6(1), table 2; E is the difference to the method of
order 4.) The last k of a step is the first of the next.

A sample's error e is the root mean square of :math:`E / (a + r \max(|y|, |y'|))` over the elements
of its state, or the largest such number of its integrals. Its step is taken if e ≤ 1; the next is
:math:`0.9\, e^{-1/5}` times as long, within bounds, and not longer right after a rejection. The
first step is Hairer's (Hairer, Nørsett & Wanner 1993, II.4), from one more evaluation close by.

Nothing here looks at two samples at once. A network, though, rounds differently in another batch,
and the error changes a little with it. So steps have four sizes to an octave: such a change is lost
unless e lies at the edge between two sizes, or at 1.

Samples that have arrived leave the batch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore.samplers.probability_flow.velocity import Selection

if TYPE_CHECKING:
    from sdescore.samplers.probability_flow.ode import FlowODE

C = (1 / 5, 3 / 10, 4 / 5, 8 / 9)  # the last two are 1
A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
ORDER, SAFETY, SHRINK, GROW = 5, 0.9, 0.2, 5.0
PROBE, SHORTEST = 1e-3, 1e-12  # in radians
SIZES = 4  # of a step, to an octave


def dormand_prince(ode: FlowODE, y: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
    """Take rows ``(B, d + K)`` from the angle ``start`` to ``end``, each by its own steps.

    The second result is how often the model was called with each row: ``(B,)`` int64 on the CPU.
    """
    sign = 1.0 if end > start else -1.0
    rows = torch.arange(len(y), device="cpu")  # those on their way
    present: Selection = slice(None)
    angle = torch.full((len(y),), start, dtype=torch.float64, device="cpu")
    k = ode.rates(y, ode.at(angle, y), present)
    h, grows = first_step(ode, y, k, angle, sign), torch.ones_like(rows, dtype=torch.bool)
    parts, order, calls = [], [], []
    while True:
        left = (end - angle).abs()
        # The last two steps share what is left, so that none is a sliver.
        step = torch.where(h < left, torch.minimum(h, left / 2), left)
        last = step == left
        after = torch.where(last, end, angle + sign * step)
        angles = torch.cat([*(angle + sign * c * step for c in C), after])
        stages = ode.at(angles, y).split(len(y))
        signed = (sign * step).to(y).unsqueeze(1)
        slopes = [k]
        for row, numbers in zip(A, (*stages, stages[-1]), strict=True):
            new = y + signed * combined(row, slopes)
            slopes.append(ode.rates(new, numbers, present))
        error = ode.error(signed * combined(E, slopes), y, new)
        good = error <= 1
        factor = (SAFETY * error ** (-1 / ORDER)).clamp(SHRINK, GROW)
        factor = torch.where(good & ~grows, factor.clamp(max=1.0), factor)
        h, grows, angle = on_a_scale(step * factor), good, torch.where(good, after, angle)
        taken = good.to(y.device).unsqueeze(1)
        y, k = torch.where(taken, new, y), torch.where(taken, slopes[-1], k)
        moving = ~(good & last)
        if not bool(moving.all()):
            stay = moving.to(y.device)
            parts.append(y[~stay])
            order.append(rows[~moving])
            calls.append(torch.full_like(order[-1], ode.evaluations))
            y, k, rows, angle, h = y[stay], k[stay], rows[moving], angle[moving], h[moving]
            grows, present = grows[moving], rows.to(y.device)
            if not len(rows):
                break
        ode.require(h >= SHORTEST, f"its step fell below {SHORTEST:g} radians", angle, rows)
    place = torch.cat(order).argsort()
    return torch.cat(parts)[place.to(y.device)], torch.cat(calls)[place]


def first_step(ode: FlowODE, y: Tensor, k: Tensor, angle: Tensor, sign: float) -> Tensor:
    """The first step of each row: about a hundredth of the tolerance, by y′ and y″."""
    near = ode.rates(y + sign * PROBE * k, ode.at(angle + sign * PROBE, y), slice(None))
    curvature = ode.error((near - k) / PROBE, y, y)
    return on_a_scale((0.01 / torch.maximum(ode.error(k, y, y), curvature)) ** (1 / ORDER))


def combined(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """``Σ w k``, in one order, so that a row's sum does not depend on the others."""
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total = total.add(slope, alpha=weight)
    return total


def on_a_scale(h: Tensor) -> Tensor:
    """``h`` rounded to a scale of some sizes to an octave, at most one radian."""
    # Not by exp2, which rounds a number otherwise beside others.
    return (SIZES * h.clamp(max=1.0).log2()).round().mul(math.log(2) / SIZES).exp()
