"""Euler–Maruyama's step by hand."""

from __future__ import annotations

import math

import pytest
import torch

import sdescore as ss
from tests.helpers.strategies import REPRESENTATIVES

pytestmark = pytest.mark.fast


ETAS = (0.0, 0.3, 1.0)


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_euler_maruyama_and_its_step_by_hand(name: str, eta: float) -> None:
    sde = REPRESENTATIVES[name]
    t, s = 0.8 * sde.T, 0.7 * sde.T
    f, g2 = (v.item() for v in sde.rates(t))
    x, score, z = torch.randn(3, 4, 2, dtype=torch.float64)
    h = t - s
    drift = f * x - (1 + eta**2) / 2 * g2 * score
    expected = x - drift * h + eta * math.sqrt(g2 * h) * z
    predictor = ss.EulerMaruyama(eta)
    torch.testing.assert_close(predictor.step(sde, x, lambda _: score, t, s, z), expected)
    numbers = predictor.tableau(sde, torch.tensor([t, s], dtype=torch.float64))
    by_table = numbers.a * x + numbers.b[0] * score + numbers.c[0] * z
    torch.testing.assert_close(by_table, expected, rtol=1e-12, atol=1e-12)
