"""DPM-Solver++ and UniPC against their formulas, as loops in log(α/σ)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ScheduleError, TimeError
from tests.helpers.published import Network, difference, draw, noises

B0, B1 = 0.1, 20.0


class Clock:
    """α, σ, λ of the VP SDE, and x̂₀ of a network ε at a time."""

    def __init__(self, net: Network) -> None:
        self.net = net

    def log_alpha(self, t: float) -> float:
        return -0.25 * t**2 * (B1 - B0) - 0.5 * t * B0

    def alpha(self, t: float) -> float:
        return math.exp(self.log_alpha(t))

    def sigma(self, t: float) -> float:
        return math.sqrt(-math.expm1(2 * self.log_alpha(t)))

    def lam(self, t: float) -> float:
        return self.log_alpha(t) - math.log(self.sigma(t))

    def time(self, lam: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(100):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.lam(middle) > lam else (low, middle)
        return low

    def times(self, skip: str, steps: int, end: float = 1e-3) -> list[float]:
        shares = [n / steps for n in range(steps + 1)]
        if skip == "time_uniform":
            return [1 + u * (end - 1) for u in shares]
        if skip == "time_quadratic":
            return [(1 + u * (end**0.5 - 1)) ** 2 for u in shares]
        return [self.time(self.lam(1.0) + u * (self.lam(end) - self.lam(1.0))) for u in shares]

    def x0(self, x: Tensor, t: float) -> Tensor:
        e = self.net(x, torch.tensor([999 * t], dtype=torch.float64))
        return (x - self.sigma(t) * e) / self.alpha(t)


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


def uni_pc(c: Clock, x: Tensor, t: list[float], order: int, variant: str, lower: bool) -> Tensor:
    """Algorithm 1 of the paper with the data prediction of its appendix; the state is corrected
    by the model's output at its end, which the next step uses again."""
    steps = len(t) - 1
    m = [c.x0(x, t[0])]
    for n in range(steps):
        p = min(order, n + 1, steps - n if lower else order)
        h = c.lam(t[n + 1]) - c.lam(t[n])
        B = -h if variant == "bh1" else math.expm1(-h)
        psi, values = math.expm1(-h) / -h - 1, []
        for i in range(1, p + 1):
            values.append(psi * math.factorial(i) / B)
            psi = psi / -h - 1 / math.factorial(i + 1)
        r = [(c.lam(t[n - k]) - c.lam(t[n])) / h for k in range(1, p)] + [1.0]
        R = np.array([[rk**i for rk in r] for i in range(p)])
        older = [(m[k] - m[0]) / r[k - 1] for k in range(1, p)]
        a_s = c.alpha(t[n + 1])
        base = c.sigma(t[n + 1]) / c.sigma(t[n]) * x - a_s * math.expm1(-h) * m[0]
        rho = [0.5] if p == 2 else np.linalg.solve(R[:-1, :-1], values[:-1]) if p > 2 else []
        x = base - a_s * B * sum((w * d for w, d in zip(rho, older, strict=True)), torch.zeros(()))
        if n + 1 < steps:
            new = c.x0(x, t[n + 1])
            rho = [0.5] if p == 1 else np.linalg.solve(R, values)
            changes = [*older, new - m[0]]
            x = base - a_s * B * sum(
                (w * d for w, d in zip(rho, changes, strict=True)), torch.zeros(())
            )
            m.insert(0, new)
    return x


def model_of(dtype: torch.dtype) -> ss.ScoreModel:
    return ss.ScoreModel(Network(dtype), ss.VPSDE(beta_min=B0, beta_max=B1), "epsilon", "999t")


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


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [6, 15])
def test_unipc(order: int, steps: int, variant: str, dtype: torch.dtype, close: float) -> None:
    z, model, clock = noises(1, dtype), model_of(dtype), Clock(Network())
    for skip_type, lower in [("time_uniform", True), ("logSNR", False)]:
        sampler = ss.published.unipc(
            model, steps, order, variant, skip_type, lower_order_final=lower
        )
        times = clock.times(skip_type, steps)
        theirs = uni_pc(clock, z[0].double(), times, order, variant, lower)
        assert difference(draw(sampler, model, z), theirs) < close
        assert sampler.evaluations == steps


@pytest.mark.parametrize(
    "predictor",
    [
        *(ss.published.DPMSolverPlusPlus(order) for order in (1, 2, 3)),
        *(ss.published.UniPC(order) for order in (1, 2)),
    ],
    ids=repr,
)
def test_the_order_is_at_least_the_declared_one(predictor: ss.Predictor) -> None:
    found = ss.analysis.order(predictor, ss.VPSDE(), steps=64)
    assert found > predictor.order - 0.15


@pytest.mark.parametrize("make", [ss.published.dpm_solver_plus_plus, ss.published.unipc])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 2, "order": 3}, ScheduleError, "steps >= 3"),
        ({"order": 0}, ParameterError, "order"),
        ({"order": 5}, ParameterError, "order"),
        ({"skip_type": "uniform"}, IncompatibleError, "skip_type"),
        ({"t_end": 1.0}, TimeError, "t_end < 1"),
        ({"lower_order_final": 1}, ParameterError, "lower_order_final"),
        ({"denoise_to_zero": None}, ParameterError, "denoise_to_zero"),
    ],
)
def test_refusals(make: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(ss.VPSDE(), **options)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="variant"):
        ss.published.unipc(ss.VPSDE(), variant="bh3")
