"""Rectified flow: straight lines from data to noise, and their velocity."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

import sdescore as ss

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("T", [0.999, 0.9999, 0.7])
def test_the_end_rounded_to_a_coarser_dtype_is_the_end(T: float) -> None:
    """float32(0.999) > 0.999: a sampler's float32 time must not be refused at T."""
    sde = ss.RectifiedFlowSDE(T=T)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        t = torch.tensor(T, dtype=dtype)
        assert sde.marginal(t)[1].item() <= T
        assert sde.marginal(t.float().double())[1].item() <= T if dtype == torch.float32 else True


def test_the_velocity_between_one_datum_and_one_noise_is_their_difference() -> None:
    """Liu et al. 2022, eq. 1: x_t = (1 − t) x₀ + t z, whose flow is dx/dt = z − x₀ at every t."""
    sde = ss.RectifiedFlowSDE()
    x0, z = torch.randn(2, 5, 3, dtype=torch.float64)
    for t in (0.05, 0.5, 0.95):
        x = (1 - t) * x0 + t * z
        torch.testing.assert_close(sde.perturb(x0, t, z), x, rtol=1e-14, atol=1e-14)
        # The score of x_t given x₀ is −z/t.
        flow = sde.reverse(lambda x, s: -z / s, eta=0.0)
        torch.testing.assert_close(flow.drift(x, t), z - x0, rtol=1e-11, atol=1e-11)
        assert flow.diffusion(t) == 0


def test_a_transition_is_the_line_that_is_left() -> None:
    """x_t of x_s: the same α, and the variance that x_s has not, in exact fractions."""
    s, t = Fraction(1, 4), Fraction(3, 4)
    kernel = ss.RectifiedFlowSDE().transition(float(s), float(t))
    scale = (1 - t) / (1 - s)
    assert kernel.scale.item() == pytest.approx(float(scale), rel=1e-14)
    assert kernel.variance.item() == pytest.approx(float(t**2 - scale**2 * s**2), rel=1e-14)
