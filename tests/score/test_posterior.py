"""A mixture's posterior under a linear measurement: quadrature, SciPy, precision matrices."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import sdescore as ss
from tests.helpers.exact_scores import as_full, close, every_sde, f64, normal, parameters, reference

A2, Y2 = torch.tensor([[1.0, -0.5]], dtype=f64), torch.tensor([0.7], dtype=f64)
VP = ss.VPSDE()


def square(reach: float, n: int) -> tuple[torch.Tensor, float]:
    """Points ``(n², 2)`` of a square about 0, and the area of a cell."""
    line = torch.linspace(-reach, reach, n, dtype=f64)
    return torch.cartesian_prod(line, line), (line[1] - line[0]).item() ** 2


@every_sde
def test_density_score_and_evidence_by_quadrature(sde):
    prior, noise = ss.MixtureScore(*parameters(3, 2), sde), 0.4
    x0, area = square(9.0, 301)
    joint = prior.under(VP).log_prob(x0, 0.0) - 0.5 * ((Y2 - x0 @ A2.T) / noise).square().sum(1)
    joint = joint - math.log(noise * math.sqrt(2 * math.pi))
    evidence = joint.logsumexp(0) + math.log(area)
    assert prior.log_evidence(A2, Y2, noise) == pytest.approx(evidence.item(), abs=1e-9)
    posterior, t = prior.posterior(A2, Y2, noise), sde.time_at_log_snr(0.5)
    assert posterior.sde == sde
    alpha, sigma = sde.marginal(t)
    x = (2 * alpha * normal(4, 2)).requires_grad_()
    distances = (x[:, None] - alpha * x0).square().sum(-1) / sigma.square()
    log_p = (joint - evidence - 0.5 * distances).logsumexp(1) + math.log(area)
    log_p = log_p - (2 * math.pi * sigma.square()).log()
    close(posterior.log_prob(x, t).detach(), log_p.detach(), 1e-8)
    close(posterior(x, t).detach(), torch.autograd.grad(log_p.sum(), x)[0], 1e-8)


@pytest.mark.parametrize("kind", ["full", "diagonal", "isotropic"])
@pytest.mark.parametrize("m", [1, 3, 6])
@pytest.mark.parametrize("coloured", [False, True])
def test_components_are_those_of_precision_matrices(kind, m, coloured):
    weights, means, covariances = parameters(3, 4, kind)
    prior = ss.MixtureScore(weights, means, covariances, VP)
    A, y, root = normal(m, 4, seed=1), normal(m, seed=2), 0.3 * normal(m, m, seed=3)
    R = root @ root.T + 0.2 * torch.eye(m) if coloured else 0.25 * torch.eye(m).double()
    C = as_full(covariances, 4)
    precisions = torch.linalg.inv(C) + A.T @ torch.linalg.inv(R) @ A
    pull = torch.linalg.solve(C, means) + A.T @ torch.linalg.solve(R, y)
    posterior_means = torch.linalg.solve(precisions, pull)
    log_weights = weights.log() + torch.tensor(
        [
            stats.multivariate_normal(A @ means[k], A @ C[k] @ A.T + R).logpdf(y.numpy())
            for k in range(3)
        ]
    )
    noise = R if coloured else 0.5
    total = log_weights.logsumexp(0)
    assert prior.log_evidence(A, y, noise) == pytest.approx(total.item(), abs=1e-10)
    known = (log_weights - total).exp(), posterior_means, torch.linalg.inv(precisions)
    posterior, x = prior.posterior(A, y, noise), 2 * normal(5, 4, seed=4)
    close(posterior.means, posterior_means, 1e-10)
    close(posterior.log_prob(x, 0.0), reference(known, 4, 1.0, 0.0).log_prob(x), 1e-10)


def test_without_noise_it_is_the_conditional_density():
    """Of two elements one is seen: p(x₂ | x₁) = p(x₁, x₂) / p(x₁), and p(x₁) is the evidence."""
    prior = ss.MixtureScore(*parameters(3, 2), VP)
    posterior = prior.posterior([[1.0, 0.0]], [0.3])
    close(posterior.means[:, 0], torch.full((3,), 0.3, dtype=f64), 1e-12)
    line = torch.linspace(-8, 8, 4001, dtype=f64)
    density = prior.log_prob(torch.stack([torch.full_like(line, 0.3), line], 1), 0.0).exp()
    evidence = torch.trapezoid(density, line)
    assert prior.log_evidence([[1.0, 0.0]], [0.3]) == pytest.approx(evidence.log().item(), abs=1e-9)
    draws = posterior.sample(20_000, dtype=f64)
    assert (draws[:, 0] - 0.3).abs().max() <= 1e-7  # the root of a rounded variance
    # Exact up to rounding: the mean of x₂ by the mixture, and by quadrature.
    mean = (posterior.weights @ posterior.means)[1]
    close(mean, torch.trapezoid(density * line, line) / evidence, 1e-9)


def test_tiny_noise_tends_to_none_and_huge_noise_to_the_prior():
    prior, x = ss.MixtureScore(*parameters(3, 4), VP), normal(5, 4)
    A, y = normal(2, 4, seed=1), normal(2, seed=2)
    close(prior.posterior(A, y, 1e-7)(x, 0.5), prior.posterior(A, y)(x, 0.5), 1e-6)
    close(prior.posterior(A, y, 1e6)(x, 0.5), prior(x, 0.5), 1e-9)


def test_events_of_any_shape_and_an_operator():
    A = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])

    class RowSums:
        def matrix(self):
            return A

    weights, means, covariances = parameters(2, 6)
    prior = ss.MixtureScore(weights, means.reshape(2, 2, 3), covariances, VP)
    y = normal(2, seed=5)
    found = prior.posterior(RowSums(), y, 0.1)
    assert found.means.shape == (2, 2, 3)
    close(found.means, prior.posterior(A, y, 0.1).means, 1e-12)
    close(found.means.sum(-1), y.expand(2, 2), 0.2)


def test_impossible_components_are_left_out():
    prior = ss.MixtureScore([0.5, 0.5], [[-1000.0], [0.0]], [1.0, 1.0], VP)
    found = prior.posterior([[1.0]], [0.5], 0.1)
    assert found.weights.tolist() == [1.0]
