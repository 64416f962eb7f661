"""Langevin chains by themselves: step conventions, exact distributions, Metropolis' test,
diagnostics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from torch import Tensor

import sdescore as ss
from sdescore.langevin.chains import LangevinRun, chains
from sdescore.langevin.diagnostics import effective_sample_size, r_hat
from sdescore.langevin.preconditioner import Preconditioner
from sdescore.shapes import sum_event
from tests.helpers.strategies import log_uniform

METHODS = ("unadjusted", "mala", "underdamped")
MIXTURE = ((0.3, -1.5, 0.5), (0.7, 1.0, 0.6))  # weight, mean, standard deviation


def mixture_log_density(x: Tensor) -> Tensor:
    """Of the first element of each row."""
    parts = [
        math.log(w / s) - 0.5 * ((x.reshape(len(x), -1)[:, 0] - m) / s) ** 2 for w, m, s in MIXTURE
    ]
    return torch.logsumexp(torch.stack(parts), 0)


def mixture_cdf(x: np.ndarray) -> np.ndarray:
    return sum(w * scipy.stats.norm.cdf(x, m, s) for w, m, s in MIXTURE)


def gaussian(variance: Tensor, mean: float = 0.0) -> ss.EnergyModel:
    """Diagonal, ``variance`` event-shaped."""
    return ss.EnergyModel(lambda x: -0.5 * ((x - mean) ** 2 / variance).flatten(1).sum(1))


def replay(draws: int, batch: int, *event: int, seed: int = 1) -> ss.noise.ReplayNoise:
    generator = torch.Generator().manual_seed(seed)
    return ss.noise.ReplayNoise(
        torch.randn(draws, batch, *event, dtype=torch.float64, generator=generator)
    )


def spd(d: int, seed: int = 3) -> Tensor:
    """Eigenvalues from 0.4 to 2.5 along random axes: no seed makes it ill-conditioned."""
    normal = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    axes = torch.linalg.qr(normal).Q
    values = torch.logspace(math.log10(0.4), math.log10(2.5), d, dtype=torch.float64)
    return axes @ values.diag() @ axes.T


# The numbers of a step.


@given(log_uniform(1e-3, 1.0), log_uniform(0.1, 10.0))
@settings(max_examples=25)
def test_both_conventions_are_their_formulas_and_agree(tau: float, temperature: float) -> None:
    n, noise = 4, replay(9, 3, 2)
    x0 = torch.randn(3, 2, dtype=torch.float64)
    score = torch.sin

    def run(step: float, **options: Any) -> Tensor:
        return chains(score, x0, step, n, temperature=temperature, noise=noise, **options).x

    x, eps = x0, 2 * tau
    for k in range(n):
        z = noise.values[k + 1]
        x = x + eps / 2 * torch.sin(x) + math.sqrt(eps * temperature) * z
    torch.testing.assert_close(run(tau), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(run(eps, convention="epsilon"), x, rtol=1e-12, atol=1e-12)
    well = ss.EnergyModel(lambda x: -torch.cos(x).sum(1))  # the same score, with its density
    mala = [
        chains(well, x0, step, n, method="mala", convention=c, noise=noise).x
        for step, c in ((tau, "tau"), (eps, "epsilon"))
    ]
    torch.testing.assert_close(*mala, rtol=1e-12, atol=1e-12)


def variance_of(method: str, S: Tensor, step: float, n: int, **options: Any) -> Tensor:
    """Exact variance of each element's last state on N(0, S), without sampling.

    The chain is linear in its start and in its draws, so chain i is given a one for draw i and
    zeros else: the squares of what comes out add up to the variance.
    """
    basis = torch.eye(n + 1, dtype=torch.float64)[:, :, None].expand(-1, -1, len(S))
    run = chains(
        gaussian(S),
        torch.zeros(n + 1, len(S), dtype=torch.float64),
        step,
        n,
        method=method,
        noise=ss.noise.ReplayNoise(basis.contiguous()),
        **options,
    )
    return run.x.square().sum(0)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_stationary_variance_of_the_plain_step(temperature: float) -> None:
    S, tau = torch.tensor([0.4, 1.0, 2.0], dtype=torch.float64), 0.25
    got = variance_of("unadjusted", S, tau, 200, temperature=temperature)
    expected = temperature * S / (1 - tau / (2 * S))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(("friction", "temperature"), [(0.3, 1.0), (1.0, 4.0), (3.0, 0.3)])
def test_baoab_has_the_exact_positions_on_a_gaussian(friction: float, temperature: float) -> None:
    """Leimkuhler & Matthews 2013: no bias in x for a harmonic potential, at any stable step."""
    S = torch.tensor([0.4, 1.0, 2.0], dtype=torch.float64)
    for h in (0.4, 1.0):
        got = variance_of("underdamped", S, h, 1200, friction=friction, temperature=temperature)
        torch.testing.assert_close(got, temperature * S, rtol=1e-10, atol=0.0)


def test_a_preconditioner_and_temperature_in_the_exact_distribution() -> None:
    """P scales τ mode by mode, and nothing else; as inverse mass it leaves the distribution
    alone."""
    S = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
    P = torch.tensor([0.02, 0.7, 90.0], dtype=torch.float64)
    got = variance_of("unadjusted", S, 0.3, 300, preconditioner=P, temperature=2.0)
    torch.testing.assert_close(got, 2 * S / (1 - 0.3 * P / (2 * S)), rtol=1e-12, atol=0.0)
    got = variance_of("underdamped", S, 0.5, 400, preconditioner=P, temperature=2.0)
    torch.testing.assert_close(got, 2 * S, rtol=1e-10, atol=0.0)


def test_the_mean_is_the_distributions() -> None:
    for method in METHODS:
        run = chains(
            gaussian(torch.tensor([0.5, 2.0]), mean=3.0),
            torch.zeros(4000, 2),
            0.3,
            200,
            method=method,
        )
        # 4000 chains; z at 1e-6 two-sided is 4.9, for 6 means 5.3.
        assert bool(((run.x.mean(0) - 3).abs() < 5.3 * run.x.std(0) / 4000**0.5).all())


def test_baoab_is_five_exact_flows_in_order() -> None:
    """Each flow by itself, both half kicks evaluated: no merging, no reuse."""
    n, h, gamma, theta = 6, 0.3, 0.8, 1.7
    noise, x = replay(n + 1, 5, 2), torch.randn(5, 2, dtype=torch.float64)
    P = torch.tensor([0.5, 2.0], dtype=torch.float64)
    run = chains(
        torch.sin,
        x,
        h,
        n,
        method="underdamped",
        friction=gamma,
        temperature=theta,
        preconditioner=P,
        noise=noise,
        return_path=True,
    )
    v = (theta * P).sqrt() * noise.values[0]
    for k in range(n):
        v = v + h / 2 * P * torch.sin(x)
        x = x + h / 2 * v
        c = math.exp(-gamma * h)
        v = c * v + (theta * (1 - c**2) * P).sqrt() * noise.values[k + 1]
        x = x + h / 2 * v
        v = v + h / 2 * P * torch.sin(x)
        torch.testing.assert_close(run.path[k], x, rtol=1e-12, atol=1e-12)


def test_without_friction_baoab_is_verlet() -> None:
    """No noise is used, time runs back along the path, and the energy error falls with h²."""
    start = torch.randn(50, 1, dtype=torch.float64)
    v0 = torch.randn(50, 1, dtype=torch.float64)

    def path(h: float, n: int, x: Tensor, v: Tensor, seed: int = 1) -> Tensor:
        noise = replay(n + 1, 50, 1, seed=seed)
        noise.values[0] = v
        return chains(
            lambda x: -(x**3),
            x,
            h,
            n,
            method="underdamped",
            friction=0.0,
            noise=noise,
            return_path=True,
        ).path

    assert torch.equal(path(0.1, 20, start, v0), path(0.1, 20, start, v0, seed=2))

    def drift(h: float) -> float:
        """Largest change of the energy; the velocity from the central difference plus kick."""
        x = torch.cat([start[None], path(h, round(4 / h), start, v0)])
        v = (x[2:] - x[:-2]) / (2 * h)
        energy = 0.25 * x[1:-1] ** 4 + 0.5 * v**2
        return (energy - energy[0]).abs().max().item()

    assert drift(0.02) / drift(0.01) == pytest.approx(4, rel=0.1)
    # Reversed velocity: from x_n with −v_n, and v_n − h/2 s(x_n) = (x_n − x_{n−1})/h.
    forward = path(0.1, 20, start, v0)
    v_n = (forward[-1] - forward[-2]) / 0.1 + 0.05 * -(forward[-1] ** 3)
    back = path(0.1, 20, forward[-1], -v_n)
    torch.testing.assert_close(back[-1], start, rtol=1e-10, atol=1e-10)


def bent(x: Tensor) -> Tensor:
    """The score under U = x²/2 + cos(2x)/2."""
    return -x + torch.sin(2 * x)


def hermite(x: np.ndarray, n: int) -> np.ndarray:
    """The first ``n`` Hermite polynomials, orthonormal under N(0, 1): ``(n, *x.shape)``."""
    values = [np.ones_like(x), x]
    for k in range(1, n - 1):
        values.append((x * values[k] - math.sqrt(k) * values[k - 1]) / math.sqrt(k + 1))
    return np.stack(values)


def gauss(n: int) -> tuple[np.ndarray, np.ndarray]:
    x, w = np.polynomial.hermite_e.hermegauss(n)
    return x, w / w.sum()


def stationary_mean(f: np.ndarray, transfer: np.ndarray) -> float:
    """E f at stationarity, where E φ = T E φ for the polynomials φ, the first of which is 1."""
    moments = np.linalg.solve(np.eye(len(f) - 1) - transfer[1:, 1:], transfer[1:, 0])
    return float(f[0] + f[1:] @ moments)


def plain_bias(tau: float, n: int = 64) -> float:
    """E cos 2x of the plain step's stationary distribution, by quadrature over state and noise."""
    (x, wx), (z, wz) = gauss(n), gauss(24)
    X, Z = (torch.tensor(v).flatten() for v in np.meshgrid(x, z, indexing="ij"))
    noise = ss.noise.ReplayNoise(torch.stack([torch.zeros_like(Z), Z]))
    moved = chains(bent, X, tau, 1, noise=noise).x.numpy().reshape(n, -1)
    phi = hermite(x, n)
    transfer = np.einsum("lij,j,ki,i->lk", hermite(moved, n), wz, phi, wx, optimize=True)
    return stationary_mean(phi @ (wx * np.cos(2 * x)), transfer) - exact_mean()


def underdamped_bias(h: float, n: int = 64, m: int = 24) -> float:
    """The same of BAOAB, whose state is (x, v). A second step, without noise, reads v off x."""
    (x, wx), (v, wv), (z, wz) = gauss(n), gauss(m), gauss(24)
    X, V, Z = (torch.tensor(a).flatten() for a in np.meshgrid(x, v, z, indexing="ij"))
    noise = ss.noise.ReplayNoise(torch.stack([V, Z, torch.zeros_like(Z)]))
    run = chains(bent, X, h, 2, method="underdamped", noise=noise, return_path=True)
    first, second = run.path
    velocity = (second - first) / (h / 2 * (1 + math.exp(-h))) - h / 2 * bent(first)
    moved, turned = (a.numpy().reshape(n, m, -1) for a in (first, velocity))
    phi, psi = hermite(x, n), hermite(v, m)
    after = np.einsum("aijk,bijk,k->abij", hermite(moved, n), hermite(turned, m), wz, optimize=True)
    transfer = np.einsum("abij,ci,dj,i,j->abcd", after, phi, psi, wx, wv, optimize=True)
    f = np.zeros((n, m))
    f[:, 0] = phi @ (wx * np.cos(2 * x))
    return stationary_mean(f.ravel(), transfer.reshape(n * m, -1)) - exact_mean()


def exact_mean() -> float:
    """E cos 2x under the density itself."""
    one, cosine = (
        scipy.integrate.quad(
            lambda x, k=k: math.cos(2 * x) ** k * math.exp(-(x**2) / 2 - math.cos(2 * x) / 2), -9, 9
        )[0]
        for k in (0, 1)
    )
    return cosine / one


def test_bias_falls_with_tau_and_with_h_squared() -> None:
    """Of the stationary distribution itself, exact to four digits: no chain is run."""
    for bias, step, order in ((plain_bias, 0.01, 1), (underdamped_bias, 0.1, 2)):
        measured = math.log2(bias(2 * step) / bias(step))
        assert measured == pytest.approx(order, abs=0.05), bias


# Metropolis' test.


def reference_acceptance(
    log_p: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, tau: float, theta: float, P: Tensor
) -> Tensor:
    """min(1, ratio) from the densities of the two proposals, the score by autograd."""

    def log_q(a: Tensor, b: Tensor) -> Tensor:
        a = a.clone().requires_grad_()
        (s,) = torch.autograd.grad(log_p(a).sum(), a)
        mean = a.detach() + tau * s @ P
        law = torch.distributions.MultivariateNormal(mean, 2 * tau * theta * P)
        return law.log_prob(b)

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


# Preconditioning.


@pytest.mark.parametrize("method", METHODS)
def test_a_preconditioned_chain_is_a_plain_one_in_other_coordinates(method: str) -> None:
    """x̃ = P^{-1/2} x, whose log density is f(P^{1/2} x̃)."""
    d, n, P = 4, 7, spd(4)
    values, vectors = torch.linalg.eigh(P)
    root = vectors @ values.sqrt().diag() @ vectors.T
    x, noise = torch.randn(6, d, dtype=torch.float64), replay(15, 6, d)

    def f(x: Tensor) -> Tensor:
        return -0.3 * (x**2).sum(1) - 0.05 * (x**4).sum(1) + torch.sin(x[:, 0] * x[:, 1])

    options: dict[str, Any] = {"method": method, "noise": noise, "temperature": 1.3}
    one = chains(ss.EnergyModel(f), x, 0.2, n, preconditioner=P, **options)
    start = torch.linalg.solve(root, x.T).T
    two = chains(ss.EnergyModel(lambda y: f(y @ root)), start, 0.2, n, **options)
    torch.testing.assert_close(one.x, two.x @ root, rtol=1e-9, atol=1e-9)
    if method == "mala":
        assert torch.equal(one.acceptance, two.acceptance)


def test_a_matrix_acts_on_the_flattened_event_and_a_diagonal_on_its_elements() -> None:
    x, noise, values = torch.randn(5, 2, 3), replay(6, 5, 2, 3), torch.rand(2, 3) + 0.1
    runs = [
        chains(torch.sin, x, 0.2, 5, preconditioner=P, noise=noise).x
        for P in (values, values.flatten().diag(), Preconditioner.diagonal(values))
    ]
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-5, atol=1e-5)
    assert torch.equal(runs[0], runs[2])
    plain = chains(torch.sin, x, 0.2, 5, noise=noise).x
    half = chains(torch.sin, x, 0.4, 5, preconditioner=0.5, noise=noise).x
    torch.testing.assert_close(plain, half, rtol=1e-6, atol=1e-6)


def test_an_ill_conditioned_distribution_mixes_with_its_covariance() -> None:
    """Condition 10⁴: the plain step crosses the wide direction in 10⁴ steps, P = C in a few."""
    turn = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64))[0]
    C = turn @ torch.diag(torch.tensor([1e-4, 1.0], dtype=torch.float64)) @ turn.T
    precision = torch.linalg.inv(C)
    well = ss.EnergyModel(lambda x: -0.5 * ((x @ precision) * x).sum(1))
    x = torch.zeros(8, 2, dtype=torch.float64)

    def worth(step: float, P: Tensor | None) -> float:
        run = chains(
            well, x, step, 800, method="mala", preconditioner=P, burn_in=100, return_path=True
        )
        along = run.path @ turn
        return float(effective_sample_size(along).min())

    assert worth(0.5, C) > 1500  # of 6400
    assert worth(5e-5, None) < 200


def test_a_preconditioner_and_its_parts() -> None:
    P = spd(3)
    full, v = Preconditioner.full(P), torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(full.apply(v), v @ P)
    torch.testing.assert_close(full.sqrt_apply(full.sqrt_apply(v)), v @ P)
    torch.testing.assert_close(full.quadratic(v), torch.einsum("bi,ij,bj->b", v, P, v))
    moved = full.affine(2.0, 0.5)
    torch.testing.assert_close(moved.apply(v), v @ (2 * P + 0.5 * torch.eye(3)))
    diagonal = Preconditioner.diagonal([1.0, 2.0, 4.0])
    torch.testing.assert_close(diagonal.quadratic(v), (v**2 * torch.tensor([1.0, 2, 4])).sum(1))
    assert diagonal == Preconditioner.diagonal([1.0, 2.0, 4.0]) and diagonal != full
    assert len({diagonal, Preconditioner.diagonal([1.0, 2.0, 4.0]), full}) == 2
    assert diagonal != Preconditioner.diagonal([[1.0, 2.0, 4.0]]) and diagonal != 1.0
    turned = Preconditioner(full.eigenvalues, full.vectors.flip(0))
    assert turned != full and hash(turned) != hash(full)
    assert (
        Preconditioner.full(P.float() + 1e-7 * torch.randn(3, 3)).to(v.float()).vectors is not None
    )


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Preconditioner.diagonal([1.0, 0.0]), ss.errors.ParameterError),
        (lambda: Preconditioner.diagonal([1.0, -1.0]), ss.errors.ParameterError),
        (lambda: Preconditioner.diagonal([1.0, math.nan]), ss.errors.ParameterError),
        (lambda: Preconditioner.diagonal([1.0, math.inf]), ss.errors.ParameterError),
        (lambda: Preconditioner.diagonal("wide"), ss.errors.ShapeError),  # type: ignore[arg-type]
        (lambda: Preconditioner.full([[1.0, 0.1], [0.0, 1.0]]), ss.errors.ParameterError),
        (lambda: Preconditioner.full([[1.0, 2.0], [2.0, 1.0]]), ss.errors.ParameterError),
        (lambda: Preconditioner.full([[1.0, 1.0], [1.0, 1.0]]), ss.errors.ParameterError),
        (lambda: Preconditioner.full([[1.0, math.nan], [math.nan, 1.0]]), ss.errors.ParameterError),
        (lambda: Preconditioner.full([1.0, 1.0]), ss.errors.ShapeError),
        (lambda: Preconditioner.full(torch.ones(2, 3)), ss.errors.ShapeError),
    ],
)
def test_bad_preconditioners(make: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


# What a run gives, and what it costs.


class Counted:
    """A Gaussian that counts what is asked of it."""

    def __init__(self) -> None:
        self.scores = self.densities = 0

    def __call__(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        self.scores += 1
        return -x

    def log_density(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        self.densities += 1
        return -0.5 * sum_event(x.square())


@pytest.mark.parametrize(
    ("method", "scores", "densities"),
    [("unadjusted", 14, 0), ("mala", 15, 15), ("underdamped", 15, 0)],
)
def test_what_a_run_costs(method: str, scores: int, densities: int) -> None:
    score = Counted()
    run = chains(score, torch.zeros(3, 2), 0.1, 10, method=method, burn_in=4)
    assert (score.scores, score.densities) == (scores, densities)
    assert run.evaluations == scores
    assert (run.acceptance is None) == (method != "mala") and run.path is None


@pytest.mark.parametrize("method", METHODS)
def test_a_chain_does_not_know_its_companions(method: str) -> None:
    x, options = torch.randn(8, 3), {"method": method, "seed": 5}
    many = chains(Counted(), x, 0.9, 20, **options)
    few = chains(Counted(), x[:3], 0.9, 20, **options)
    assert torch.equal(many.x[:3], few.x)
    assert not torch.equal(chains(Counted(), x, 0.9, 20, method=method, seed=6).x, many.x)
    if method == "mala":
        assert torch.equal(many.acceptance[:3], few.acceptance)


@pytest.mark.parametrize("method", METHODS)
def test_path_burn_in_and_thinning(method: str) -> None:
    x = torch.randn(4, 2)
    options: dict[str, Any] = {"method": method, "return_path": True}
    whole = chains(Counted(), x, 1.2, 18, **options)
    part = chains(Counted(), x, 1.2, 13, burn_in=5, thin=3, **options)
    assert torch.equal(part.path, whole.path[5:][2::3]) and len(part.path) == 4
    assert torch.equal(part.x, whole.x) and torch.equal(whole.x, whole.path[-1])
    assert torch.equal(whole.path[0], chains(Counted(), x, 1.2, 1, method=method).x)
    if method == "mala":
        moved = (whole.path[5:] != whole.path[4:-1]).any(2).float().mean(0)
        torch.testing.assert_close(part.acceptance, moved)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 1, 2, 3), (0, 2), (2, 0)])
def test_any_shape_and_dtype(method: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=dtype)
    run = chains(Counted(), x, 0.1, 10, method=method, return_path=True)
    assert run.x.shape == shape and run.x.dtype == dtype and run.path.shape == (10, *shape)
    if shape[0]:
        assert run.effective_sample_size().shape == run.r_hat().shape == shape[1:]
    kept = x.clone()
    chains(lambda y: y.neg_(), x, 0.1, 2)
    assert torch.equal(x, kept), "the start is the caller's"


@pytest.mark.parametrize("method", METHODS)
def test_a_score_in_another_precision_leaves_the_states_alone(method: str) -> None:
    class Double(Counted):
        def __call__(self, x: Tensor, t: Tensor | None = None) -> Tensor:
            return -x.double()

        def log_density(self, x: Tensor, t: Tensor | None = None) -> Tensor:
            return super().log_density(x.double())

    run = chains(Double(), torch.ones(4, 2), 0.1, 5, method=method)
    assert run.x.dtype == torch.float32


def test_a_score_that_writes_to_its_input_does_no_harm() -> None:
    x = torch.randn(5, 2)
    one, two = (chains(s, x, 0.1, 5).x for s in (torch.neg, lambda y: y.neg_()))
    assert torch.equal(one, two)


def test_energies_plain_scores_exact_scores_and_models_agree() -> None:
    """One distribution, four ways to give it, at a noise level or without."""
    sde, t = ss.VPSDE(), 0.3
    alpha, sigma = (v.item() for v in sde.marginal(t))
    S = alpha**2 * 0.25 + sigma**2
    exact = ss.GaussianScore(torch.zeros(2), 0.25, sde)
    model = ss.ScoreModel(
        ss.EnergyModel(lambda x, c: -0.5 * x.square().sum(1) / S), sde, prediction="score"
    )
    energy = ss.EnergyModel(lambda x: -0.5 * x.square().sum(1) / S)
    x = torch.randn(6, 2, dtype=torch.float64)
    for method in METHODS:
        runs = [
            chains(exact, x, 0.3, 10, method=method, t=t).x,
            chains(exact, x, 0.3, 10, method=method, t=torch.full((6,), t)).x,
            chains(model.double(), x, 0.3, 10, method=method, t=t).x,
            chains(energy, x, 0.3, 10, method=method).x,
        ]
        if method != "mala":
            runs.append(chains(lambda x: -x / S, x, 0.3, 10, method=method).x)
        for run in runs[1:]:
            torch.testing.assert_close(run, runs[0], rtol=1e-5, atol=1e-5)


def test_the_time_is_handed_on_to_each_chain_in_the_states_dtype() -> None:
    seen: list[Tensor] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return -x

    chains(score, torch.zeros(3, 2), 0.1, 1, t=0.25)
    own = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    for t in (0.25, torch.tensor(0.25), torch.tensor([0.25]), own):
        chains(score, torch.zeros(3, 2), 0.1, 1, t=t)
    assert all(t.dtype == torch.float32 and t.shape == (3,) for t in seen)
    assert all(bool((t == 0.25).all()) for t in seen[:-1]) and torch.equal(seen[-1], own.float())
    chains(score, torch.zeros(0, 2), 0.1, 1, t=0.25)
    assert seen[-1].shape == (0,)
    # The density is given the same as the score, under an energy that wants (B,).
    energy = ss.EnergyModel(lambda x, c: -0.5 * (x.square() / c.reshape(len(x), 1)).sum(1))
    chains(energy, torch.zeros(3, 2), 0.1, 1, t=0.25, method="mala")


@pytest.mark.parametrize("method", METHODS)
def test_a_score_under_an_sde_needs_its_time(method: str) -> None:
    calls: list[int] = []
    energy = ss.EnergyModel(lambda x, c: calls.append(1) or -x.square().sum(1))
    model = ss.ScoreModel(energy, ss.VPSDE(), prediction="score")

    class Own(Counted):
        sde = ss.VPSDE()

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return calls.append(1) or -x

    for score in (model, ss.GaussianScore([0.0, 0.0], 1.0, ss.VPSDE()), Own()):
        with pytest.raises(
            ss.errors.IncompatibleError, match=f"expected t= for {type(score).__name__}"
        ):
            chains(score, X, 0.1, 5, method=method)
        for t in (1.5, -0.1, torch.tensor([0.1, 0.2, 1.5])):
            with pytest.raises(ss.errors.TimeError, match="T = 1"):
                chains(score, X, 0.1, 5, method=method, t=t)
    assert not calls


X = torch.zeros(3, 2)
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"n": 0}, ss.errors.ParameterError, "n >= 1"),
    ({"n": -1}, ss.errors.ParameterError, "n >= 1"),
    ({"n": True}, ss.errors.ParameterError, "n >= 1"),
    ({"n": 2.0}, ss.errors.ParameterError, "n >= 1"),
    ({"step": 0.0}, ss.errors.ParameterError, "step > 0"),
    ({"step": -0.1}, ss.errors.ParameterError, "step > 0"),
    ({"step": math.inf}, ss.errors.ParameterError, "step > 0"),
    ({"step": math.nan}, ss.errors.ParameterError, "step > 0"),
    ({"step": True}, ss.errors.ParameterError, "step > 0"),
    (
        {"step": torch.tensor(0.1)},
        ss.errors.ParameterError,
        r"step > 0; .* no Python number; use .item",
    ),
    ({"step": "0.1"}, ss.errors.ParameterError, r"step > 0; .* no Python number$"),
    (
        {"temperature": torch.tensor(1.0)},
        ss.errors.ParameterError,
        "temperature > 0; .* no Python number",
    ),
    (
        {"friction": torch.tensor(1.0), "method": "underdamped"},
        ss.errors.ParameterError,
        "friction >= 0; .* no Python number",
    ),
    ({"temperature": 0.0}, ss.errors.ParameterError, "temperature > 0"),
    ({"temperature": -1.0}, ss.errors.ParameterError, "temperature > 0"),
    ({"method": "ula"}, ss.errors.IncompatibleError, "unadjusted, mala, underdamped"),
    ({"convention": "alpha"}, ss.errors.IncompatibleError, "tau, epsilon"),
    ({"friction": -1.0, "method": "underdamped"}, ss.errors.ParameterError, "friction >= 0"),
    ({"friction": math.nan, "method": "underdamped"}, ss.errors.ParameterError, "friction >= 0"),
    ({"friction": True, "method": "underdamped"}, ss.errors.ParameterError, "friction >= 0"),
    ({"friction": 1.0}, ss.errors.IncompatibleError, "underdamped"),
    ({"convention": "epsilon", "method": "underdamped"}, ss.errors.IncompatibleError, "time h"),
    ({"burn_in": -1}, ss.errors.ParameterError, "burn_in"),
    ({"burn_in": False}, ss.errors.ParameterError, "burn_in"),
    ({"thin": 0, "return_path": True}, ss.errors.ParameterError, "thin"),
    ({"thin": 6, "return_path": True}, ss.errors.ParameterError, "thin"),
    ({"thin": 2}, ss.errors.IncompatibleError, "return_path"),
    ({"seed": 0.5}, ss.errors.ParameterError, "seed"),
    ({"noise": torch.zeros(9, 3, 2)}, ss.errors.IncompatibleError, "NoiseSource"),
    ({"noise": replay(5, 3, 2)}, ss.errors.ShapeError, "replayed"),
    ({"noise": replay(6, 2, 2)}, ss.errors.ShapeError, "replayed"),
    ({"noise": replay(10, 3, 2), "method": "mala"}, ss.errors.ShapeError, "replayed"),
    ({"x": torch.zeros(3, 2, dtype=torch.int64)}, ss.errors.ShapeError, "floating"),
    ({"x": torch.zeros(3, 2).half()}, ss.errors.ShapeError, "float32 or float64"),
    ({"x": torch.zeros(())}, ss.errors.ShapeError, "batch"),
    ({"x": [0.0]}, ss.errors.ShapeError, "Tensor"),
    ({"x": torch.full((3, 2), math.nan)}, ss.errors.ParameterError, "finite"),
    ({"t": math.nan}, ss.errors.TimeError, "finite"),
    ({"t": torch.tensor(math.nan)}, ss.errors.TimeError, "finite t"),
    ({"t": torch.tensor([0.1, math.inf, 0.2])}, ss.errors.TimeError, "finite t"),
    ({"t": "now"}, ss.errors.TimeError, "finite"),
    ({"t": torch.zeros(2)}, ss.errors.ShapeError, "one time"),
    ({"preconditioner": torch.ones(3)}, ss.errors.ShapeError, r"\(2,\), or a matrix \(2, 2\)"),
    ({"preconditioner": torch.ones(3, 3)}, ss.errors.ShapeError, "matrix"),
    ({"preconditioner": Preconditioner.diagonal([1.0])}, ss.errors.ShapeError, "event's shape"),
    ({"preconditioner": Preconditioner.full([[1.0]])}, ss.errors.ShapeError, "2 rows"),
    ({"preconditioner": -1.0}, ss.errors.ParameterError, "positive"),
    (
        {"preconditioner": torch.tensor([[1.0, 2.0], [2.0, 1.0]])},
        ss.errors.ParameterError,
        "definite",
    ),
]


@pytest.mark.parametrize(("wrong", "error", "says"), BAD, ids=lambda v: repr(v)[:40])
def test_bad_input_is_refused_at_the_door(
    wrong: dict[str, Any], error: type[Exception], says: str
) -> None:
    score = Counted()
    arguments: dict[str, Any] = {"x": X, "step": 0.1, "n": 5, **wrong}
    with pytest.raises(error, match=says):
        chains(score, **arguments)
    assert score.scores == score.densities == 0


def test_bad_scores_are_refused() -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="callable"):
        chains("score", X, 0.1, 5)  # type: ignore[arg-type]
    with pytest.raises(ss.errors.IncompatibleError, match="callable"):
        chains(Counted, X, 0.1, 5)
    calls = []
    with pytest.raises(ss.errors.IncompatibleError, match="log density"):
        chains(lambda x: calls.append(1) or -x, X, 0.1, 5, method="mala")
    assert not calls
    with pytest.raises(ss.errors.ShapeError, match="score shaped like"):
        chains(lambda x: -x[:, :1], X, 0.1, 5)

    class Wide(Counted):
        def log_density(self, x: Tensor, t: Tensor | None = None) -> Tensor:
            return -x.square()

    with pytest.raises(ss.errors.ShapeError, match="one a sample"):
        chains(Wide(), X, 0.1, 5, method="mala")


@pytest.mark.parametrize("method", ["unadjusted", "underdamped"])
def test_divergence_names_step_and_chains(method: str) -> None:
    """Only chain 2 starts where the cubic force overshoots."""
    x = torch.zeros(4, 1)
    x[2] = 50.0
    with pytest.raises(ss.errors.DivergenceError, match="1 of 4 chains: 2") as caught:
        chains(lambda x: -(x**3), x, 0.05 if method == "unadjusted" else 0.3, 40, method=method)
    error = caught.value
    assert error.samples == [2] and 0 < error.step < 20
    steps = error.step
    chains(
        lambda x: -(x**3), x, 0.05 if method == "unadjusted" else 0.3, steps, method=method
    )  # one step less is finite


def test_mala_from_where_there_is_no_density_says_so() -> None:
    """A chain that can accept nothing must not look like one that stands still."""

    class Half(Counted):
        def log_density(self, x: Tensor, t: Tensor | None = None) -> Tensor:
            return torch.where(x[:, 0] > 0, 0.0, torch.nan)

    with pytest.raises(ss.errors.DivergenceError, match=r"step 0 in 1 of 2 chains: 1"):
        chains(Half(), torch.tensor([[1.0], [-1.0]]), 1e-6, 5, method="mala")


# Diagnostics.


def autoregression(n: int, chains: int, rhos: tuple[float, ...], elements: int) -> Tensor:
    """``(n, chains, len(rhos), elements)``, stationary from the start, variance 1."""
    generator = torch.Generator().manual_seed(11)
    rho = torch.tensor(rhos, dtype=torch.float64)[:, None]
    z = torch.randn(n, chains, len(rhos), elements, dtype=torch.float64, generator=generator)
    path = [z[0]]
    for k in range(1, n):
        path.append(rho * path[-1] + (1 - rho**2).sqrt() * z[k])
    return torch.stack(path)


def test_the_effective_sample_size_of_an_autoregression() -> None:
    """Its integrated autocorrelation time is (1 + ρ)/(1 − ρ): the mean of 40, within 5 %."""
    rhos = (-0.4, 0.0, 0.5, 0.9)
    worth = effective_sample_size(autoregression(2000, 4, rhos, 40))
    time = torch.tensor([(1 + r) / (1 - r) for r in rhos], dtype=torch.float64)
    torch.testing.assert_close(
        worth.mean(1) * time / 8000, torch.ones(4).double(), rtol=0.05, atol=0
    )


def test_the_effective_sample_size_of_langevin_on_a_gaussian() -> None:
    """ULA on N(0, S) is an autoregression with ρ = 1 − τ/S."""
    S, tau = torch.tensor([0.5, 1.0, 3.0]), 0.4
    run = chains(gaussian(S), torch.zeros(16, 3), tau, 3000, burn_in=100, return_path=True)
    rho = 1 - tau / S.double()
    expected = 16 * 3000 * (1 - rho) / (1 + rho)
    torch.testing.assert_close(run.effective_sample_size(), expected, rtol=0.1, atol=0.0)
    assert bool((run.r_hat() < 1.01).all())
    assert bool(
        (
            chains(gaussian(S), 9 * torch.randn(16, 3), 0.01, 50, return_path=True).r_hat() > 1.5
        ).all()
    )


def split(path: np.ndarray) -> np.ndarray:
    half = len(path) // 2
    return np.concatenate([path[:half], path[-half:]], axis=1)


def spelled_out(path: np.ndarray) -> tuple[float, float]:
    """R̂ and effective sample size of ``(n, chains)``, sum by sum."""
    x = split(path)
    n, m = x.shape
    means, s2 = x.mean(0), x.var(0, ddof=1)
    W, B = s2.mean(), n * means.var(ddof=1)
    plus = (n - 1) / n * W + B / n
    rho = []
    for lag in range(n):
        own = [
            sum((x[i, c] - means[c]) * (x[i + lag, c] - means[c]) for i in range(n - lag)) / (n - 1)
            for c in range(m)
        ]
        rho.append(1 - (W - np.mean(own)) / plus if lag else 1.0)
    total, smallest = 0.0, math.inf
    for k in range(n // 2):
        pair = rho[2 * k] + rho[2 * k + 1]
        if pair <= 0:
            break
        smallest = min(smallest, pair)
        total += smallest
    tau = max(-1 + 2 * total, 1 / math.log10(n * m))
    return math.sqrt(plus / W), n * m / tau


@pytest.mark.parametrize("n", [8, 33, 60])
def test_diagnostics_are_their_definitions(n: int) -> None:
    path = autoregression(n, 3, (-0.9, 0.3, 0.95), 2)
    got = r_hat(path, ranked=False), effective_sample_size(path)
    for i in range(3):
        for j in range(2):
            both = spelled_out(path[..., i, j].numpy())
            assert [g[i, j].item() for g in got] == pytest.approx(both, rel=1e-9)


def ranked_by_counting(path: np.ndarray) -> float:
    """Rank normalised and folded R̂, ranks by comparing each with each."""

    def scores(x: np.ndarray) -> np.ndarray:
        below = (x.ravel()[None] < x.ravel()[:, None]).sum(1)
        ties = (x.ravel()[None] == x.ravel()[:, None]).sum(1)
        rank = below + (ties + 1) / 2
        return scipy.stats.norm.ppf((rank - 3 / 8) / (x.size + 1 / 4)).reshape(x.shape)

    def plain(x: np.ndarray) -> float:
        n = len(x)
        W = x.var(0, ddof=1).mean()
        return math.sqrt(((n - 1) / n * W + x.mean(0).var(ddof=1)) / W)

    x = split(path)
    return max(plain(scores(x)), plain(scores(np.abs(x - np.median(x)))))


@pytest.mark.parametrize("ties", [True, False])
def test_the_ranked_r_hat_is_its_definition(ties: bool) -> None:
    path = autoregression(40 if ties else 8, 3, (0.5,), 4)[:, :, 0]
    path = (2 * path).round() / 2 if ties else path
    got = r_hat(path)
    for j in range(4):
        assert got[j].item() == pytest.approx(ranked_by_counting(path[..., j].numpy()), rel=1e-9)


def test_what_r_hat_sees() -> None:
    """Chains at other places, of other widths (the folded ranks alone), and a drift."""
    calm = autoregression(500, 4, (0.0,), 1)[:, :, 0, 0]
    assert r_hat(calm) < 1.02 and r_hat(calm, ranked=False) < 1.02
    assert r_hat(calm + torch.tensor([0.0, 0, 0, 2])) > 1.1
    wide = calm * torch.tensor([1.0, 1, 1, 5])
    assert r_hat(wide, ranked=False) < 1.03 < 1.1 < r_hat(wide)
    drift = calm[:, :1] + torch.linspace(0, 3, 500)[:, None]
    assert r_hat(drift) > 1.3, "one chain, whose halves disagree"
    cauchy = calm / autoregression(500, 4, (0.0,), 2)[:, :, 0, 1]
    assert r_hat(cauchy) < 1.05 and r_hat(1e200 * calm).isfinite()


def test_what_does_not_move_has_no_diagnostics() -> None:
    path = torch.randn(26, 3, 200, dtype=torch.float64)
    path[..., 1:] = torch.rand(199, dtype=torch.float64)  # the variance of some rounds away from 0
    for found in (effective_sample_size(path), r_hat(path), r_hat(path, ranked=False)):
        assert found[0].isfinite() and found[1:].isnan().all()
    stuck = torch.arange(3.0).expand(20, 3)
    assert r_hat(stuck, ranked=False).isinf()


@pytest.mark.parametrize("diagnostic", [effective_sample_size, r_hat])
def test_a_path_with_a_gradient_is_a_path(diagnostic: Callable[[Tensor], Tensor]) -> None:
    path = autoregression(20, 3, (0.3,), 2)[:, :, 0]
    got = diagnostic(path.clone().requires_grad_())
    assert torch.equal(got, diagnostic(path)) and not got.requires_grad


@pytest.mark.parametrize("diagnostic", [effective_sample_size, r_hat])
def test_bad_paths(diagnostic: Callable[[Tensor], Tensor]) -> None:
    for path in (torch.randn(7, 2), torch.randn(20), torch.randn(20, 0)):
        with pytest.raises(ss.errors.ShapeError, match="n >= 8"):
            diagnostic(path)
    with pytest.raises(ss.errors.ShapeError):
        diagnostic(np.zeros((20, 2)))  # type: ignore[arg-type]
    path = torch.randn(20, 2)
    path[3, 1] = math.nan
    with pytest.raises(ss.errors.ParameterError, match="finite"):
        diagnostic(path)
    with pytest.raises(ss.errors.IncompatibleError, match="return_path"):
        LangevinRun(X, None, None, 1).r_hat()
