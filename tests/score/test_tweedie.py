"""Tweedie's mean and covariance against closed-form posteriors and quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

import sdescore as ss
from tests.helpers.strategies import coefficients, states

pytestmark = pytest.mark.fast

D = 4
MEAN = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
FACTOR = torch.tensor(
    [[1.0, 0, 0, 0], [0.5, 0.8, 0, 0], [-0.3, 0.2, 0.6, 0], [0.1, -0.7, 0.4, 0.2]],
    dtype=torch.float64,
)
COV = FACTOR @ FACTOR.T


def gaussian_score(alpha: torch.Tensor, sigma: torch.Tensor):
    """Score of ``N(αm, α²Λ + σ²I)`` for states ``(B, 2, 2)`` and ``()`` or ``(B,)`` scalars."""
    a, s = (torch.as_tensor(v, dtype=torch.float64).reshape(-1, 1, 1) for v in (alpha, sigma))
    precision = torch.linalg.inv(a**2 * COV + s**2 * torch.eye(D, dtype=torch.float64))

    def score(x: torch.Tensor) -> torch.Tensor:
        centred = x.reshape(x.shape[0], D, 1) - a * MEAN[:, None]
        return -(precision @ centred).reshape(x.shape)

    return score


def posterior(x: torch.Tensor, alpha: float, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """``x₀ | x`` for Gaussian data, in precision form (no Tweedie)."""
    inverse = torch.linalg.inv(COV)
    cov = torch.linalg.inv(inverse + (alpha / sigma) ** 2 * torch.eye(D, dtype=torch.float64))
    right = (inverse @ MEAN)[:, None] + alpha / sigma**2 * x.reshape(-1, D).T
    return (cov @ right).T.reshape(x.shape), cov


@given(coefficients())
def test_gaussian_posterior_in_three_forms(ab: tuple[float, float]) -> None:
    x, vector = states((3, 2, 2), torch.float64, 0, 2)
    score = gaussian_score(*ab)
    mean, cov = posterior(x, *ab)
    # σ² s + x cancels to α E[x₀|x] where σ/α is large: (1 + (σ/α)²) of eps is lost
    loss = 1e-13 * (1 + (ab[1] / ab[0]) ** 2) * 10
    torch.testing.assert_close(ss.tweedie_mean(x, score(x), *ab), mean, rtol=1e-11, atol=loss)
    full = ss.tweedie_covariance(score, x, *ab)
    assert full.shape == (3, D, D)
    torch.testing.assert_close(full, cov.expand(3, D, D), rtol=1e-10, atol=loss)
    diagonal = ss.tweedie_covariance(score, x, *ab, form="diagonal")
    expected = cov.diagonal().reshape(2, 2).expand(3, 2, 2)
    torch.testing.assert_close(diagonal, expected, rtol=1e-10, atol=loss)
    product = ss.tweedie_covariance(score, x, *ab, form="product", vector=vector)
    expected = (vector.reshape(3, D) @ cov).reshape(3, 2, 2)
    torch.testing.assert_close(product, expected, rtol=1e-10, atol=4 * loss)


def test_one_marginal_per_sample() -> None:
    x, vector = states((3, 2, 2), torch.float64, 1, 2)
    alpha, sigma = torch.tensor([1.0, 0.8, 0.5]).double(), torch.tensor([0.3, 0.6, 2.0]).double()
    score = gaussian_score(alpha, sigma)
    got = ss.tweedie_mean(x, score(x), alpha, sigma)
    full = ss.tweedie_covariance(score, x, alpha, sigma)
    product = ss.tweedie_covariance(score, x, alpha, sigma, form="product", vector=vector)
    for i in range(3):
        mean, cov = posterior(x[i : i + 1], alpha[i].item(), sigma[i].item())
        torch.testing.assert_close(got[i : i + 1], mean, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(full[i], cov, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            product[i].flatten(), cov @ vector[i].flatten(), rtol=1e-10, atol=1e-12
        )


def test_a_score_that_is_not_linear_and_whose_jacobian_is_not_symmetric() -> None:
    """Row i of the full form is output i: an asymmetric Jacobian must not come out transposed."""

    def score(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0] * x[:, 1], x[:, 0] ** 2 + 3 * x[:, 1]], 1)

    x = torch.tensor([[2.0, 5.0]], dtype=torch.float64)
    jacobian = torch.tensor([[5.0, 2.0], [4.0, 3.0]], dtype=torch.float64)
    expected = 4.0 * (torch.eye(2, dtype=torch.float64) + 4.0 * jacobian)
    torch.testing.assert_close(ss.tweedie_covariance(score, x, 1.0, 2.0)[0], expected)
    v = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    got = ss.tweedie_covariance(score, x, 1.0, 2.0, form="product", vector=v)
    torch.testing.assert_close(got[0], expected @ v[0])
    diagonal = ss.tweedie_covariance(score, x, 1.0, 2.0, form="diagonal")
    torch.testing.assert_close(diagonal[0], expected.diagonal())


@given(st.floats(-3.0, 3.0), st.floats(0.3, 3.0), st.floats(0.3, 1.0))
def test_mixture_by_quadrature(x: float, sigma: float, alpha: float) -> None:
    """A non-Gaussian datum: ½N(−1, 0.2²) + ½N(1, 0.5²), posterior moments by scipy's quad."""
    parts = [(-1.0, 0.2), (1.0, 0.5)]

    def weight(x0: float) -> float:
        prior = sum(math.exp(-0.5 * ((x0 - m) / s) ** 2) / s for m, s in parts)
        return prior * math.exp(-0.5 * ((x - alpha * x0) / sigma) ** 2)

    mass, first, second = (
        quad(
            lambda u, k=k: weight(u) * u**k,
            -15,
            15,
            epsabs=0,  # the mass itself may be tiny
            epsrel=1e-10,
            points=[-1, 1, x / alpha],
            limit=200,
        )[0]
        for k in range(3)
    )

    def score(y: torch.Tensor) -> torch.Tensor:
        logs, slopes = [], []
        for m, s in parts:
            variance = alpha**2 * s**2 + sigma**2
            logs.append(-0.5 * (y - alpha * m) ** 2 / variance - 0.5 * math.log(variance))
            slopes.append((alpha * m - y) / variance)
        weights = torch.softmax(torch.stack(logs), 0)
        return (weights * torch.stack(slopes)).sum(0)

    at = torch.tensor([[x]], dtype=torch.float64)
    mean = ss.tweedie_mean(at, score(at), alpha, sigma).item()
    assert mean == pytest.approx(first / mass, rel=1e-6, abs=1e-8)
    variance = ss.tweedie_covariance(score, at, alpha, sigma).item()
    assert variance == pytest.approx(second / mass - (first / mass) ** 2, rel=1e-6, abs=1e-8)


def test_matrix_form() -> None:
    """E[μ | z] = z + Σ ∇log p(z) for z ~ N(μ, Σ), full Σ: whiten by Σ = LLᵀ and use α = σ = 1."""
    sigma = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    prior = torch.tensor([[1.0, -0.4], [-0.4, 0.8]], dtype=torch.float64)
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    L = torch.linalg.cholesky(sigma)
    (z,) = states((5, 2), torch.float64, 2, 1)
    score = torch.linalg.solve(prior + sigma, (mean - z).T).T
    # u = L⁻¹z has unit noise, and ∇_u = Lᵀ∇_z
    u = torch.linalg.solve(L, z.T).T
    got = ss.tweedie_mean(u, score @ L, 1.0, 1.0) @ L.T
    torch.testing.assert_close(got, z + score @ sigma, rtol=1e-12, atol=1e-12)
    inverse = torch.linalg.inv
    cov = inverse(inverse(prior) + inverse(sigma))
    expected = (cov @ ((inverse(prior) @ mean)[:, None] + inverse(sigma) @ z.T)).T
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_batch_zero_empty_event_and_float32() -> None:
    empty = torch.ones(0, 3)
    assert ss.tweedie_mean(empty, empty, 0.8, 0.6).shape == (0, 3)
    assert ss.tweedie_covariance(torch.neg, empty, 0.8, 0.6).shape == (0, 3, 3)
    assert ss.tweedie_covariance(torch.neg, empty, 0.8, 0.6, form="diagonal").shape == (0, 3)
    one = ss.tweedie_covariance(torch.neg, torch.ones(2), 1.0, 0.5)
    assert one.shape == (2, 1, 1) and one.dtype == torch.float32
    torch.testing.assert_close(one, torch.full((2, 1, 1), 0.25 * 0.75))


def test_a_clean_state_is_its_own_posterior() -> None:
    (x,) = states((2, 3), torch.float64, 3, 1)
    torch.testing.assert_close(ss.tweedie_mean(x, 5 * x, 0.8, 0.0), x / 0.8, rtol=1e-15, atol=0)
    assert bool((ss.tweedie_covariance(torch.sin, x, 0.8, 0.0) == 0).all())
