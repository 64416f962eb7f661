"""The sub-VP SDE against its paper."""

from __future__ import annotations

import mpmath
import pytest
import torch

import sdescore as ss
from tests.helpers.sdes import relative
from tests.helpers.strategies import EPS

pytestmark = pytest.mark.fast


@pytest.mark.guards("T01")
@pytest.mark.parametrize("t", [1e-8, 1e-4, 0.1, 0.6, 1.0])
def test_the_variance_grows_at_the_papers_rate(t: float) -> None:
    """Song et al. 2021, eq. 12: g² = β (1 − e^{−2B}), whose moment equation mpmath integrates."""
    sde = ss.SubVPSDE(beta_min=0.2, beta_max=7.0)

    def beta(u: mpmath.mpf) -> mpmath.mpf:
        return mpmath.mpf(0.2) + u * (mpmath.mpf(7) - mpmath.mpf(0.2))

    def B(u: mpmath.mpf) -> mpmath.mpf:
        return mpmath.mpf(0.2) * u + (mpmath.mpf(7) - mpmath.mpf(0.2)) * u**2 / 2

    def g2(u: mpmath.mpf) -> mpmath.mpf:
        return beta(u) * (1 - mpmath.exp(-2 * B(u)))

    with mpmath.workdps(25):
        T = mpmath.mpf(t)
        variance = mpmath.quad(lambda u: mpmath.exp(B(u) - B(T)) * g2(u), [0, T])
        alpha, sigma = sde.marginal(t)
        assert relative(alpha.item(), float(mpmath.exp(-B(T) / 2))) <= 4 * EPS
        assert relative(sigma.item(), float(mpmath.sqrt(variance))) <= 16 * EPS
        assert relative(sde.rates(t)[1].item(), float(g2(T))) <= 16 * EPS


def test_it_drifts_as_vp_with_less_noise() -> None:
    """The paper's name: the same drift, and a variance below VP's at every time."""
    numbers = {"beta_min": 0.2, "beta_max": 7.0}
    vp, sub = ss.VPSDE(**numbers), ss.SubVPSDE(**numbers)
    t = torch.linspace(1e-3, 1, 30, dtype=torch.float64)
    x = torch.randn(30, 2, dtype=torch.float64)
    torch.testing.assert_close(sub.drift(x, t), vp.drift(x, t), rtol=1e-13, atol=0.0)
    torch.testing.assert_close(sub.marginal(t)[1], vp.marginal(t)[1].square(), rtol=1e-12, atol=0)
    assert (sub.diffusion(t) < vp.diffusion(t)).all()
