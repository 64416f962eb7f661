"""The contrastive loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss
from scipy import integrate, optimize
from torch import Tensor

import sdescore as ss
from sdescore.losses import contrastive_divergence_loss
from tests.helpers.energies import Powers, Quadratic, gradient, normals


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**31))
def test_a_quadratic_energy_has_the_difference_of_second_moments(n: int, d: int, seed: int) -> None:
    x, negatives, A = normals(n, d, seed), normals(n, d, seed + 1), normals(d, d, seed + 2)
    net = Quadratic(A)
    loss = contrastive_divergence_loss(ss.EnergyModel(net), x, negatives)
    assert loss.per_sample.shape == (n,)
    torch.testing.assert_close(loss.mean, loss.per_sample.mean())
    expected = 0.5 * (x.T @ x - negatives.T @ negatives) / n
    torch.testing.assert_close(gradient(net, loss.mean), expected)
    for i in range(n):
        alone = 0.5 * (x[i] @ A @ x[i] - negatives[i] @ A @ negatives[i])
        torch.testing.assert_close(loss.per_sample[i].detach(), alone)


@pytest.mark.parametrize("factor", [1.0, 0.7, 1.4])
def test_the_expected_gradient_is_zero_at_the_maximum_of_the_likelihood(factor: float) -> None:
    """Negatives of distribution N(0, A⁻¹) by quadrature; the data are four points, not Gaussian."""
    x = torch.tensor([[1.0, 0.5], [-2.0, 1.0], [0.3, -1.0], [0.0, 2.0]], dtype=torch.float64)
    S = x.T @ x / len(x)
    A = factor * torch.linalg.inv(S)
    z, w = (torch.from_numpy(v) for v in hermegauss(3))
    nodes = torch.cartesian_prod(z, z) @ torch.linalg.cholesky(torch.linalg.inv(A)).T
    weights = torch.outer(w, w).flatten() / w.sum() ** 2
    pairs = x.repeat_interleave(len(nodes), 0), nodes.repeat(len(x), 1)
    net = Quadratic(A)
    loss = contrastive_divergence_loss(ss.EnergyModel(net), *pairs).per_sample
    got = gradient(net, (loss * weights.repeat(len(x))).sum() / len(x))
    torch.testing.assert_close(got, 0.5 * (1 - 1 / factor) * S, rtol=1e-12, atol=1e-14)


def test_the_gradient_is_the_likelihood_s() -> None:
    """Away from the optimum, for an energy whose normaliser is found by quadrature."""
    theta, x = [0.3, 0.8, -0.5], torch.tensor([[-1.2], [0.4], [1.5], [0.9]], dtype=torch.float64)
    powers = [1, 2, 4]

    def negative_log_likelihood(theta: np.ndarray) -> float:
        def f(y: float) -> float:
            return float(sum(c * y**p for c, p in zip(theta, powers, strict=True)))

        Z = integrate.quad(lambda y: math.exp(f(y)), -6, 6, epsabs=1e-13)[0]
        return math.log(Z) - sum(f(v) for v in x.flatten().tolist()) / len(x)

    expected = optimize.approx_fprime(np.array(theta), negative_log_likelihood, 1e-6)
    net = Powers(theta, powers)
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        weights = net(grid).exp()
    weights = weights / weights.sum()
    pairs = x.repeat_interleave(len(grid), 0), grid.repeat(len(x), 1)
    loss = contrastive_divergence_loss(ss.EnergyModel(net), *pairs).per_sample
    got = gradient(net, (loss * weights.repeat(len(x))).sum() / len(x))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_penalty_is_that_of_both_energies() -> None:
    energy = ss.EnergyModel(lambda x: x.sum(-1))
    x, negatives = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, -2.0]])
    loss = contrastive_divergence_loss(energy, x, negatives, penalty=0.1)
    assert loss.per_sample.tolist() == pytest.approx([2 + 0.1 * (9 + 25), -2 + 0.1 * 4])
    assert contrastive_divergence_loss(energy, x, negatives, penalty=0).mean.item() == 0


def test_no_gradient_flows_into_the_negatives() -> None:
    net = Quadratic(torch.eye(2, dtype=torch.float64))
    x = normals(3, 2, 0)
    negatives = net.A.sum() * normals(3, 2, 1)
    got = gradient(net, contrastive_divergence_loss(ss.EnergyModel(net), x, negatives).mean)
    fixed = negatives.detach()
    torch.testing.assert_close(got, 0.5 * (x.T @ x - fixed.T @ fixed) / 3)


def test_an_energy_under_an_sde_is_given_the_time() -> None:
    score = ss.GaussianScore(torch.tensor([0.5, 0.0]), 2.0, sde := ss.VPSDE())
    x0, negatives, noise = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.4, 0.6, 0.9])
    x = sde.perturb(x0, t, noise)
    got = contrastive_divergence_loss(score, x0, negatives, t=t, noise=noise).per_sample
    alpha_t, sigma_t = (v.float()[:, None] for v in sde.marginal(t))
    distribution = torch.distributions.Normal(
        alpha_t * torch.tensor([0.5, 0.0]), (2 * alpha_t**2 + sigma_t**2).sqrt()
    )
    expected = (distribution.log_prob(negatives) - distribution.log_prob(x)).sum(1)
    torch.testing.assert_close(got, expected)
    model = ss.ScoreModel(ss.EnergyModel(lambda x, c: c * x.sum(-1)), sde, prediction="score")
    got = contrastive_divergence_loss(model, x0, negatives, t=t, noise=noise).per_sample
    torch.testing.assert_close(got, t * (negatives - x).sum(1))
    x = sde.perturb(x0, 0.3, noise)
    for energy in (model, model.net):  # one time for all, as a number; a plain energy gets (B,)
        got = contrastive_divergence_loss(
            energy, x0, negatives, t=0.3, noise=noise, sde=sde
        ).per_sample
        torch.testing.assert_close(got, 0.3 * (negatives - x).sum(1))
    weighted = contrastive_divergence_loss(model, x0, negatives, t=0.3, noise=noise, weight=2.0)
    torch.testing.assert_close(weighted.per_sample, 2 * got)


@pytest.mark.parametrize("shape", [(3,), (2, 1, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_shape_and_precision(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    energy = ss.EnergyModel(lambda x: x.flatten(1).sum(1) if x.ndim > 1 else 2 * x)
    x = torch.ones(shape, dtype=dtype)
    loss = contrastive_divergence_loss(energy, x, 3 * torch.ones(shape))
    assert loss.mean.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.mean.item() == (4 if x.ndim == 1 else 2 * 4)


def test_an_energy_that_writes_to_its_input_harms_nothing() -> None:
    x, negatives = torch.ones(2, 2), torch.ones(2, 2)
    loss = contrastive_divergence_loss(ss.EnergyModel(lambda y: y.mul_(3).sum(1)), x, negatives)
    assert loss.per_sample.tolist() == [0, 0]
    assert torch.equal(x, torch.ones(2, 2)) and torch.equal(negatives, torch.ones(2, 2))


def test_negatives_are_seen_in_the_precision_of_the_data() -> None:
    seen = []
    energy = ss.EnergyModel(lambda x: seen.append(x.dtype) or x.sum(-1))
    contrastive_divergence_loss(energy, torch.zeros(2, 2), torch.zeros(2, 2).double())
    assert seen == [torch.float32, torch.float32]


@pytest.mark.parametrize("returned", [torch.zeros(3, 1), torch.zeros(()), 0.0, None])
def test_another_object_s_density_is_one_scalar_a_sample(returned: object) -> None:
    class Density:
        def log_density(self, x: Tensor) -> object:
            return returned

    with pytest.raises(ss.errors.ShapeError, match="one scalar per sample"):
        contrastive_divergence_loss(Density(), torch.zeros(3, 2), torch.zeros(3, 2))
