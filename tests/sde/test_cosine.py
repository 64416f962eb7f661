"""The cosine SDE against its paper, at its singular end too."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch

import sdescore as ss
from tests.helpers.sdes import relative
from tests.helpers.strategies import (
    EPS,
    paper_marginal,
)

pytestmark = pytest.mark.fast


@pytest.mark.guards("T10")
def test_cosine_near_its_singular_end_keeps_its_digits() -> None:
    sde = ss.CosineVPSDE(T=0.9999999)
    t = 0.99999990
    exact = mpmath.mpf(t)
    marginal = paper_marginal(sde)
    assert relative(sde.marginal(t)[0].item(), float(marginal(exact)[0])) <= 4 * EPS
    f = float(mpmath.diff(lambda r: mpmath.log(marginal(r)[0]), exact))
    assert relative(sde.rates(t)[0].item(), f) <= 8 * EPS


@pytest.mark.parametrize("offset", [0.008, 0.05])
def test_alpha_bar_is_equation_17_and_beta_its_decay(offset: float) -> None:
    """Nichol & Dhariwal 2021: ᾱ_t = f(t)/f(0), f(t) = cos²((t + s)/(1 + s) π/2)."""
    sde = ss.CosineVPSDE(offset=offset)
    t = torch.linspace(0.01, 0.98, 20, dtype=torch.float64)

    def alpha_bar(u: np.ndarray) -> np.ndarray:
        f = np.cos((np.append(u, 0.0) + offset) / (1 + offset) * np.pi / 2) ** 2
        return f[:-1] / f[-1]

    alpha, sigma = (v.numpy() for v in sde.marginal(t))
    np.testing.assert_allclose(alpha**2, alpha_bar(t.numpy()), rtol=1e-12)
    np.testing.assert_allclose(sigma**2, 1 - alpha_bar(t.numpy()), rtol=1e-11)
    h = 1e-5
    beta = np.log(alpha_bar(t.numpy() - h) / alpha_bar(t.numpy() + h)) / (2 * h)
    f, g2 = (v.numpy() for v in sde.rates(t))
    np.testing.assert_allclose(g2, beta, rtol=1e-6)
    np.testing.assert_allclose(f, -beta / 2, rtol=1e-6)
