"""The variance exploding SDE: a geometric σ, from σ_min."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import sdescore as ss

pytestmark = pytest.mark.fast


@pytest.mark.guards("T05")
def test_ve_transition_from_zero_starts_from_the_noisy_state() -> None:
    sde = ss.VESDE(sigma_min=0.1, sigma_max=10.0)
    assert sde.transition(0.0, 1.0).variance.item() == pytest.approx(100.0 - 0.01, rel=1e-14)
    assert sde.kernel(1.0).variance.item() == pytest.approx(100.0, rel=1e-14)


@pytest.mark.parametrize("ends", [(0.01, 1e30), (1e-30, 1.0), (0.01, math.nan), (1.0, 1.0)])
@pytest.mark.parametrize("kind", [ss.VESDE, ss.EDMSDE])
def test_sigmas_that_float32_cannot_square_are_refused(kind: type, ends: tuple) -> None:
    with pytest.raises(ss.errors.ScheduleError, match="sigma_m"):
        kind(sigma_min=ends[0], sigma_max=ends[1])
    with pytest.raises(ss.errors.ScheduleError, match="sigmas"):
        ss.DiscreteVESDE(sigmas=ends[::-1])
    assert kind(sigma_min=1e-15, sigma_max=1e15).marginal(0.5)[1].isfinite()


def test_sigma_is_geometric_and_g_is_the_papers() -> None:
    """Song et al. 2021, eq. 30: dx = σ_min (σ_max/σ_min)^t √(2 log(σ_max/σ_min)) dw."""
    sde = ss.VESDE(sigma_min=0.02, sigma_max=30.0)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    alpha, sigma = sde.marginal(t)
    ladder = np.geomspace(0.02, 30.0, 11)
    assert torch.equal(alpha, torch.ones_like(t))
    np.testing.assert_allclose(sigma.numpy(), ladder, rtol=1e-13)
    g = ladder * np.sqrt(2 * np.log(30.0 / 0.02))
    np.testing.assert_allclose(sde.diffusion(t).numpy(), g, rtol=1e-13)
    assert torch.equal(sde.drift(torch.ones(11, 2), t), torch.zeros(11, 2))
    kernel = sde.transition(t[:-1], t[1:])
    np.testing.assert_allclose(kernel.variance.numpy(), np.diff(ladder**2), rtol=1e-12)
