"""EDM's SDE: noise of standard deviation t."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

import sdescore as ss

pytestmark = pytest.mark.fast


def test_the_flow_is_the_papers_slope() -> None:
    """Karras et al. 2022, algorithm 1: dx/dσ = (x − D(x; σ))/σ for any denoiser D."""
    sde = ss.EDMSDE()
    x = torch.randn(4, 3, dtype=torch.float64)

    def D(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return torch.tanh(x) / (1 + sigma)

    for sigma in (0.002, 1.3, 80.0):
        flow = sde.reverse(lambda x, t: (D(x, float(t)) - x) / float(t) ** 2, eta=0.0)
        torch.testing.assert_close(flow.drift(x, sigma), (x - D(x, sigma)) / sigma)
        alpha, spread = sde.marginal(sigma)
        assert (alpha.item(), spread.item()) == (1.0, sigma)
        assert sde.log_snr(sigma).exp().item() == pytest.approx(sigma**-2, rel=1e-13)


def test_neighbouring_times_add_their_difference_of_squares() -> None:
    """In exact fractions: t² − s² of two times that float64 tells apart by a bit or by 10¹⁰."""
    sde = ss.EDMSDE()
    for s, t in ((3.1, 3.1 + 2**-48), (0.5, 0.75), (1e-8, 79.0)):
        exact = Fraction(t) ** 2 - Fraction(s) ** 2
        kernel = sde.transition(s, t)
        assert kernel.variance.item() == pytest.approx(float(exact), rel=4e-16, abs=0)
        assert kernel.scale == 1


def test_sampling_runs_between_the_two_sigmas() -> None:
    sde = ss.EDMSDE(sigma_min=0.01, sigma_max=20.0)
    assert (sde.T, sde.t_min) == (20.0, 0.01)
    assert ss.UniformGrid().times(sde, 3).tolist() == pytest.approx([20.0, 10.005, 0.01])
