"""Learning by the contrastive loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy import optimize
from torch import Tensor, nn

import sdescore as ss
from sdescore.langevin.chains import chains
from sdescore.losses import ReplayBuffer, contrastive_divergence_loss
from tests.helpers.energies import Powers, Quadratic, gradient, normals


def train(
    net: nn.Module,
    data: Tensor,
    *,
    step: float,
    n: int,
    method: str = "unadjusted",
    buffer: ReplayBuffer | None = None,
    iterations: int = 300,
    rate: float = 0.1,
) -> Tensor:
    """The mean of the last half of the parameters under a falling learning rate."""
    energy, (parameter,) = ss.EnergyModel(net), net.parameters()
    optimiser = torch.optim.SGD(net.parameters(), lr=rate)
    kept = []
    for i in range(iterations):
        optimiser.param_groups[0]["lr"] = rate / math.sqrt(1 + 10 * i / iterations)
        index, start = (None, data) if buffer is None else buffer.draw(len(data))
        negatives = chains(energy, start, step, n, method=method, seed=i).x
        if buffer is not None:
            buffer.update(index, negatives)
        loss = contrastive_divergence_loss(energy, data, negatives).mean
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        kept.append(parameter.detach().clone())
    return torch.stack(kept[iterations // 2 :]).mean(0)


def double_noise(d: int):
    return lambda n, g: torch.randn(n, d, dtype=torch.float64, generator=g)


def test_persistent_chains_find_the_maximum_of_the_likelihood() -> None:
    """A Gaussian's: A is the inverse of the data's second moment, to 5 %."""
    L = torch.tensor([[1.0, 0.0], [0.6, 0.7]], dtype=torch.float64)
    data = normals(1000, 2, 0) @ L.T
    A = train(
        Quadratic(torch.eye(2, dtype=torch.float64)),
        data,
        step=0.15,
        n=2,
        method="mala",
        buffer=ReplayBuffer(1000, double_noise(2), reinit=0.0),
        rate=0.5,
    )
    exact = torch.linalg.inv(data.T @ data / len(data))
    assert (A - exact).norm() < 0.05 * exact.norm()
    assert (torch.eye(2) - exact).norm() > 0.3 * exact.norm()


@pytest.mark.slow
def test_unadjusted_chains_fit_their_own_stationary_distribution() -> None:
    """A Gaussian energy ½ a x²: one step from data of variance S leaves (1−τa)² S + 2τ, which is
    S where a (1 − τa/2) = 1/S, as it is for the stationary distribution of many steps."""
    data = torch.special.ndtri(torch.linspace(0, 1, 2002, dtype=torch.float64)[1:-1])[:, None]
    S, tau = data.square().mean().item(), 0.4
    biased = (1 - math.sqrt(1 - 2 * tau / S)) / tau
    assert biased > 1.35 / S

    def run(**options) -> float:
        return train(
            Quadratic(torch.eye(1, dtype=torch.float64)), data, step=tau, rate=1.0, **options
        ).item()

    assert run(n=1) == pytest.approx(biased, rel=0.03)
    buffer = ReplayBuffer(len(data), double_noise(1), reinit=0.0)
    assert run(n=2, buffer=buffer) == pytest.approx(biased, rel=0.03)
    buffer = ReplayBuffer(len(data), double_noise(1), reinit=0.0)
    assert run(n=2, buffer=buffer, method="mala") == pytest.approx(1 / S, rel=0.03)


def test_one_small_step_from_the_data_is_score_matching() -> None:
    """f = −a x⁴/4 on Gaussian data of variance S: the likelihood has a = 1/(3S²), implicit score
    matching E[φ'' − a φ'²] = 0 with φ = x⁴/4, so a = 3S/(15S³). Where the expected gradient of
    CD-1 vanishes lies at the one or the other, and at what quadrature says for this step."""
    S, tau, n = 1.3, 0.01, 200_000
    z = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]
    data = math.sqrt(S) * z

    def slope(a: float) -> float:
        net = Powers([-a / 4], [4])
        negatives = chains(ss.EnergyModel(net), data, tau, 1, seed=1).x
        loss = contrastive_divergence_loss(ss.EnergyModel(net), data, negatives).mean
        return gradient(net, loss).item()

    nodes, w = hermegauss(20)
    x, noise = np.meshgrid(math.sqrt(S) * nodes, math.sqrt(2 * tau) * nodes)

    def exact(a: float) -> float:
        moved = (x - tau * a * x**3 + noise) ** 4 - x**4
        return float((np.outer(w, w) * moved).sum())

    got = optimize.brentq(slope, 0.05, 0.6, xtol=1e-4)
    limit = optimize.brentq(exact, 0.05, 0.6)
    assert limit == pytest.approx(1 / (5 * S**2), rel=0.15)
    assert got == pytest.approx(limit, rel=0.1)
    assert got < 0.75 / (3 * S**2)


@pytest.mark.slow
def test_persistent_chains_fit_two_wells() -> None:
    """θ of e^{θ₁ x + θ₂ x² + θ₃ x⁴} for a mixture's data; the exact fit by quadrature."""
    z = normals(1500, 1, 5)
    data = 0.4 * z + torch.where(torch.arange(1500)[:, None] < 600, -0.8, 0.8)
    grid = np.linspace(-4, 4, 2001)
    features = np.stack([grid, grid**2, grid**4])
    moments = np.array([(data**p).mean().item() for p in (1, 2, 4)])

    def negative_log_likelihood(theta: np.ndarray) -> float:
        return float(np.log(np.exp(theta @ features).sum()) - theta @ moments)

    best = optimize.minimize(negative_log_likelihood, [0.0, 0.0, -1.0], tol=1e-10)

    def uniform(n: int, generator: torch.Generator) -> Tensor:
        return 3 * torch.rand(n, 1, dtype=torch.float64, generator=generator) - 1.5

    theta = train(
        Powers([0.0, 0.0, -1.0], [1, 2, 4]),
        data,
        step=0.05,
        n=4,
        method="mala",
        # Wide starts would never move: where p falls faster than a Gaussian MALA rejects all.
        buffer=ReplayBuffer(len(data), uniform, reinit=0.0),
        iterations=400,
        rate=0.3,
    )
    excess = negative_log_likelihood(theta.numpy()) - negative_log_likelihood(best.x)
    start = negative_log_likelihood(np.array([0.0, 0.0, -1.0]))
    assert 0 <= excess < 1e-3
    assert start - negative_log_likelihood(best.x) > 0.1
    np.testing.assert_allclose(theta.numpy(), best.x, atol=0.2)
