"""Diffusion posterior sampling: what ζ multiplies, and that it stays finite."""

from __future__ import annotations

import torch

import sdescore as ss
from tests.helpers.posteriors import (
    MIXTURE,
    SEEN,
    VP,
    A,
    inverse,
    states,
)


def test_zeta_multiplies_the_likelihood() -> None:
    x, t = states(), 0.4
    once, half = (inverse.dps(MIXTURE, SEEN, zeta)(x, t) - MIXTURE(x, t) for zeta in (1.0, 0.5))
    torch.testing.assert_close(half, once / 2)


def test_dps_of_what_is_explained_already_is_the_prior() -> None:
    """The residual and the noise are exactly 0, and so is what the measurement adds."""
    prior, x = ss.GaussianScore(torch.zeros(3), 1.0, VP), torch.zeros(1, 3)
    seen = inverse.Measurement(torch.zeros(2), inverse.Matrix(A), 0.0)
    assert torch.equal(inverse.dps(prior, seen)(x, 0.4), x)


def test_dps_stays_finite_at_few_steps_under_any_operator() -> None:
    """Long steps near the data, where the noise of y is small and rows of A overlap."""
    d = 16
    blur, means = inverse.Blur.gaussian(1.0, (d,), axes=1), torch.ones(1, d)
    prior = ss.MixtureScore([0.5, 0.5], torch.cat([-means, means]), torch.tensor([0.1, 0.2]), VP)
    for operator in (blur, inverse.Downsample((4,), (d,)), inverse.Matrix(10 * torch.eye(d))):
        truth = prior.sample(1, seed=1)
        seen = inverse.Measurement(operator(truth)[0], operator, 0.01)
        sampler = ss.PredictorCorrector(VP, predictor=ss.DDIM(eta=1.0), steps=15)
        x = sampler.sample(inverse.dps(prior, seen), (50, d), seed=0)
        near = (operator(x) - seen.y).square().mean().sqrt()
        assert near < 0.2 * operator(truth).square().mean().sqrt()
