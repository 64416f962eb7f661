r"""Underdamped Langevin dynamics by the BAOAB splitting.

With a velocity v, inverse mass P, friction γ and temperature ϑ,

.. math:: \mathrm{d}x = v\,\mathrm{d}r, \qquad
          \mathrm{d}v = P s\,\mathrm{d}r - \gamma v\,\mathrm{d}r
          + \sqrt{2\gamma\vartheta}\,P^{1/2}\,\mathrm{d}w ,

the distribution :math:`p^{1/\vartheta}(x)\, N(v; 0, \vartheta P)` is stationary. Leimkuhler &
Matthews (2013, "Rational construction of stochastic numerical methods for molecular sampling",
section 2) solve kick B, drift A and Ornstein–Uhlenbeck part O exactly, in the order B A O A B:

.. math::
   v &\leftarrow v + \tfrac h2 P s(x) && \text{B} \\
   x &\leftarrow x + \tfrac h2 v && \text{A} \\
   v &\leftarrow e^{-\gamma h} v + \sqrt{\vartheta (1 - e^{-2\gamma h})}\, P^{1/2} z && \text{O} \\
   x &\leftarrow x + \tfrac h2 v && \text{A} \\
   v &\leftarrow v + \tfrac h2 P s(x) && \text{B}

The score of the last kick is that of the next step's first, so a step costs one evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from torch import Tensor

from sdescore.langevin.preconditioner import Preconditioner


def baoab(
    x: Tensor,
    v: Tensor,
    score: Callable[[Tensor], Tensor],
    h: float,
    friction: float,
    temperature: float,
    P: Preconditioner,
    noises: Iterator[Tensor],
) -> Iterator[tuple[Tensor, Tensor]]:
    """``(x, v)`` after each step, one of ``noises`` a step; all like ``x`` ``(B, *E)``."""
    damping = math.exp(-friction * h)
    noise = math.sqrt(-temperature * math.expm1(-2 * friction * h))
    kick = 0.5 * h * P.apply(score(x))
    for z in noises:
        v = v + kick
        x = x + 0.5 * h * v
        v = damping * v + noise * P.sqrt_apply(z)
        x = x + 0.5 * h * v
        kick = 0.5 * h * P.apply(score(x))
        v = v + kick
        yield x, v
