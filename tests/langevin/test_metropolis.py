"""Metropolis' test: acceptance, and exact distributions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

import sdescore as ss
from sdescore.langevin.chains import LangevinRun, chains
from tests.helpers.langevin import gaussian, replay, spd

MIXTURE = ((0.3, -1.5, 0.5), (0.7, 1.0, 0.6))  # weight, mean, standard deviation


def mixture_log_density(x: Tensor) -> Tensor:
    """Of the first element of each row."""
    parts = [
        math.log(w / s) - 0.5 * ((x.reshape(len(x), -1)[:, 0] - m) / s) ** 2 for w, m, s in MIXTURE
    ]
    return torch.logsumexp(torch.stack(parts), 0)


def mixture_cdf(x: np.ndarray) -> np.ndarray:
    return sum(w * scipy.stats.norm.cdf(x, m, s) for w, m, s in MIXTURE)


# Metropolis' test.


def reference_acceptance(
    log_p: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, tau: float, theta: float, P: Tensor
) -> Tensor:
    """min(1, ratio) from the densities of the two proposals, the score by autograd."""

    def log_q(a: Tensor, b: Tensor) -> Tensor:
        a = a.clone().requires_grad_()
        (s,) = torch.autograd.grad(log_p(a).sum(), a)
        mean = a.detach() + tau * s @ P
        distribution = torch.distributions.MultivariateNormal(mean, 2 * tau * theta * P)
        return distribution.log_prob(b)

    ratio = (log_p(y) - log_p(x)) / theta + log_q(y, x) - log_q(x, y)
    return ratio.exp().clamp(max=1)


@pytest.mark.parametrize("theta", [1.0, 0.4])
@pytest.mark.parametrize("full", [False, True])
def test_a_proposal_is_accepted_with_the_textbooks_probability(full: bool, theta: float) -> None:
    """400 moves with u a hair below and above the probability that the two densities give."""
    B, d, tau = 400, 3, 0.25 if full else 0.2
    P = spd(d) if full else torch.diag(torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64))
    M = spd(d, seed=5)

    def log_p(x: Tensor) -> Tensor:
        return -0.5 * ((x @ M) * x).sum(1) - 0.25 * (x**4).sum(1) + torch.cos(x).sum(1)

    x = 0.5 * torch.randn(B, d, dtype=torch.float64)
    z = torch.randn(B, d, dtype=torch.float64)
    s = torch.func.vmap(torch.func.grad(lambda v: log_p(v[None])[0]))(x)
    values, vectors = np.linalg.eigh(P.numpy())
    root = torch.from_numpy(vectors @ np.diag(np.sqrt(values)) @ vectors.T)
    y = x + tau * s @ P + math.sqrt(2 * tau * theta) * z @ root
    a = reference_acceptance(log_p, x, y, tau, theta, P)
    assert 0.2 < a.mean() < 0.8, "the test is of use where some are rejected"
    # Detailed balance of the reference itself: π(x) q(x→y) a(x→y) is symmetric.
    back = reference_acceptance(log_p, y, x, tau, theta, P)
    assert bool(((a == 1) | (back == 1)).all())
    for factor, expected in ((1 - 1e-9, True), (1 + 1e-9, False)):
        test = torch.zeros(B, d, dtype=torch.float64)
        test[:, 0] = torch.special.ndtri((a * factor).clamp(max=1 - 1e-12))
        sure = (a > 1e-9) & ((a < 1 - 1e-8) | expected)  # where u and 1 − u are exact enough
        run = chains(
            ss.EnergyModel(log_p),
            x,
            tau,
            1,
            method="mala",
            temperature=theta,
            preconditioner=P if full else P.diagonal(),
            noise=ss.noise.ReplayNoise(torch.stack([torch.zeros_like(z), z, test])),
        )
        assert bool((run.acceptance[sure] == expected).all())
        torch.testing.assert_close(run.x[sure], (y if expected else x)[sure])


def test_mala_is_exact_where_the_plain_step_is_not() -> None:
    """20,000 independent chains against the distribution: KS and the mode's weight, 1e-6 each."""
    well, B = ss.EnergyModel(mixture_log_density), 20_000

    def p_values(method: str) -> tuple[float, float]:
        run = chains(well, torch.zeros(B), 0.45, 250, method=method)
        x = run.x.double().numpy()
        left = int((x < -0.2).sum())
        return (
            scipy.stats.kstest(x, mixture_cdf).pvalue,
            scipy.stats.binomtest(left, B, float(mixture_cdf(np.array(-0.2)))).pvalue,
        )

    assert min(p_values("mala")) > 1e-6
    assert p_values("unadjusted")[0] < 1e-20, "the same test sees the bias of τ = 0.45"


def test_mala_at_a_temperature_is_exact() -> None:
    """KS against p^{1/ϑ} by quadrature, at 1e-6; the untempered distribution is far away."""
    theta, grid = 2.5, np.linspace(-12, 12, 48_001)
    weight = np.exp(mixture_log_density(torch.from_numpy(grid)).numpy() / theta)
    cdf = scipy.integrate.cumulative_simpson(weight, x=grid, initial=0)
    run = chains(
        ss.EnergyModel(mixture_log_density),
        torch.zeros(20_000),
        0.6,
        150,
        method="mala",
        temperature=theta,
    )
    x = run.x.double().numpy()
    assert scipy.stats.kstest(x, lambda v: np.interp(v, grid, cdf / cdf[-1])).pvalue > 1e-6
    assert scipy.stats.kstest(x, mixture_cdf).pvalue < 1e-20


def test_a_thinned_path_of_few_chains_has_the_marginals() -> None:
    """16 chains of 1500 steps, one state in 30: KS of each element at 1e-6."""
    run = chains(
        gaussian(torch.tensor([0.5, 2.0])),
        torch.zeros(16, 2),
        0.5,
        1500,
        method="mala",
        burn_in=100,
        thin=30,
        return_path=True,
    )
    for i, S in enumerate((0.5, 2.0)):
        x = run.path[..., i].flatten().double().numpy()
        assert scipy.stats.kstest(x, scipy.stats.norm(0, S**0.5).cdf).pvalue > 1e-6


def test_what_is_not_finite_is_rejected() -> None:
    """A box: no density outside, a score of NaN there; and a quartic that throws proposals far."""
    inside = lambda x: ((x > 0) & (x < 1)).all(1)  # noqa: E731

    class Box:
        def __call__(self, x: Tensor) -> Tensor:
            return torch.where(inside(x)[:, None], torch.zeros_like(x), torch.nan)

        def log_density(self, x: Tensor) -> Tensor:
            return torch.where(inside(x), 0.0, -torch.inf)

    run = chains(Box(), torch.full((20_000, 1), 0.5), 0.1, 60, method="mala")
    assert bool(inside(run.x).all()) and 0.2 < run.acceptance.mean() < 0.8
    x = run.x.flatten().double().numpy()
    assert scipy.stats.kstest(x, scipy.stats.uniform.cdf).pvalue > 1e-6
    quartic = ss.EnergyModel(lambda x: -(x**4).sum(1))
    run = chains(quartic, torch.full((5, 1), 1e4), 0.5, 10, method="mala")
    assert torch.equal(run.x, torch.full((5, 1), 1e4)) and not run.acceptance.any()


def test_an_infinite_density_is_no_density() -> None:
    """A pole would hold a chain for ever: a proposal there is rejected like any not finite."""

    class Pole:
        def __call__(self, x: Tensor) -> Tensor:
            return -x

        def log_density(self, x: Tensor) -> Tensor:
            return torch.where(x[:, 0].abs() < 0.3, torch.inf, -0.5 * x[:, 0].square())

    run = chains(Pole(), torch.ones(500, 1), 0.5, 50, method="mala")
    assert bool((run.x.abs() >= 0.3).all()) and run.acceptance.mean() > 0.5


def test_an_energys_constant_is_subtracted_in_its_own_precision() -> None:
    """In float64 10⁹ leaves 10⁻⁷ of log p(y)/p(x): the very same moves, from float32 states."""

    def well(constant: float, dtype: torch.dtype) -> ss.EnergyModel:
        return ss.EnergyModel(lambda x: constant - 0.5 * x.to(dtype).square().sum(1))

    def run(constant: float, dtype: torch.dtype = torch.float64) -> LangevinRun:
        x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
        return chains(well(constant, dtype), x, 0.9, 50, method="mala")

    near, far = run(0.0), run(1e9)
    assert far.x.dtype == torch.float32 and 0.5 < near.acceptance.mean() < 0.95
    assert torch.equal(near.x, far.x) and torch.equal(near.acceptance, far.acceptance)
    assert not torch.equal(near.x, run(1e9, torch.float32).x), "the same test sees float32"


def test_the_noise_of_the_test_is_not_that_of_the_proposal() -> None:
    """Draws 2k − 1 propose and draws 2k test: with large normals in the tests all is rejected."""
    noise = replay(1 + 2 * 6, 9, 2)
    noise.values[2::2] = 8.0
    x = torch.randn(9, 2, dtype=torch.float64)
    run = chains(gaussian(torch.ones(2)), x, 1.3, 6, method="mala", noise=noise)
    assert run.acceptance.mean() < 1
    noise.values[2::2] = -30.0
    run = chains(gaussian(torch.ones(2)), x, 1.3, 6, method="mala", noise=noise)
    assert bool((run.acceptance == 1).all())
