"""The solver against simulated paths, and the reverse SDE back to data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import sdescore as ss
from sdescore.fokker_planck.solver import FokkerPlanck
from sdescore.sde.langevin import LangevinSDE
from tests.helpers.densities import (
    F64,
    SMOOTH,
    Still,
    Wells,
    double_well,
    gaussian,
    l1,
    slope,
)

ALPHA = 1e-6  # false-positive rate of each statistical test


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
    for n in (200, 400, 800):
        fp = FokkerPlanck(sde.reverse(score, 0.0), ((-6.0, 6.0),), (n,))
        run = fp.solve(lambda x: score.log_prob(x, 1.0), times=[1.0, 0.0], tolerance=1e-3)
        assert run.density.min() >= 0
        errors.append(l1(fp, run.density[1], fp.density(lambda x: score.log_prob(x, 0.0))))
    assert slope(errors) == pytest.approx(1.0, abs=0.1)


def test_the_probability_flow_runs_up_as_well() -> None:
    sde = ss.VPSDE(beta_max=3.0)
    score = ss.GaussianScore([0.5], 0.5, sde)
    errors = []
    for n in (200, 400, 800):
        fp = FokkerPlanck(sde.reverse(score, 0.0), ((-6.0, 6.0),), (n,))
        run = fp.solve(lambda x: score.log_prob(x, 0.0), times=[0.0, 1.0], tolerance=1e-3)
        errors.append(l1(fp, run.density[1], fp.density(lambda x: score.log_prob(x, 1.0))))
    assert errors[-1] < 0.05
    assert slope(errors) == pytest.approx(1.0, abs=0.1)


def test_a_users_reversal_says_so_itself() -> None:
    """−x is stationary for a forward Ornstein–Uhlenbeck drift, +x for a backward one."""

    class Back(Still):
        backward = True

        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return x

    fp = FokkerPlanck(Back(g=2**0.5), ((-6.0, 6.0),), (120,))
    assert fp.backward
    distribution = fp.solve(gaussian(0.0, 1.0), times=[2.0, 0.0]).density
    assert l1(fp, *distribution) < 1e-3 and l1(fp, distribution[0], fp.stationary()) < 1e-3
    with pytest.raises(ss.errors.TimeError, match="falling"):
        fp.solve(gaussian(0.0, 1.0), times=[0.0, 2.0])
