"""DPM-Solver++ against its formulas, as a loop in log(α/σ)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.clock import Clock, model_of
from tests.helpers.published import Network, difference, draw, noises


def dpm_solver(c: Clock, x: Tensor, t: list[float], order: int, lower: bool, ends: bool) -> Tensor:
    """Multistep DPM-Solver++: algorithm 2 of the paper at order 2, the code's update at order 3."""
    steps = len(t) - 1
    m: list[Tensor] = []
    for n in range(steps):
        m.insert(0, c.x0(x, t[n]))
        p = min(order, n + 1, steps - n if lower and steps < 10 else order)
        h = c.lam(t[n + 1]) - c.lam(t[n])
        e = math.expm1(-h)
        a_s = c.alpha(t[n + 1])
        y = c.sigma(t[n + 1]) / c.sigma(t[n]) * x - a_s * e * m[0]
        if p > 1:
            r0 = (c.lam(t[n]) - c.lam(t[n - 1])) / h
            first = (m[0] - m[1]) / r0
        if p == 2:
            y = y - 0.5 * a_s * e * first
        elif p == 3:
            r1 = (c.lam(t[n - 1]) - c.lam(t[n - 2])) / h
            older = (m[1] - m[2]) / r1
            slope = first + r0 / (r0 + r1) * (first - older)
            bend = (first - older) / (r0 + r1)
            phi_2 = e / h + 1
            y = y + a_s * phi_2 * slope - a_s * (phi_2 / h - 0.5) * bend
        x = y
    return c.x0(x, t[-1]) if ends else x


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("skip_type", ["time_uniform", "time_quadratic", "logSNR"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [6, 15])
def test_dpm_solver_plus_plus(
    order: int, steps: int, skip_type: str, dtype: torch.dtype, close: float
) -> None:
    z, model, clock = noises(1, dtype), model_of(dtype), Clock(Network())
    times = clock.times(skip_type, steps)
    for lower, ends in itertools.product([True, False], repeat=2):
        sampler = ss.published.dpm_solver_plus_plus(
            model, steps, order, skip_type, lower_order_final=lower, denoise_to_zero=ends
        )
        theirs = dpm_solver(clock, z[0].double(), times, order, lower, ends)
        assert difference(draw(sampler, model, z), theirs) < close
        assert sampler.evaluations == steps + ends
