"""Annealed Langevin dynamics in the paper's convention."""

from __future__ import annotations

import math

import pytest
import torch

import sdescore as ss
from sdescore.score.mixture import GaussianScore

pytestmark = pytest.mark.fast


LADDER = ss.DiscreteVESDE.geometric(sigma_max=3.0, sigma_min=0.1, levels=6)


def test_annealed_langevin_is_in_the_papers_convention() -> None:
    """At σ_L the step is x + (ε/2) s + √ε z; the τ convention is x + τ s + √(2τ) z, τ = ε/2."""
    numbers = ss.AnnealedLangevin(epsilon=2e-5).tableau(LADDER, torch.tensor([0.0]).double())
    assert numbers.b.item() == pytest.approx(1e-5, rel=1e-14)
    assert numbers.c.item() == pytest.approx(math.sqrt(2e-5), rel=1e-14)


def ncsn(score, x, sigmas, epsilon, T, z):
    """Song & Ermon 2019, algorithm 1, and the last denoise of Jolicoeur-Martineau et al. 2021."""
    draws = iter(z)
    for sigma in sigmas:
        alpha = epsilon * sigma**2 / sigmas[-1] ** 2
        for _ in range(T):
            x = x + alpha / 2 * score(x, sigma) + math.sqrt(alpha) * next(draws)
    assert next(draws, None) is None, "all draws are used"
    return x + sigmas[-1] ** 2 * score(x, sigmas[-1])


def test_ncsn_is_a_configuration_of_the_sampler() -> None:
    inner, epsilon, sigmas = 5, 2e-3, LADDER.sigmas
    mean, S = torch.tensor([0.5, -1.0]).double(), 0.3
    sampler = ss.PredictorCorrector(
        LADDER,
        predictor=ss.NoPredictor(),
        corrector=ss.AnnealedLangevin(epsilon=epsilon, steps=inner),
        corrector_first=True,
    )
    z = torch.randn(1 + inner * len(sigmas), 7, 2, dtype=torch.float64)
    exact = GaussianScore(mean, S, LADDER)
    got = sampler.sample(exact, (7, 2), noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    expected = ncsn(
        lambda x, sigma: -(x - mean) / (S + sigma**2),
        sigmas[0] * z[0],
        sigmas,
        epsilon,
        inner,
        z[1:],
    )
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
    assert sampler.evaluations == inner * len(sigmas) + 1
