"""Twisted SMC: unbiased evidence, the posterior, its limits, and reproducible requests.

Statistical bounds are 5 standard errors, each with a false-positive rate of 6e-7.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.inverse.smc import systematic
from tests.helpers.exact_scores import close, normal

inverse, F64 = ss.inverse, torch.float64
VP = ss.VPSDE()
ROW = torch.tensor([[1.0, -0.5]], dtype=F64)
MEANS, WEIGHTS = torch.tensor([[-1.2, 0.3], [1.0, -0.4]]), torch.tensor([0.4, 0.6])
WIDE = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.05, 0.0], [0.0, 0.4]]])
PRIOR = ss.MixtureScore(WEIGHTS, MEANS, WIDE, VP)
Y, NOISE = torch.tensor([0.1], dtype=F64), 0.3
SEEN = inverse.Measurement(Y, inverse.Matrix(ROW), NOISE)
GUIDES = [inverse.diffpir, inverse.pigdm, inverse.mmps]


def test_the_evidence_is_unbiased():
    """Isotropic Gaussian data, for which the steps are exact, and 64 runs of 16 particles."""
    prior = ss.GaussianScore(torch.tensor([0.5, -0.3]), 0.49, VP)
    guide = inverse.pigdm(prior, SEEN, data_std=0.9)  # not the best
    exact, smc = prior.log_evidence(ROW, Y, NOISE), inverse.TwistedSMC(VP, steps=8)
    runs = [smc.sample(guide, 16, seed=seed).log_evidence for seed in range(64)]
    ratio = (torch.tensor(runs) - exact).exp()
    assert abs(ratio.mean() - 1) <= 5 * ratio.std() / 8
    assert ratio.std() <= 0.5  # so that the bound means something


def test_the_error_falls_with_the_particles():
    exact, smc = PRIOR.log_evidence(ROW, Y, NOISE), inverse.TwistedSMC(VP, steps=60)

    def error(particles: int) -> float:
        guide = inverse.mmps(PRIOR, SEEN)
        runs = [smc.sample(guide, particles, seed=s).log_evidence - exact for s in range(6)]
        return math.sqrt(sum(e * e for e in runs) / 6)

    assert error(1000) <= 0.6 * error(20)  # 1/√50 = 0.14 of it in the mean, and 60 steps


@pytest.mark.parametrize("sde", [VP, ss.VESDE(), ss.EDMSDE()], ids=["vp", "ve", "edm"])
def test_moments_and_weights_of_the_posterior(sde):
    """Of 2,000 particles, of which some 70 % count; 0.03 for 80 steps."""
    prior = PRIOR.under(sde)
    found = inverse.TwistedSMC(sde, steps=80).sample(inverse.moments(prior, SEEN), 2000)
    exact = prior.posterior(ROW, Y, NOISE).sample(200_000, dtype=F64)
    mean, square = (found.weights @ v.double() for v in (found.x, found.x.square()))
    error = 5 * exact.std(0) / 1400**0.5 + 0.03
    assert bool(((mean - exact.mean(0)).abs() <= error).all())
    error = 5 * exact.square().std(0) / 1400**0.5 + 0.03
    assert bool(((square - exact.square().mean(0)).abs() <= error).all())
    assert found.effective.min() >= 800
    assert abs(found.log_evidence - prior.log_evidence(ROW, Y, NOISE)) <= 0.1
    assert found.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("guide", GUIDES)
def test_every_guide_leads_to_the_same_evidence(guide):
    found = inverse.TwistedSMC(VP, steps=60).sample(guide(PRIOR, SEEN), 1500)
    assert abs(found.log_evidence - PRIOR.log_evidence(ROW, Y, NOISE)) <= 0.2


def test_a_nonlinear_measurement_by_quadrature():
    """y = x² + n of N(0.3, 1): two modes, the right one heavier."""
    prior = ss.GaussianScore([0.3], 1.0, VP)
    seen = inverse.Measurement(torch.tensor([1.5]), inverse.Callable(lambda x: x**2, (1,)), 1.0)
    line = torch.linspace(-6, 6, 4001, dtype=F64)[:, None]
    density = (prior.log_prob(line, 0.0) + seen.log_likelihood(line)).exp()
    evidence = torch.trapezoid(density, line[:, 0])
    right = torch.trapezoid(density * (line[:, 0] > 0), line[:, 0]) / evidence
    found = inverse.TwistedSMC(VP, steps=60).sample(inverse.moments(prior, seen), 3000)
    assert abs(found.log_evidence - evidence.log()) <= 0.08
    assert abs(found.weights[found.x[:, 0] > 0].sum() - right) <= 0.05


def test_the_twist_of_gaussian_data_is_the_evidence_of_a_state():
    """p(x₀ | x_t) is Gaussian, by conditioning on x_t = α x₀ + σ ε; then p(y | x_t) follows."""
    covariance = normal(3, 3, seed=1)
    prior = ss.GaussianScore(normal(3), covariance @ covariance.T + 0.1 * torch.eye(3), VP)
    A, y, x = normal(2, 3, seed=2), normal(2, seed=3), normal(4, 3, seed=4)
    seen, t = inverse.Measurement(y, inverse.Matrix(A), 0.2), 0.4
    guide = inverse.moments(prior, seen)
    alpha, sigma = (v.item() for v in VP.marginal(t))
    log_psi, mean, shift, variance = guide.twist(x, torch.tensor(t, dtype=F64))
    for row in range(4):
        state = prior.posterior(alpha * torch.eye(3, dtype=F64), x[row], sigma)
        given_y = state.posterior(A, y, 0.2)
        close(mean[row], state.means[0], 1e-9)
        close((mean + shift)[row], given_y.means[0], 1e-9)
        known = state.log_evidence(A, y, 0.2) + math.log(2 * math.pi)  # m = 2
        assert log_psi[row].item() == pytest.approx(known, abs=1e-9)
    C = state.covariance(torch.zeros(1, 3, dtype=F64), 1.0)[0]
    assert 0.5 * C.diagonal().min() <= variance[0] <= 2 * C.diagonal().max()
    close(guide(x, t), prior.posterior(A, y, 0.2)(x, t), 1e-9)


class Elementwise(torch.nn.Module):
    """The score of N(0, 1/2) on VP, each element on its own."""

    sde = VP

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (v.to(x) for v in VP.marginal(t))
        return -x / (0.5 * alpha.square() + sigma.square())


def test_particles_depend_on_the_seed_and_not_on_the_chunks():
    seen = inverse.Measurement(torch.tensor([0.4]), inverse.Mask(torch.tensor([True, False])), 0.2)
    guide, smc = inverse.pigdm(Elementwise(), seen), inverse.TwistedSMC(VP, steps=8, threshold=1.0)
    whole = smc.sample(guide, 20, seed=3)
    for size in (1, 7):
        part = smc.sample(guide, 20, seed=3, max_batch=size)
        assert torch.equal(part.x, whole.x)
        assert torch.equal(part.weights, whole.weights)
        assert part.log_evidence == whole.log_evidence
    other = smc.sample(guide, 20, seed=4)
    assert not torch.equal(other.x, whole.x)


def test_resampling_is_systematic_and_from_the_seed_and_the_step():
    weights = torch.tensor([0.25, 0.11, 0.04, 0.6], dtype=F64)
    picked = [systematic(weights, 10, seed, 5).bincount(minlength=4) for seed in range(200)]
    counts = torch.stack(picked).double()
    assert bool(((counts - 10 * weights).abs() < 1).all())
    # A count is one of two numbers: its standard error over 200 seeds is at most 0.036.
    assert ((counts.mean(0) - 10 * weights).abs() <= 5 * 0.036).all()
    found = inverse.TwistedSMC(VP, steps=4).sample(inverse.mmps(PRIOR, SEEN), 50)
    assert found.draw().shape == (50, 2)
    assert torch.equal(found.draw(7, seed=1), found.draw(7, seed=1))


def test_resampling_happens_below_the_threshold_alone():
    guide = inverse.pigdm(PRIOR, SEEN)
    never = inverse.TwistedSMC(VP, steps=30, threshold=0.0).sample(guide, 400)
    often = inverse.TwistedSMC(VP, steps=30, threshold=0.9).sample(guide, 400)
    assert never.effective[-1] < often.effective[-1]
    assert len(never.effective) == 30


def test_a_standardised_model():
    """The prior in other units: x = 10 + 2 z, so that y = A x keeps its noise in its own units."""

    class Net(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return PRIOR(x, t)

    model = ss.ScoreModel(Net(), VP, "score", data_mean=10.0, data_std=2.0)
    y = 10 * ROW.sum(1) + 2 * Y
    scaled = inverse.Measurement(y, inverse.Matrix(ROW), 2 * NOISE)
    smc = inverse.TwistedSMC(VP, steps=20)
    x = smc.sample(inverse.moments(model, scaled), 200)
    z = smc.sample(inverse.moments(PRIOR, SEEN), 200)
    assert (x.x - (10 + 2 * z.x)).abs().max() <= 1e-3
    assert x.log_evidence == pytest.approx(z.log_evidence - math.log(2), abs=1e-3)
