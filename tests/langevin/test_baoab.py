"""The numbers of a step: conventions, exact variances, BAOAB, and the bias of each method."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from torch import Tensor

import sdescore as ss
from sdescore.langevin.chains import chains
from tests.helpers.langevin import METHODS, gaussian, replay
from tests.helpers.strategies import log_uniform


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


@pytest.mark.slow
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
