"""The Fokker–Planck equation: mass, positivity, and second order in space."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from torch import Tensor

import sdescore as ss
from sdescore.fokker_planck.solver import FokkerPlanck
from tests.helpers.densities import (
    F64,
    SMOOTH,
    Linear,
    Still,
    Wells,
    gaussian,
    l1,
    slope,
)


@pytest.mark.parametrize("steps", [1, 7, None])
def test_mass_is_kept_and_no_density_is_negative(steps: int | None) -> None:
    """From one cell, with drifts of up to 10⁴ cells per unit time and a step far beyond them."""

    class Violent(Wells):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return 300 * (x - x**3) * (1 + t)

    fp = FokkerPlanck(Violent(), ((-2.0, 2.0),), (41,))
    p0 = torch.zeros(41, dtype=F64)
    p0[15] = 17.0
    run = fp.solve(p0, times=[0.0, 1e-4, 0.1, 1.0], steps=steps, tolerance=0.03)
    assert run.density.min() >= 0
    assert (fp.mass(run.density) - 1).abs().max() <= 1e-12
    assert run.products > 4_000


def test_two_and_three_dimensions_are_products_of_one() -> None:
    """Where the axes do not know each other the density factorises, cell by cell."""
    rates, sizes = (1.0, 0.3, 2.0), ((-4.0, 4.0), (-6.0, 5.0), (-4.0, 3.0))
    cells, starts = (8, 9, 7), (0.5, -1.0, 0.2)

    def solve(axes: tuple[int, ...]) -> Tensor:
        A = tuple(tuple(-rates[a] if a == b else 0.0 for b in axes) for a in axes)
        fp = FokkerPlanck(Linear(A), tuple(sizes[a] for a in axes), tuple(cells[a] for a in axes))

        def start(x: Tensor) -> Tensor:
            return -(x - torch.tensor([starts[a] for a in axes], dtype=F64)).square().sum(1)

        run = fp.solve(start, times=[0.0, 0.4, 1.0], steps=2, max_wall_mass=1.0)
        assert run.density.shape == (3, *(cells[a] for a in axes))
        return run.density

    x, y, z = (solve((a,)) for a in range(3))
    assert torch.allclose(solve((0, 1)), x[:, :, None] * y[:, None], rtol=1e-11, atol=1e-16)
    volume = x[:, :, None, None] * y[:, None, :, None] * z[:, None, None]
    assert torch.allclose(solve((0, 1, 2)), volume, rtol=1e-11, atol=1e-16)


@pytest.mark.parametrize("name", SMOOTH)
def test_mixtures_follow_their_closed_form_with_order_two_in_space(name: str) -> None:
    sde, wall, end = SMOOTH[name]
    score = ss.MixtureScore([0.4, 0.6], [[-1.0], [1.5]], [0.2, 0.3], sde)
    errors = []
    for n in (80, 160):
        fp = FokkerPlanck(sde, ((-wall, wall + 1),), (n,))
        run = fp.solve(
            lambda x: score.log_prob(x, 0.0), times=[0.0, 0.3 * end, end], tolerance=5e-5
        )
        exact = fp.density(lambda x: score.log_prob(x, 0.3 * end))
        errors.append(l1(fp, run.density[1], exact))
        at_end = fp.density(lambda x: score.log_prob(x, end))
        assert l1(fp, run.density[2], at_end) < 0.01
    assert errors[-1] < 0.02
    # h² log 1/h for sub-VP, whose drift meets g = 0 at t = 0.
    assert slope(errors) == pytest.approx(2.0, abs=0.2 if name == "subvp" else 0.1)


def test_gaussian_moments_have_order_two_in_space() -> None:
    """VP from N(1, ¼): mean α and variance α²/4 + σ², which only the exponential fit disturbs."""
    sde, t = ss.VPSDE(), 0.4
    alpha, sigma = (v.item() for v in sde.marginal(t))
    errors = []
    for n in (50, 100, 200):
        fp = FokkerPlanck(sde, ((-7.0, 7.0),), (n,))
        run = fp.solve(gaussian(1.0, 0.25), times=[0.0, t])
        mean, covariance = fp.moments(run.density[-1])
        errors.append(
            (
                abs(mean.item() - alpha),
                abs(covariance.item() - alpha**2 / 4 - sigma**2),
            )
        )
    for kind in zip(*errors, strict=True):
        assert slope(list(kind)) == pytest.approx(2.0, abs=0.1)


def rotated(A: np.ndarray, g: float, mean: np.ndarray, C: np.ndarray, t: float):
    """Mean and covariance of dx = A x dt + g dw: Lyapunov's equation by Van Loan's block."""
    d = len(A)
    block = np.block([[-A, g**2 * np.eye(d)], [np.zeros((d, d)), A.T]])
    E = linalg.expm(block * t)
    flow = E[d:, d:].T
    return flow @ mean, flow @ C @ flow.T + flow @ E[:d, d:]


def test_rotation_in_the_plane_against_exact_moments() -> None:
    """A drift that is no gradient: order two in space, and the sense of the rotation."""
    A, mean, C = np.array([[-0.6, -1.5], [1.5, -0.9]]), np.array([1.0, 0.3]), np.diag([0.4, 0.6])
    sde, t = Linear(tuple(map(tuple, A)), g=1.2), 0.8
    m, V = rotated(A, 1.2, mean, C, t)
    errors = []
    for n in (32, 64):
        fp = FokkerPlanck(sde, ((-6.5, 6.5), (-7.0, 7.0)), (n, n + 2))
        distribution = stats.multivariate_normal(mean, C)
        run = fp.solve(
            lambda x, distribution=distribution: torch.from_numpy(distribution.logpdf(x.numpy())),
            times=[0.0, t],
        )
        got_mean, got_C = fp.moments(run.density)
        assert torch.allclose(got_C[0], torch.from_numpy(C), atol=1e-4)
        exact = fp.density(
            lambda x: torch.from_numpy(stats.multivariate_normal(m, V).logpdf(x.numpy()))
        )
        errors.append(
            [
                np.abs(got_mean[1].numpy() - m).max(),
                np.abs(got_C[1].numpy() - V).max(),
                l1(fp, run.density[1], exact),
            ]
        )
        assert run.time_error[-1] < 1e-12  # Q does not depend on time
    for kind in zip(*errors, strict=True):
        assert kind[-1] < 0.04
        assert slope(list(kind)) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("walls", [(-1.0, 1.0), (0.0, 3.0)])
def test_the_walls_reflect(walls: tuple[float, float]) -> None:
    """Heat in a box with closed walls: each cosine of the start decays on its own."""
    low, high = walls
    length, g, t = high - low, 0.7, 0.5

    def density(x: Tensor, t: float) -> Tensor:
        u = math.pi * (x - low) / length
        modes = sum(
            c * torch.cos(k * u) * math.exp(-0.5 * (k * math.pi * g / length) ** 2 * t)
            for k, c in ((1, 0.6), (3, -0.3))
        )
        return (1 + modes) / length

    errors = []
    for n in (20, 40, 80):
        fp = FokkerPlanck(Still(g=g), (walls,), (n,))
        x = fp.centres[:, 0]
        run = fp.solve(density(x, 0.0), times=[0.0, t], max_wall_mass=1.0)
        errors.append(l1(fp, run.density[1], density(x, t)))
        at_wall = density(x, 0.0)[[0, -1]].sum().item() * length / n
        assert run.wall_mass[0].item() == pytest.approx(at_wall, rel=1e-12)
        assert run.wall_mass[1] >= run.wall_mass[0]
    assert slope(errors) == pytest.approx(2.0, abs=0.05)
