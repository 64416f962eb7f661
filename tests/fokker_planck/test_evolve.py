"""Second order in time, and steps that keep the tolerance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.fokker_planck.evolve import adaptive
from sdescore.fokker_planck.solver import FokkerPlanck
from sdescore.sde.langevin import LangevinSDE
from tests.helpers.densities import (
    F64,
    SMOOTH,
    Still,
    Wells,
    gaussian,
    l1,
    slope,
)


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
