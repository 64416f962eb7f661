r"""Metropolis' test of a Langevin step, which makes its stationary distribution exact.

MALA (Besag 1994, discussion of Grenander & Miller; Roberts & Tweedie 1996, "Exponential convergence
of Langevin distributions and their discrete approximations") proposes the Langevin step
:math:`q(x \to y) = N(y;\ x + \tau P s_x,\ 2\tau\vartheta P)` and accepts it with probability
:math:`\min(1, e^r)`,

.. math::
   r = \log \frac{p(y)^{1/\vartheta}\, q(y \to x)}{p(x)^{1/\vartheta}\, q(x \to y)}
     = \frac1\vartheta \Bigl[ \log \frac{p(y)}{p(x)} - \tfrac12 (y - x)^T (s_x + s_y)
       + \tfrac\tau4 \bigl( s_x^T P s_x - s_y^T P s_y \bigr) \Bigr] .

The right-hand side is the one computed: in the difference of
:math:`(y - x - \tau P s_x)^T P^{-1} (y - x - \tau P s_x)` and its mirror image P⁻¹ cancels. What is
left is the error of the trapezium rule for :math:`\log p(y)/p(x)` and a difference of speeds, each
small where τ is. It holds for any ``s``, be it the gradient of ``log p`` or not.

Log densities are subtracted in their own precision. Their free constant c cancels up to a rounding
error ε c. In float32 ε is 6e-8: an energy with c = 10⁶ makes an error of 0.06 in r. Return
log densities near zero, or in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.langevin.preconditioner import Preconditioner
from sdescore.shapes import align, flat, sum_event


def mala(
    x: Tensor,
    score: Callable[[Tensor], Tensor],
    log_density: Callable[[Tensor], Tensor],
    tau: float,
    temperature: float,
    P: Preconditioner,
    noises: Iterator[Tensor],
) -> Iterator[tuple[Tensor, Tensor]]:
    """``x`` ``(B, *E)`` after each step and who moved ``(B,)``; ``n + 1`` evaluations for n steps.

    A step takes two of ``noises``, each like ``x`` and used before the next is asked for: one
    for the proposal and one for the test. A chain that starts where score or density is not finite
    could only stand still, unnoticed: it becomes NaN.
    """
    here = evaluate(x, score, log_density, P)
    finite = (here.log_density + here.speed).isfinite()
    here = here._replace(x=torch.where(align(finite, x), x, torch.nan))
    spread = math.sqrt(2 * tau * temperature)
    for z in noises:
        y = here.x + tau * P.apply(here.score) + spread * P.sqrt_apply(z)
        there = evaluate(y, score, log_density, P)
        r = log_ratio(here, there, tau, temperature)
        # Where the proposal, its score or its density is not finite, r is not, and it is rejected.
        moved = (log_uniform(next(noises)) < r) & r.isfinite()
        pairs = zip(here, there, strict=True)
        here = Point(*(torch.where(align(moved, new), new, old) for old, new in pairs))
        yield here.x, moved


class Point(NamedTuple):
    """A state with all that the test needs of it."""

    x: Tensor  # (B, *E), as the score
    score: Tensor
    log_density: Tensor  # (B,), up to a constant, in at least x's precision
    speed: Tensor  # (B,), sᵀ P s


def evaluate(
    x: Tensor,
    score: Callable[[Tensor], Tensor],
    log_density: Callable[[Tensor], Tensor],
    P: Preconditioner,
) -> Point:
    """The point at ``x``: one evaluation of the score and one of the log density."""
    s, f = score(x), log_density(x)
    if not isinstance(f, Tensor) or f.shape != x.shape[:1]:
        got = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
        checks.refuse(f"a log density of shape ({len(x)},), one a sample", got, ShapeError)
    # Not in x's precision: a large free constant would round the difference of two away.
    f = f.to(device=x.device, dtype=torch.promote_types(f.dtype, x.dtype))
    return Point(x, s, f, P.quadratic(s))


def log_ratio(old: Point, new: Point, tau: float, temperature: float) -> Tensor:
    """``r`` of the move from ``old`` to ``new``, ``(B,)``."""
    rule = 0.5 * sum_event((new.x - old.x) * (old.score + new.score))
    speeds = 0.25 * tau * (old.speed - new.speed)
    return (new.log_density - old.log_density - rule + speeds) / temperature


def log_uniform(z: Tensor) -> Tensor:
    """``log u``, u uniform on (0, 1): ``log Φ`` of each row's first standard normal, ``(B,)``.

    An event without elements has one state and nothing to draw from: its u is 1/2.
    """
    rows = flat(z)
    first = rows[:, 0] if rows.shape[1] else z.new_zeros(len(z))
    log_u: Tensor = torch.special.log_ndtr(first)
    return log_u
