"""DDIM: ancestral sampling at η = 1, and its digits on fine grids."""

from __future__ import annotations

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdescore as ss
from tests.helpers.strategies import linear_sdes, ordered_times

pytestmark = pytest.mark.fast


@given(st.data(), linear_sdes())
@settings(max_examples=50)
def test_ddim_with_all_its_noise_is_ancestral(data: st.DataObject, sde: ss.LinearSDE) -> None:
    times = torch.tensor(data.draw(ordered_times(sde, 4))[::-1], dtype=torch.float64)
    one, other = ss.DDIM(1.0).tableau(sde, times), ss.Ancestral().tableau(sde, times)
    for name in ("times", "a", "b", "c"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-12, atol=0.0)


def test_ddim_keeps_its_digits_on_a_grid_of_100000_steps() -> None:
    """``√(1−ᾱ_s−τ²) − √(ᾱ_s/ᾱ_t)√(1−ᾱ_t)`` loses eleven digits here in float64."""
    sde, n = ss.VPSDE(), 100_000
    times = torch.linspace(1.0, 1e-3, n + 1, dtype=torch.float64)
    for eta in (0.0, 0.7, 1.0):
        numbers = ss.DDIM(eta).tableau(sde, times)
        for k in (0, 1, n // 3, n - 2, n - 1):
            with mpmath.workdps(60):
                t, s = mpmath.mpf(times[k].item()), mpmath.mpf(times[k + 1].item())
                low, high = mpmath.mpf(sde.beta_min), mpmath.mpf(sde.beta_max)
                bar_t, bar_s = (mpmath.exp(-(low * u + (high - low) * u**2 / 2)) for u in (t, s))
                tau = eta * mpmath.sqrt((1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s))
                x_from_epsilon = mpmath.sqrt(1 - bar_s - tau**2) - mpmath.sqrt(
                    bar_s / bar_t
                ) * mpmath.sqrt(1 - bar_t)
                on_score = -x_from_epsilon * mpmath.sqrt(1 - bar_t)
            assert numbers.b[k].item() == pytest.approx(float(on_score), rel=1e-13)
            assert numbers.c[k].item() == pytest.approx(float(tau), rel=1e-13)
            assert numbers.a[k].item() == pytest.approx(
                float(mpmath.sqrt(bar_s / bar_t)), rel=1e-13
            )
