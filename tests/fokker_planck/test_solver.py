"""The Fokker–Planck solver against closed forms, quadrature, matrix exponentials and simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, linalg, stats
from torch import Tensor

import sdescore as ss
from sdescore.fokker_planck.box import Box
from sdescore.fokker_planck.evolve import adaptive
from sdescore.fokker_planck.generator import bernoulli, chain_generator, jump_rates
from sdescore.fokker_planck.solver import FokkerPlanck
from sdescore.fokker_planck.uniformisation import poisson_mixture, poisson_weights, uniformise
from sdescore.sde.langevin import LangevinSDE
from tests.helpers.callers import SETTINGS
from tests.helpers.strategies import log_uniform

F64 = torch.float64
ALPHA = 1e-6  # false-positive rate of each statistical test


@dataclass(frozen=True)
class Wells(ss.SDE):
    """``dx = (x − x³ + sin 3t) dt + (½ + t/2) dw``, non-linear, both rates depending on time."""

    T: float = 1.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return x - x**3 + math.sin(3 * float(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return 0.5 + 0.5 * t


@dataclass(frozen=True)
class Linear(ss.SDE):
    """``dx = A x dt + g dw`` with any matrix A."""

    A: tuple[tuple[float, ...], ...]
    g: float = 1.0
    T: float = 2.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return x @ torch.tensor(self.A, dtype=x.dtype).T

    def diffusion(self, t: Tensor) -> float:  # a plain number will do
        return self.g


@dataclass(frozen=True)
class Still(Linear):
    """Pure diffusion."""

    A: tuple[tuple[float, ...], ...] = ()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)


def l1(fp: FokkerPlanck, p: Tensor, q: Tensor) -> float:
    return fp.mass((p - q).abs()).item()


def slope(errors: list[float]) -> float:
    """Order, from errors at 1, 2, 4, … times the resolution: the finest pair's."""
    return math.log2(errors[-2] / errors[-1])


def gaussian(mean: float, variance: float):
    return lambda x: -((x[:, 0] - mean) ** 2) / (2 * variance)


# The chain: rates, generator, uniformisation.


def test_bernoulli_is_z_over_expm1() -> None:
    for z in (1e-300, 1e-17, 1e-8, 1e-3, 0.5, 1.0, 30.0, 650.0):
        exact = mpmath.mpf(z) / mpmath.expm1(mpmath.mpf(z))
        assert bernoulli(np.array([z]))[0] == pytest.approx(float(exact), rel=1e-14)
    with np.errstate(all="raise"):
        limits = bernoulli(np.array([0.0, 1e5, np.inf]))
    assert limits[0] == 1
    assert (limits[1:] < 1e-300).all()


@given(
    b=st.one_of(st.floats(-1e3, 1e3), st.just(0.0)),
    D=log_uniform(1e-3, 1e3),
    h=log_uniform(1e-3, 10.0),
)
def test_jump_rates_are_the_fitted_fluxes(b: float, D: float, h: float) -> None:
    """J of the constant-flux problem b p − D p' = J from its exact solution, in mpmath."""
    along, against = (r[0] for r in jump_rates(np.array([b]), D, h))
    with mpmath.workdps(60):
        B, d, w = mpmath.mpf(b), mpmath.mpf(D), mpmath.mpf(h)
        P = B * w / d
        # p(0) = 1, p(h) = 0 gives the rate along, divided by the cell's width.
        exact = d / w**2 if P == 0 else B / w / -mpmath.expm1(-P)
        back = d / w**2 if P == 0 else B / w / mpmath.expm1(P)
    assert along == pytest.approx(float(exact), rel=1e-11)
    assert against == pytest.approx(float(back), rel=1e-11, abs=1e-290)


def test_without_noise_the_rates_are_upwind() -> None:
    b = np.array([3.0, -2.0, 0.0])
    for tiny in (0.0, 5e-324, 1e-200):
        along, against = jump_rates(b, tiny, 0.5)
        np.testing.assert_allclose(along, [6, 0, 0], atol=1e-190)
        np.testing.assert_allclose(against, [0, 4, 0], atol=1e-190)


@given(
    cells=st.lists(st.integers(3, 6), min_size=1, max_size=3),
    D=st.one_of(st.just(0.0), log_uniform(1e-4, 1e2)),
    scale=log_uniform(1e-3, 1e5),
    seed=st.integers(0, 2**31),
)
def test_generator_has_non_negative_rates_and_zero_column_sums(
    cells: list[int], D: float, scale: float, seed: int
) -> None:
    box = Box(tuple((-1.0, 1.0 + a) for a in range(len(cells))), tuple(cells))
    rng = np.random.default_rng(seed)
    drift = [scale * rng.standard_normal(len(box.faces(a))) for a in range(len(cells))]
    Q = chain_generator(box, drift, D).toarray()
    off = Q - np.diag(np.diag(Q))
    assert (off >= 0).all()
    assert np.abs(Q.sum(0)).max() <= 1e-14 * np.abs(Q).max()
    # It couples neighbours along an axis and nothing else.
    number = np.stack(np.unravel_index(np.arange(len(Q)), cells))
    apart = np.abs(number[:, :, None] - number[:, None, :]).sum(0)
    assert not off[apart != 1].any()
    if 0.1 * scale < D:
        assert (off[apart == 1] > 0).all()
    q, P = uniformise(chain_generator(box, drift, D))
    assert (P.toarray() >= 0).all()
    np.testing.assert_allclose(q * (P.toarray() - np.eye(len(Q))), Q, atol=1e-13 * q)


@pytest.mark.parametrize("m", [1e-12, 0.3, 1.0, 7.5, 300.0, 2.5e4, 1e6])
def test_poisson_weights(m: float) -> None:
    """mpmath's probabilities; what is left out is below 1e-15 and the sum is 1 all the same."""
    first, weights = poisson_weights(m)
    last = first + len(weights) - 1
    assert abs(weights.sum() - 1) <= 1e-15 * 5
    with mpmath.workdps(40):
        for k in {first, math.floor(m), math.floor(m + math.sqrt(m)), last}:
            exact = mpmath.exp(k * mpmath.log(m) - m - mpmath.loggamma(k + 1))
            assert weights[k - first] == pytest.approx(float(exact), rel=1e-10)
    outside = stats.poisson.sf(last, m) + (stats.poisson.cdf(first - 1, m) if first else 0.0)
    assert outside < 1e-15
    assert len(weights) < 30 + 18 * math.sqrt(m)  # no more than ±9 standard deviations
    if m < 1:
        assert len(weights) < 20  # a step of few jumps is cheap


def test_poisson_weights_without_jumps() -> None:
    assert poisson_weights(0.0) == (0, np.ones(1))


@pytest.mark.parametrize("duration", [0.0, 0.01, 0.7, 40.0])
def test_uniformisation_is_the_matrix_exponential(duration: float) -> None:
    box = Box(((-1.0, 1.0), (0.0, 3.0)), (4, 5))
    rng = np.random.default_rng(0)
    Q = chain_generator(box, [3 * rng.standard_normal(len(box.faces(a))) for a in (0, 1)], 0.2)
    p = rng.random(20)
    q, P = uniformise(Q)
    got = poisson_mixture(P, *poisson_weights(q * duration), p)
    np.testing.assert_allclose(got, linalg.expm(duration * Q.toarray()) @ p, rtol=1e-11)


def test_a_chain_that_hardly_moves() -> None:
    """1/q overflows."""
    q, P = uniformise(chain_generator(Box(((0.0, 3.0),), (3,)), [np.full(2, 1e-310)], 0.0))
    assert q == 1e-310
    np.testing.assert_array_equal(P.toarray(), [[0, 0, 0], [1, 0, 0], [0, 1, 1]])


def test_a_chain_at_rest() -> None:
    q, P = uniformise(chain_generator(Box(((0.0, 1.0),), (4,)), [np.zeros(3)], 0.0))
    assert q == 0
    np.testing.assert_array_equal(P.toarray(), np.eye(4))


def test_the_boxs_geometry() -> None:
    box = Box(((0.0, 3.0), (-1.0, 1.0)), (3, 4))
    assert box.widths == (1.0, 0.5)
    assert box.volume == 0.5
    assert box.centres.shape == (3, 4, 2)
    assert box.centres[2, 1].tolist() == [2.5, -0.25]
    assert torch.equal(box.faces(0)[:5, 0], torch.tensor([1.0, 1, 1, 1, 2], dtype=F64))
    assert torch.equal(box.faces(1)[:4, 1], torch.tensor([-0.5, 0, 0.5, -0.5], dtype=F64))
    points = box.centres.flatten(0, -2)
    for axis in (0, 1):
        before, behind = box.sides(axis)
        step = points[behind] - points[before]
        assert torch.allclose((points[before] + points[behind]) / 2, box.faces(axis))
        assert torch.allclose(step[:, axis], torch.tensor(box.widths[axis], dtype=F64))
        assert not step[:, 1 - axis].any()
    assert box.outermost.tolist() == [[True] * 4, [True, False, False, True], [True] * 4]


# Mass and positivity.


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


# Second order in space.

SMOOTH = {
    "vp": (ss.VPSDE(), 7.0, 1.0),
    "subvp": (ss.SubVPSDE(), 7.0, 1.0),
    "ve": (ss.VESDE(sigma_min=0.3, sigma_max=2.0), 13.0, 1.0),
    "edm": (ss.EDMSDE(sigma_min=0.01, sigma_max=1.5), 10.0, 1.0),
}


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


def rotation_law(A: np.ndarray, g: float, mean: np.ndarray, C: np.ndarray, t: float):
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
    m, V = rotation_law(A, 1.2, mean, C, t)
    errors = []
    for n in (32, 64):
        fp = FokkerPlanck(sde, ((-6.5, 6.5), (-7.0, 7.0)), (n, n + 2))
        law = stats.multivariate_normal(mean, C)
        run = fp.solve(lambda x, law=law: torch.from_numpy(law.logpdf(x.numpy())), times=[0.0, t])
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


# Second order in time.


@pytest.mark.parametrize(
    "sde", [ss.SubVPSDE(beta_min=1.0, beta_max=5.0), Wells()], ids=["subvp", "wells"]
)
def test_order_two_in_time(sde: ss.SDE) -> None:
    """On the same cells, where Q(s) and Q(t) do not commute, against many steps."""
    fp = FokkerPlanck(sde, ((-6.0, 6.0),), (50,))

    def run(steps: int) -> Tensor:
        return fp.solve(gaussian(1.0, 0.3), times=[0.0, 0.9], steps=steps).density[1]

    fine = run(256)
    errors = [l1(fp, run(n), fine) for n in (4, 8, 16)]
    assert slope(errors) == pytest.approx(2.0, abs=0.1)


def test_order_two_in_time_against_the_closed_form() -> None:
    """VE: on any cells the chain's variance grows by ∫g² exactly, so all error is the clock's."""
    sde = ss.VESDE(sigma_min=0.2, sigma_max=2.0)
    fp = FokkerPlanck(sde, ((-14.0, 14.0),), (70,))
    errors = []
    for steps in (4, 8, 16, 32):
        run = fp.solve(gaussian(0.0, 0.5), times=[0.0, 1.0], steps=steps)
        first, last = fp.moments(run.density)[1].flatten().tolist()
        errors.append(abs(last - first - (2.0**2 - 0.2**2)))
    assert slope(errors) == pytest.approx(2.0, abs=0.05)
    assert errors[-1] < 1e-2


@pytest.mark.parametrize("sde", [ss.SubVPSDE(), Wells(), SMOOTH["ve"][0]], ids=repr)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_the_tolerance_is_kept_and_the_estimate_is_true(sde: ss.SDE, tolerance: float) -> None:
    fp = FokkerPlanck(sde, ((-13.0, 13.0),), (60,))
    times = [0.0, 0.1, 0.5, 1.0]
    run = fp.solve(gaussian(1.0, 0.3), times=times, tolerance=tolerance)
    fine = fp.solve(gaussian(1.0, 0.3), times=times, steps=100)
    assert fine.time_error is None
    assert run.time_error[0] == 0
    for n in (1, 2, 3):
        error = l1(fp, run.density[n], fine.density[n])
        assert error <= 1.2 * run.time_error[n] <= 1.2 * tolerance * times[n] * 1.001
        assert run.time_error[n] > run.time_error[n - 1]
    assert run.time_error[3] > 0.02 * tolerance  # and no work is wasted on more than was asked
    if tolerance == 1e-2:
        finer = fp.solve(gaussian(1.0, 0.3), times=times, tolerance=1e-4)
        assert run.products < finer.products


def test_the_tolerance_is_that_of_the_whole_time() -> None:
    fp = FokkerPlanck(Wells(T=5.0), ((-7.0, 7.0),), (40,))
    run = fp.solve(gaussian(1.0, 0.3), times=[0.0, 2.0, 4.0], tolerance=1e-2, max_wall_mass=1e-3)
    assert 2e-4 < run.time_error[2] <= 1e-2
    assert run.time_error[1] <= 0.5e-2


def test_a_time_free_equation_is_exact_in_few_steps() -> None:
    fp = FokkerPlanck(LangevinSDE(torch.neg), ((-7.0, 7.0),), (300,))
    start = gaussian(1.0, 0.3)
    run = fp.solve(start, times=[0.0, 5.0])
    one = fp.solve(start, times=[0.0, 5.0], steps=1)
    assert run.time_error[1] < 1e-11
    assert l1(fp, run.density[1], one.density[1]) < 1e-12
    assert run.products < 4 * one.products  # a whole step, two halves, and their margins


class Switched(Still):
    """Heat that is switched off at t = 0.4."""

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.where(t < 0.4, 1.0, 0.0)


def test_a_jump_of_the_coefficients_in_time() -> None:
    """Exact among the times; otherwise found where a step sees it, and passed in few steps."""
    fp = FokkerPlanck(Switched(), ((-8.0, 8.0),), (90,))
    run = fp.solve(gaussian(0.0, 0.2), times=[0.0, 0.4, 1.0])
    first, _, last = fp.moments(run.density)[1].flatten().tolist()
    assert last - first == pytest.approx(0.4, abs=1e-12)
    assert run.time_error[2] < 1e-12
    rough = fp.solve(gaussian(0.0, 0.2), times=[0.0, 1.0], tolerance=1e-10)
    assert rough.products < 5_000
    # Unseen at worst in the last quarter of one step and the first of the next.
    first, last = fp.moments(rough.density)[1].flatten().tolist()
    assert last - first == pytest.approx(0.4, abs=2 / 64)


def test_steps_grow_up_to_the_longest_and_are_not_cut_for_good_by_an_output_time() -> None:
    """One matrix for all times: whole and halves agree, so steps only grow."""
    asked: list[float] = []

    def step(p: np.ndarray, t: float, h: float) -> np.ndarray:
        asked.append(h)
        return p

    def watch(p: np.ndarray, t: float) -> None:
        ends.append(t)

    ends: list[float] = []
    p, error, h = adaptive(step, np.ones(2), 0.0, 1.0, 0.1, 0.4, 1e-6, watch)
    assert asked[::3] == pytest.approx([0.1, 0.4, 0.4, 0.1])
    assert ends == pytest.approx([0.1, 0.5, 0.9, 1.0])
    assert ends[-1] == 1.0
    assert error == 0
    _, _, h = adaptive(step, p, 1.0, 1.01, h, 0.4, 1e-6, watch)
    assert h == 0.4
    ends.clear()
    adaptive(step, p, 1.0, 0.2, 0.3, 0.3, 1e-6, watch)
    assert ends == pytest.approx([0.7, 0.4, 0.2])
    assert ends[-1] == 0.2


def test_a_step_that_errs_too_much_is_taken_again() -> None:
    """dp/dt = 3t² p on one cell, by the midpoint rule, whose error h³/4 is known."""
    tolerance = 1e-4

    calls = 0

    def step(p: np.ndarray, t: float, h: float) -> np.ndarray:
        nonlocal calls
        calls += 1
        return p + 3 * (t + h / 2) ** 2 * h

    taken = [0.0]
    p, error, _ = adaptive(
        step, np.zeros(1), 0.0, 1.0, 1.0, 1.0, tolerance, lambda p, t: taken.append(t)
    )
    sizes = np.diff(taken)
    assert calls < 3 * (len(sizes) + 4)  # few are taken in vain
    exact = (sizes**3).sum() / 16  # two halves each: 2 (h/2)³/4
    assert 1 - p[0] == pytest.approx(exact, rel=1e-9)
    assert error == pytest.approx(exact, rel=1e-9)
    assert error <= tolerance
    best = math.sqrt(16 * tolerance)  # the step that spends it all
    assert sizes[2:-1] == pytest.approx(0.9 * best, rel=1e-6)


def test_rounding_is_no_reason_for_shorter_steps() -> None:
    seen: list[float] = []
    adaptive(
        lambda p, t, h: p + 1e-14,
        np.ones(1),
        0.0,
        1.0,
        0.25,
        0.25,
        1e-16,
        lambda p, t: seen.append(t),
    )
    assert seen == [0.25, 0.5, 0.75, 1.0]


def test_the_last_step_ends_on_the_time_asked_for() -> None:
    """t + (end − t) is not always end."""
    rng = np.random.default_rng(0)
    inexact, seen = 0, []
    for start, end in rng.lognormal(0, 5, (500, 2)).tolist():
        seen.clear()
        adaptive(
            lambda p, t, h: p, np.ones(1), start, end, 1e9, 1e9, 1.0, lambda p, t: seen.append(t)
        )
        assert seen == [end]
        inexact += start + (end - start) != end
    assert inexact > 10


def test_the_shortest_step_is_taken_as_it_is() -> None:
    """Whole and halves never agree: no step is good enough, and none is taken for ever."""

    def step(p: np.ndarray, t: float, h: float) -> np.ndarray:
        return p + 1.0

    seen: list[float] = []
    _, error, _ = adaptive(
        step, np.zeros(1), 7.0, 7.0 + 1e-11, 1e-11, 1.0, 1.0, lambda p, t: seen.append(t)
    )
    assert 1 < len(seen) < 100
    assert error == pytest.approx(len(seen) / 3)


def test_coefficients_are_asked_for_between_the_times_only() -> None:
    seen: list[float] = []

    class Watched(Wells):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            assert x.dtype == F64
            assert x.shape == (29, 1)
            assert not torch.is_grad_enabled()
            seen.append(t.item())
            return super().drift(x, t)

    fp = FokkerPlanck(Watched(), ((-4.0, 4.0),), (30,))
    fp.solve(gaussian(0.0, 0.2), times=[0.2, 0.6, 1.0], steps=2, max_wall_mass=1e-3)
    assert seen == pytest.approx([0.3, 0.5, 0.7, 0.9])
    assert fp.solve(gaussian(0.0, 0.2), times=torch.tensor([0.2, 0.6]), steps=1).times.dtype == F64


# Stationary distributions.


def double_well(x: Tensor) -> Tensor:
    return x - x**3


@pytest.mark.parametrize("temperature", [1.0, 0.25, 0.05])
def test_the_double_well_settles_in_boltzmanns_distribution(temperature: float) -> None:
    """Against quadrature of e^{-U/ϑ}, U = x⁴/4 − x²/2, with order two."""
    fp_sde = LangevinSDE(double_well, temperature=temperature, T=60.0)
    fine = np.linspace(-4, 4, 8001)
    boltzmann = np.exp((fine**2 / 2 - fine**4 / 4 - 0.25) / temperature)
    Z = integrate.simpson(boltzmann, x=fine)
    second = integrate.simpson(fine**2 * boltzmann, x=fine) / Z
    errors, moments = [], []
    for n in (100, 200):
        fp = FokkerPlanck(fp_sde, ((-3.5, 3.5),), (n,))
        x = fp.centres[:, 0]
        exact = torch.exp((x**2 / 2 - x**4 / 4 - 0.25) / temperature) / Z
        p = fp.stationary()
        assert p.min() >= 0
        assert fp.mass(p).item() == pytest.approx(1.0, abs=1e-12)
        errors.append(l1(fp, p, exact))
        moments.append(abs(fp.moments(p)[1].item() - second))
        # Cell by cell, into the tails: the error of log p is that of U/ϑ by the midpoint rule.
        assert (p / exact).log().abs()[exact > 1e-100].max() < 150 / n**2 / temperature
    assert slope(errors) == pytest.approx(2.0, abs=0.1)
    assert slope(moments) == pytest.approx(2.0, abs=0.1)
    if temperature == 1.0:
        run = fp.solve(gaussian(-1.0, 0.1), times=[0.0, 60.0], steps=1)
        assert l1(fp, run.density[1], p) < 1e-10


def test_stationary_distribution_of_a_rotation() -> None:
    """A C + C Aᵀ + g² I = 0 (SciPy's Lyapunov solver); the flux does not vanish here."""
    A = np.array([[-1.0, -1.0], [1.4, -0.5]])
    C = linalg.solve_continuous_lyapunov(A, -0.49 * np.eye(2))
    errors = []
    for n in (20, 40):
        fp = FokkerPlanck(Linear(tuple(map(tuple, A)), g=0.7), ((-4.0, 4.0), (-4.5, 4.5)), (n, n))
        p = fp.stationary()
        mean, covariance = fp.moments(p)
        assert p.min() >= 0
        assert mean.abs().max() < 1e-10
        errors.append(np.abs(covariance.numpy() - C).max())
        flow = fp.generator(0.0) @ p.flatten().numpy()
        assert np.abs(flow).max() < 1e-12
    assert errors[-1] < 0.02
    assert slope(errors) == pytest.approx(2.0, abs=0.2)


def test_the_stationary_distribution_is_that_of_the_time_asked_for() -> None:
    sde = ss.SubVPSDE()  # frozen at t: N(0, g²/β), β = −2f
    fp = FokkerPlanck(sde, ((-7.0, 7.0),), (140,))
    for t in (0.1, 0.6):
        f, g2 = (v.item() for v in sde.rates(t))
        variance = fp.moments(fp.stationary(t))[1].item()
        assert variance == pytest.approx(-g2 / (2 * f), rel=0.01 / -math.expm1(-5 * t))


@pytest.mark.parametrize("tilt", [0.0, 0.05])
def test_a_stationary_distribution_is_right_or_refused(tilt: float) -> None:
    """Barriers up to e^250: the distribution by detailed balance, in logs, from the rates'
    ratios."""
    given = []
    for temperature in (0.1, 0.05, 0.02, 0.01, 0.005, 0.003, 0.001):
        well = LangevinSDE(lambda x: double_well(x) + tilt, temperature=temperature)
        for n in (60, 101):
            fp = FokkerPlanck(well, ((-2.0, 2.0),), (n,))
            Q = fp.generator(0.0).toarray()
            ratios = np.log(np.diag(Q, -1)) - np.log(np.diag(Q, 1))
            log_law = np.concatenate([[0.0], np.cumsum(ratios)])
            try:
                p = fp.stationary()
            except ss.errors.IncompatibleError:
                assert temperature < 0.015
                continue
            given.append(temperature)
            law = torch.from_numpy(np.exp(log_law - log_law.max()))
            assert l1(fp, p, law / fp.mass(law)) < 1e-8
    assert len(given) < 14
    assert min(given) <= 0.02


def test_wells_that_nothing_connects_have_no_one_distribution() -> None:
    cold = LangevinSDE(double_well, temperature=0.0)
    with pytest.raises(ss.errors.IncompatibleError, match="one stationary density"):
        FokkerPlanck(cold, ((-2.0, 2.0),), (40,)).stationary()


# Against simulation.


def assert_histogram(fp: FokkerPlanck, p: Tensor, x: Tensor, bins: int = 30) -> None:
    """χ² at α = 1e-6 in bins of whole cells, about equally likely."""
    mass = (p * fp.mass(torch.ones_like(p)) / p.numel()).numpy()
    (low, high), cumulative = fp.bounds[0], np.concatenate([[0], np.cumsum(mass)])
    cuts = np.unique(np.searchsorted(cumulative, np.arange(1, bins) / bins))
    edges = low + (high - low) / len(mass) * cuts
    counts = np.bincount(np.searchsorted(edges, x.flatten().numpy()), minlength=len(cuts) + 1)
    expected = np.diff(np.concatenate([[0], cumulative[cuts], [1]])) * len(x)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < stats.chi2.isf(ALPHA, len(cuts)), chi2
    assert len(cuts) > 0.8 * bins


def test_agrees_with_simulation_of_a_linear_sde() -> None:
    sde = ss.SubVPSDE(beta_max=8.0)
    score = ss.MixtureScore([0.3, 0.7], [[-1.5], [1.0]], [0.1, 0.2], sde)
    x = ss.simulate(sde, score.sample(20_000, dtype=F64), steps=20, end=0.4, method="exact", seed=1)
    fp = FokkerPlanck(sde, ((-6.0, 6.0),), (400,))
    run = fp.solve(lambda x: score.log_prob(x, 0.0), times=[0.0, 0.4])
    assert_histogram(fp, run.density[1], x)


def test_agrees_with_simulation_of_a_users_sde() -> None:
    """Euler–Maruyama's bias at h = 1/300 adds less than 1 to χ²."""
    start = -0.5 + 0.3 * torch.randn(20_000, 1, dtype=F64)
    x = ss.simulate(Wells(), start, steps=300, seed=3)
    fp = FokkerPlanck(Wells(), ((-5.0, 5.0),), (300,))
    run = fp.solve(gaussian(-0.5, 0.09), times=[0.0, 1.0])
    assert_histogram(fp, run.density[1], x)


def test_agrees_with_simulation_of_langevins_equation_at_a_temperature() -> None:
    """A tilted double well, at a temperature and a time far from stationary."""
    sde = LangevinSDE(lambda x: double_well(x) + 0.2, temperature=0.3, T=2.0)
    x = ss.simulate(sde, torch.full((20_000,), -1.0, dtype=F64), steps=500, seed=5)
    fp = FokkerPlanck(sde, ((-3.5, 3.5),), (350,))
    p0 = torch.zeros(350)
    p0[124:126] = 0.5  # the cells on both sides of −1
    assert_histogram(fp, fp.solve(p0, times=[0.0, 2.0]).density[1], x)


# Reversal.


@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_the_reverse_sde_brings_noise_back_to_data(name: str, eta: float) -> None:
    sde, wall, _ = SMOOTH[name]
    score = ss.MixtureScore([0.4, 0.6], [[-1.0], [1.5]], [0.2, 0.3], sde)
    reverse = sde.reverse(score, eta)
    errors = []
    for n in (100, 200):
        fp = FokkerPlanck(reverse, ((-wall, wall + 1),), (n,))
        assert fp.backward
        run = fp.solve(lambda x: score.log_prob(x, 1.0), times=[1.0, 0.5, 0.0], tolerance=1e-3)
        data = fp.density(lambda x: score.log_prob(x, 0.0))
        errors.append(l1(fp, run.density[2], data))
        between = fp.density(lambda x: score.log_prob(x, 0.5))
        assert l1(fp, run.density[1], between) < 0.05
        assert l1(fp, run.density[0], data) > 0.5
    assert errors[-1] < 0.05
    assert slope(errors) > 1.7


def test_the_probability_flow_is_upwind_and_of_order_one() -> None:
    sde = ss.VPSDE(beta_max=3.0)
    score = ss.GaussianScore([0.5], 0.5, sde)
    errors = []
    for n in (100, 200, 400):
        fp = FokkerPlanck(sde.reverse(score, 0.0), ((-6.0, 6.0),), (n,))
        run = fp.solve(lambda x: score.log_prob(x, 1.0), times=[1.0, 0.0], tolerance=1e-3)
        assert run.density.min() >= 0
        errors.append(l1(fp, run.density[1], fp.density(lambda x: score.log_prob(x, 0.0))))
    assert slope(errors) == pytest.approx(1.0, abs=0.15)


def test_the_probability_flow_runs_up_as_well() -> None:
    sde = ss.VPSDE(beta_max=3.0)
    score = ss.GaussianScore([0.5], 0.5, sde)
    errors = []
    for n in (100, 200, 400):
        fp = FokkerPlanck(sde.reverse(score, 0.0), ((-6.0, 6.0),), (n,))
        run = fp.solve(lambda x: score.log_prob(x, 0.0), times=[0.0, 1.0], tolerance=1e-3)
        errors.append(l1(fp, run.density[1], fp.density(lambda x: score.log_prob(x, 1.0))))
    assert errors[-1] < 0.05
    assert slope(errors) == pytest.approx(1.0, abs=0.15)


def test_a_users_reversal_says_so_itself() -> None:
    """−x is stationary for a forward Ornstein–Uhlenbeck drift, +x for a backward one."""

    class Back(Still):
        backward = True

        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return x

    fp = FokkerPlanck(Back(g=2**0.5), ((-6.0, 6.0),), (120,))
    assert fp.backward
    law = fp.solve(gaussian(0.0, 1.0), times=[2.0, 0.0]).density
    assert l1(fp, *law) < 1e-3 and l1(fp, law[0], fp.stationary()) < 1e-3
    with pytest.raises(ss.errors.TimeError, match="falling"):
        fp.solve(gaussian(0.0, 1.0), times=[0.0, 2.0])


# The reports and the door.


def test_a_box_that_is_too_small_is_refused() -> None:
    fp = FokkerPlanck(ss.VPSDE(), ((-2.0, 2.0),), (40,))
    with pytest.raises(ss.errors.ParameterError, match="widen the bounds"):
        fp.solve(gaussian(0.0, 0.01), times=[0.0, 1.0])
    free = fp.solve(gaussian(0.0, 0.01), times=[0.0, 0.1, 1.0], max_wall_mass=1.0)
    walls = free.wall_mass.tolist()
    assert walls == sorted(walls)
    edge = free.density[2][[0, -1]].sum().item() * 0.1
    assert walls[-1] == pytest.approx(edge, rel=1e-12)  # the widest is the last
    assert walls[0] < 1e-20
    limit = walls[-1]
    assert fp.solve(gaussian(0.0, 0.01), times=[0.0, 0.1, 1.0], max_wall_mass=limit).products
    with pytest.raises(ss.errors.ParameterError):
        fp.solve(gaussian(0.0, 0.01), times=[0.0, 1.0], max_wall_mass=0.9 * limit)


def test_the_wall_is_watched_between_the_times_and_at_the_start() -> None:
    """A bump that swings to the wall and back, and one that begins there."""

    class Swinging(Still):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.full_like(x, 2 * math.pi * math.cos(2 * math.pi * float(t)))

    fp = FokkerPlanck(Swinging(g=0.1), ((-1.5, 1.5),), (90,))
    start = gaussian(0.0, 0.01)
    for steps in (None, 10):
        with pytest.raises(ss.errors.ParameterError, match="at t = 0"):
            fp.solve(start, times=[0.0, 1.0], steps=steps)
    with pytest.raises(ss.errors.ParameterError, match="at t = 0;"):
        fp.solve(gaussian(1.5, 0.01), times=[0.0, 0.1])
    with pytest.raises(ss.errors.ParameterError, match=r"at t = 0\.25;"):
        fp.solve(start, times=[0.0, 1.0], steps=4)
    run = fp.solve(start, times=[0.0, 1.0], steps=10, max_wall_mass=1.0)
    at_end = run.density[1][[0, -1]].sum().item() * 3 / 90
    assert run.wall_mass[1].item() > 1.5 * at_end


def test_too_much_work_is_refused_before_it_is_done() -> None:
    fp = FokkerPlanck(ss.VPSDE(), ((-6.0, 6.0),), (300,))
    with pytest.raises(ss.errors.DivergenceError, match="max_products = 1000") as caught:
        fp.solve(gaussian(0.0, 1.0), times=[0.0, 1.0], max_products=1000)
    assert 0 <= caught.value.t < 1
    fast = Linear(((-1e300,),))
    with pytest.raises(ss.errors.DivergenceError, match="max_products"):
        FokkerPlanck(fast, ((-1.0, 1.0),), (10,)).solve(gaussian(0.0, 0.01), times=[0.0, 1.0])
    run = fp.solve(gaussian(0.0, 1.0), times=[0.0, 0.1], steps=1)
    again = fp.solve(gaussian(0.0, 1.0), times=[0.0, 0.1], steps=1, max_products=run.products)
    assert again.products == run.products
    q = abs(fp.generator(0.05).diagonal()).max()
    assert run.products == pytest.approx(0.1 * q + 9 * math.sqrt(0.1 * q), rel=0.1)


def test_moments_and_mass_of_a_density() -> None:
    fp = FokkerPlanck(Linear(((0.0, 0.0), (0.0, 0.0))), ((0.0, 3.0), (0.0, 4.0)), (3, 4))
    p = torch.zeros(2, 3, 4, dtype=F64)
    p[0, 1, 2] = 5.0
    p[1, 0, 0], p[1, 2, 3] = 1.0, 3.0
    assert fp.mass(p).tolist() == [5.0, 4.0]
    mean, covariance = fp.moments(p)
    assert torch.equal(mean, torch.tensor([[1.5, 2.5], [2.0, 2.75]], dtype=F64))
    expected = 0.25 * 0.75 * torch.tensor([[4.0, 6.0], [6.0, 9.0]], dtype=F64)
    assert torch.allclose(covariance[1], expected)
    assert not covariance[0].any()
    centres = fp.centres
    centres.zero_()
    assert fp.centres[0, 0].tolist() == [0.5, 0.5]


def test_a_start_is_normalised_whatever_its_form() -> None:
    fp = FokkerPlanck(Wells(), ((-4.0, 4.0),), (50,))
    x = fp.centres[:, 0]
    log_density = gaussian(0.0, 0.1)
    expected = torch.exp(-5 * x**2) / (torch.exp(-5 * x**2).sum() * 8 / 50)
    for start in (
        log_density,
        lambda x: log_density(x) + 1e4,
        lambda x: log_density(x).float(),
        7.0 * torch.exp(-5 * x**2),
    ):
        got = fp.solve(start, times=[0.0, 1e-9], steps=1).density[0]
        assert torch.allclose(got, expected, rtol=1e-5)
    scale = torch.tensor(0.1, requires_grad=True)
    p = fp.density(lambda x: (gaussian(0.0, scale)(x)).float())
    assert p.dtype == F64
    assert not p.requires_grad
    half = fp.density(lambda x: torch.where(x[:, 0] > 0, 0.0, -math.inf))
    assert torch.equal(half, torch.where(x > 0, 0.25, 0.0).double())


def broken(name: str, value: object) -> ss.SDE:
    """:class:`Wells` with one method replaced."""
    return type("Broken", (Wells,), {name: lambda self, *_: value})()


FINE = {"times": [0.0, 0.5]}
P0 = torch.ones(10)
BAD_SOLVES = [
    (ss.errors.ParameterError, FINE | {"steps": 0}),
    (ss.errors.ParameterError, FINE | {"steps": True}),
    (ss.errors.ParameterError, FINE | {"steps": 2.0}),
    (ss.errors.ParameterError, FINE | {"tolerance": 0.0}),
    (ss.errors.ParameterError, FINE | {"tolerance": 1.0}),
    (ss.errors.ParameterError, FINE | {"tolerance": math.nan}),
    (ss.errors.ParameterError, FINE | {"max_wall_mass": 0.0}),
    (ss.errors.ParameterError, FINE | {"max_wall_mass": 1.1}),
    (ss.errors.ParameterError, FINE | {"max_products": 0}),
    (ss.errors.ParameterError, FINE | {"max_products": 1e6}),
    (ss.errors.ScheduleError, {"times": [0.0]}),
    (ss.errors.ScheduleError, {"times": 0.5}),
    (ss.errors.ScheduleError, {"times": "ab"}),
    (ss.errors.ScheduleError, {"times": ["a", 1.0]}),
    (ss.errors.TimeError, {"times": [0.0, 0.5, 0.5]}),
    (ss.errors.TimeError, {"times": [0.5, 0.0]}),
    (ss.errors.TimeError, {"times": [0.0, 1.5]}),
    (ss.errors.TimeError, {"times": [-0.1, 0.5]}),
    (ss.errors.ScheduleError, {"times": [0.0, math.nan]}),
    (ss.errors.TimeError, FINE | {"sde": ss.VPSDE().reverse(lambda x, t: -x)}),
    (ss.errors.ShapeError, FINE | {"p0": P0[:9]}),
    (ss.errors.ShapeError, FINE | {"p0": P0[:, None]}),
    (ss.errors.ShapeError, FINE | {"p0": None}),
    (ss.errors.ShapeError, FINE | {"p0": [1.0] * 10}),
    (ss.errors.ShapeError, FINE | {"p0": lambda x: x}),
    (ss.errors.ShapeError, FINE | {"p0": lambda x: 0.0}),
    (ss.errors.ParameterError, FINE | {"p0": P0 - 1.5}),
    (ss.errors.ParameterError, FINE | {"p0": torch.tensor([-1e-3] + [1.0] * 9)}),
    (ss.errors.ParameterError, FINE | {"p0": 0 * P0}),
    (ss.errors.ParameterError, FINE | {"p0": P0 * math.nan}),
    (ss.errors.ParameterError, FINE | {"p0": P0 * math.inf}),
    (ss.errors.ParameterError, FINE | {"p0": lambda x: x[:, 0] * math.nan}),
    (ss.errors.ParameterError, FINE | {"p0": lambda x: x[:, 0] * 0 - math.inf}),
    (ss.errors.ParameterError, FINE | {"p0": lambda x: x[:, 0] * 0 + math.inf}),
    (ss.errors.ShapeError, FINE | {"sde": broken("drift", torch.zeros(9))}),
    (ss.errors.ShapeError, FINE | {"sde": broken("diffusion", torch.ones(2))}),
    (ss.errors.ParameterError, FINE | {"sde": broken("diffusion", -1.0)}),
    (ss.errors.ParameterError, FINE | {"sde": broken("diffusion", math.nan)}),
]


@pytest.mark.parametrize(("error", "given"), BAD_SOLVES)
def test_bad_solves_are_refused(error: type[Exception], given: dict[str, object]) -> None:
    options = {"p0": P0, "max_wall_mass": 1.0} | given
    sde, p0 = options.pop("sde", Wells()), options.pop("p0")
    fp = FokkerPlanck(sde, ((-3.0, 3.0),), (10,))
    with pytest.raises(error, match="expected"):
        fp.solve(p0, **options)


def test_a_drift_that_is_not_finite_names_the_place() -> None:
    wall = LangevinSDE(lambda x: 1 / (x - 1.0))
    fp = FokkerPlanck(wall, ((-2.0, 2.0),), (4,))
    with pytest.raises(
        ss.errors.DivergenceError, match=r"1 of 3 faces, such as x = \[1.0\]"
    ) as caught:
        fp.generator(0.5)
    assert caught.value.samples == [2]
    assert caught.value.t == 0.5
    for sde in (wall, Wells()):
        with pytest.raises(ss.errors.TimeError):
            FokkerPlanck(sde, ((-2.0, 2.0),), (4,)).generator(11.0)


@pytest.mark.parametrize("times", [[0.0, 1.001], [1e-9, 0.5, -1e-9], [0.0, 0.5, 0.4], [0.0]])
def test_bad_times_are_refused_before_anything_is_evaluated(times: list[float]) -> None:
    class Untouched(Wells):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            pytest.fail("the drift was evaluated")

    fp = FokkerPlanck(Untouched(), ((-2.0, 2.0),), (40,))
    with pytest.raises((ss.errors.TimeError, ss.errors.ScheduleError), match="expected"):
        fp.solve(gaussian(0.0, 0.01), times=times)


LINE = ((-1.0, 1.0),)
BAD_BOXES = [
    (ss.errors.IncompatibleError, (ss.VPSDE, LINE, (10,))),
    (ss.errors.IncompatibleError, ("vp", LINE, (10,))),
    (ss.errors.ShapeError, (ss.VPSDE(), [(-1.0, 1.0)], (10,))),
    (ss.errors.ShapeError, (ss.VPSDE(), (-1.0, 1.0), (10,))),
    (ss.errors.ShapeError, (ss.VPSDE(), ((-1.0, 0.0, 1.0),), (10,))),
    (ss.errors.ShapeError, (ss.VPSDE(), LINE, 10)),
    (ss.errors.ShapeError, (ss.VPSDE(), LINE, (10, 10))),
    (ss.errors.ShapeError, (ss.VPSDE(), (), ())),
    (ss.errors.ShapeError, (ss.VPSDE(), LINE * 4, (3,) * 4)),
    (ss.errors.ParameterError, (ss.VPSDE(), ((1.0, -1.0),), (10,))),
    (ss.errors.ParameterError, (ss.VPSDE(), ((1.0, 1.0),), (10,))),
    (ss.errors.ParameterError, (ss.VPSDE(), ((-math.inf, 1.0),), (10,))),
    (ss.errors.ParameterError, (ss.VPSDE(), LINE, (2,))),
    (ss.errors.ParameterError, (ss.VPSDE(), LINE, (10.0,))),
    (ss.errors.ParameterError, (ss.VPSDE(), LINE, (True,))),
]


@pytest.mark.parametrize(("error", "given"), BAD_BOXES)
def test_bad_boxes_are_refused(error: type[Exception], given: tuple[object, ...]) -> None:
    with pytest.raises(error, match="expected"):
        FokkerPlanck(*given)


def test_numpy_scalars_are_numbers() -> None:
    box = ((np.float32(-3.0), np.int64(3)),), (np.int64(10),)
    fp = FokkerPlanck(Wells(), *box)
    assert repr(fp.bounds) == "((-3.0, 3.0),)"
    assert repr(fp.cells) == "(10,)"
    options = {"steps": np.int64(2), "max_wall_mass": np.float64(1), "max_products": np.int32(999)}
    assert fp.solve(P0, times=[0.0, 0.5], **options).density.shape == (2, 10)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_no_setting_of_the_caller_changes_a_density(setting: Callable[[], Any]) -> None:
    def solved() -> list[Tensor]:
        fp = FokkerPlanck(ss.VPSDE(), ((-3.0, 3.0), (-2.0, 2.0)), (12, 9))
        found = fp.solve(lambda x: -x.square().sum(1), times=[0.0, 0.2], max_wall_mass=1.0)
        return [
            found.density,
            found.wall_mass,
            found.time_error,
            fp.stationary(),
            *fp.moments(found.density),
        ]

    plain = solved()
    with setting():
        assert all(map(torch.equal, solved(), plain))


@pytest.mark.parametrize("p", [None, torch.ones(9), torch.ones(10, 9), torch.tensor(1.0)])
def test_what_is_no_density_is_refused(p: object) -> None:
    fp = FokkerPlanck(Wells(), LINE, (10,))
    for method in (fp.mass, fp.moments):
        with pytest.raises(ss.errors.ShapeError, match="expected densities"):
            method(p)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_what_has_no_mass_has_no_moments(bad: float) -> None:
    fp = FokkerPlanck(Wells(), LINE, (10,))
    p = torch.ones(2, 10)
    p[1] = bad
    with pytest.raises(ss.errors.ParameterError, match="expected densities with a finite mass > 0"):
        fp.moments(p)


def test_a_float32_network_is_told_to_be_float64() -> None:
    net = torch.nn.Linear(1, 1)
    fp = FokkerPlanck(LangevinSDE(net), LINE, (10,))
    for run in (
        lambda: fp.generator(0.5),
        lambda: fp.solve(gaussian(0.0, 0.01), times=[0.0, 0.5]),
        lambda: fp.density(lambda x: net(x)[:, 0]),
    ):
        with pytest.raises(ss.errors.ShapeError, match=r"expected .* float64.*use \.double\(\)"):
            run()

    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("out of something")

    with pytest.raises(RuntimeError, match="out of something") as caught:
        FokkerPlanck(LangevinSDE(broken), LINE, (10,)).generator(0.5)
    assert not isinstance(caught.value, ss.SDEScoreError)
    net.double()
    assert fp.generator(0.5).shape == (10, 10)


# Langevin's equation.


def test_langevin_is_score_and_temperature() -> None:
    sde = LangevinSDE(double_well, temperature=0.32, T=3.0)
    x = torch.randn(4, 2, 3)
    assert torch.equal(sde.drift(x, 0.5), x - x**3)
    assert sde.drift(x.double(), torch.zeros(4)).dtype == F64
    assert sde.diffusion(0.5).item() == pytest.approx(0.8)
    assert sde.diffusion(torch.zeros(4)).shape == (4,)
    assert sde.T == 3.0
    assert sde == LangevinSDE(double_well, temperature=0.32, T=3.0)
    assert hash(sde) == hash(LangevinSDE(double_well, temperature=0.32, T=3.0))
    reverse = sde.reverse(lambda x, t: (x - x**3) / 0.32)  # in equilibrium: the drift turns round
    assert torch.allclose(reverse.drift(x, 0.5), x**3 - x, atol=1e-5)


def test_langevin_without_temperature_is_the_gradient_flow() -> None:
    cold = LangevinSDE(torch.neg, temperature=0.0, T=1.0)
    x = ss.simulate(cold, torch.ones(3, 2, dtype=F64), steps=1000)
    assert torch.allclose(x, torch.full_like(x, math.exp(-1)), atol=1e-3)


@pytest.mark.parametrize(
    ("error", "given"),
    [
        (ss.errors.IncompatibleError, {"score": 3.0}),
        (ss.errors.IncompatibleError, {"score": ss.EnergyModel}),
        (ss.errors.IncompatibleError, {"score": ss.ScoreModel(torch.nn.Identity(), ss.VPSDE())}),
        (ss.errors.IncompatibleError, {"score": ss.GaussianScore([0.0], 1.0, ss.VPSDE())}),
        (ss.errors.ScheduleError, {"temperature": torch.tensor(1.0)}),
        (ss.errors.ScheduleError, {"temperature": -0.1}),
        (ss.errors.ScheduleError, {"temperature": math.inf}),
        (ss.errors.ScheduleError, {"temperature": "hot"}),
        (ss.errors.ScheduleError, {"T": 0.0}),
        (ss.errors.ScheduleError, {"T": math.nan}),
    ],
)
def test_bad_langevin_equations_are_refused(
    error: type[Exception], given: dict[str, object]
) -> None:
    score = given.pop("score", torch.neg)
    with pytest.raises(error, match="expected"):
        LangevinSDE(score, **given)


def test_langevin_refuses_a_score_of_another_shape_and_foreign_times() -> None:
    with pytest.raises(ss.errors.ShapeError, match="the score"):
        LangevinSDE(lambda x: x.sum(1)).drift(torch.zeros(2, 3), 0.0)
    with pytest.raises(ss.errors.TimeError):
        LangevinSDE(torch.neg).diffusion(10.1)
