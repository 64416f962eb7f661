r"""The exponential midpoint rule in time, with steps that keep to a tolerance.

.. math:: p_{t+h} = e^{h\, Q(t + h/2)}\, p_t + O(h^3)

(Magnus' expansion cut after its first term; Hairer, Lubich & Wanner 2006, "Geometric numerical
integration", section IV.7). It is exact where Q does not depend on time, and evaluates Q at
neither end.

A third of the L1 distance from one step of h to two of h/2 estimates the error of the two.
A stochastic matrix never stretches an L1 distance, so the sum of all errors bounds the end's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from sdescore.errors import DivergenceError
from sdescore.fokker_planck.generator import Array, Sparse
from sdescore.fokker_planck.uniformisation import poisson_mixture, poisson_weights, uniformise

Step = Callable[[Array, float, float], Array]
ROUNDING = 1e-13
Watch = Callable[[Array, float], None]
"""``(p, t) -> None``: sees the density after every step taken."""


class Propagator:
    """One midpoint step under ``generator(t)`` = Q, and the products that all of them have cost.

    It gives up beyond ``limit`` matrix–vector products.
    """

    def __init__(self, generator: Callable[[float], Sparse], limit: int) -> None:
        self._generator, self._limit = generator, limit
        self.products = 0

    def __call__(self, p: Array, t: float, h: float) -> Array:
        """From ``t`` to ``t + h``; h < 0 where time runs down."""
        q, P = uniformise(self._generator(t + 0.5 * h))
        jumps = q * abs(h)
        # About as many products as jumps; checked first, for their weights take memory too.
        if not self.products + jumps <= self._limit:
            raise DivergenceError(
                f"the solver gave up at t = {t:g}: after {self.products} matrix–vector products "
                f"the next step, over {abs(h):.3g}, needs some {jumps:.3g} more, beyond "
                f"max_products = {self._limit}; take fewer cells, narrower bounds or a shorter "
                "time, or raise it",
                step=0,
                t=t,
                samples=[],
            )
        first, weights = poisson_weights(jumps)
        self.products += first + len(weights) - 1
        return poisson_mixture(P, first, weights, p)


def equal_steps(step: Step, p: Array, start: float, end: float, n: int, watch: Watch) -> Array:
    """``n`` equal midpoint steps."""
    for t, following in pairwise(np.linspace(start, end, n + 1).tolist()):
        p = step(p, t, (end - start) / n)
        watch(p, following)
    return p


def adaptive(
    step: Step,
    p: Array,
    start: float,
    end: float,
    first: float,
    longest: float,
    tolerance: float,
    watch: Watch,
) -> tuple[Array, float, float]:
    """Steps whose errors sum to at most about ``tolerance · |end − start|``.

    ``first`` is the step to try first, ``longest`` the longest to take, > 0 in either direction of
    time. Returns the density at ``end``, the sum of the errors' estimates, the step to go on with.
    """
    t, spent, h, sign = start, 0.0, first, math.copysign(1.0, end - start)
    shortest = 1e-12 * max(abs(start), abs(end))
    while t != end:
        reaches = h >= abs(end - t)
        size = min(h, abs(end - t))
        move = sign * size
        whole = step(p, t, move)
        halves = step(step(p, t, 0.5 * move), t + 0.5 * move, 0.5 * move)
        error = float(np.abs(whole - halves).sum()) / 3
        # Below ROUNDING a shorter step does not help. At a jump of the coefficients the error falls
        # no faster than ``allowed``; the shortest step is then accepted.
        allowed = max(tolerance * size, ROUNDING)  # O(h), where the local error is O(h³)
        factor = min(4.0, max(0.2, 0.9 * math.sqrt(allowed / max(error, 1e-300))))
        proposed = max(shortest, size * factor)
        if error <= allowed or size <= shortest:
            p, spent = halves, spent + error
            t = end if reaches else t + move
            watch(p, t)
            # A step cut short by the end says nothing against a longer one.
            h = min(longest, max(h, proposed) if reaches else proposed)
        else:
            h = proposed
    return p, spent, h
