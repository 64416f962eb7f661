"""UniPC against its formulas, as a loop in log(α/σ)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.errors import IncompatibleError
from tests.helpers.clock import Clock, model_of
from tests.helpers.published import Network, difference, draw, noises


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


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(IncompatibleError, match="variant"):
        ss.published.unipc(ss.VPSDE(), variant="bh3")
