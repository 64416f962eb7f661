"""The variance preserving SDE: mpmath's integral of its rate, at small times too."""

from __future__ import annotations

import mpmath
import pytest

import sdescore as ss
from tests.helpers.sdes import relative
from tests.helpers.strategies import EPS

pytestmark = pytest.mark.fast


def test_log_snr_inverse_does_not_overflow() -> None:
    sde = ss.VPSDE(beta_min=0.1, beta_max=2000.0)
    assert sde.time_at_log_snr(sde.log_snr(1.0)).item() == pytest.approx(1.0, rel=1e-14)


@pytest.mark.guards("M01", "T01")
@pytest.mark.parametrize("beta_min", [0.0, 0.1])
@pytest.mark.parametrize("t", [1e-9, 1e-6, 1e-3, 0.25, 1.0])
def test_marginal_is_the_integral_of_the_rate(beta_min: float, t: float) -> None:
    """Song et al. 2021, eq. 33: log α_t is −½ ∫β, by mpmath's quadrature of β."""
    sde = ss.VPSDE(beta_min=beta_min, beta_max=12.0)
    low, high = mpmath.mpf(beta_min), mpmath.mpf(12)
    B = mpmath.quad(lambda u: low * (1 - u) + high * u, [0, mpmath.mpf(t)])
    alpha, sigma = sde.marginal(t)
    assert relative(alpha.item(), float(mpmath.exp(-B / 2))) <= 4 * EPS
    assert relative(sigma.item(), float(mpmath.sqrt(1 - mpmath.exp(-B)))) <= 8 * EPS
    f, g2 = (v.item() for v in sde.rates(t))
    beta = float(low * (1 - mpmath.mpf(t)) + high * t)
    assert (relative(f, -beta / 2), relative(g2, beta)) <= (4 * EPS, 4 * EPS)
