"""Stationary distributions against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, linalg

import sdescore as ss
from sdescore.fokker_planck.solver import FokkerPlanck
from sdescore.sde.langevin import LangevinSDE
from tests.helpers.densities import (
    Linear,
    double_well,
    gaussian,
    l1,
    slope,
)


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
    for n in (40, 80):
        fp = FokkerPlanck(Linear(tuple(map(tuple, A)), g=0.7), ((-4.0, 4.0), (-4.5, 4.5)), (n, n))
        p = fp.stationary()
        mean, covariance = fp.moments(p)
        assert p.min() >= 0
        assert mean.abs().max() < 1e-10
        errors.append(np.abs(covariance.numpy() - C).max())
        flow = fp.generator(0.0) @ p.flatten().numpy()
        assert np.abs(flow).max() < 1e-12
    assert errors[-1] < 0.02
    assert slope(errors) == pytest.approx(2.0, abs=0.1)


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
            log_density = np.concatenate([[0.0], np.cumsum(ratios)])
            try:
                p = fp.stationary()
            except ss.errors.IncompatibleError:
                assert temperature < 0.015
                continue
            given.append(temperature)
            distribution = torch.from_numpy(np.exp(log_density - log_density.max()))
            assert l1(fp, p, distribution / fp.mass(distribution)) < 1e-8
    assert len(given) < 14
    assert min(given) <= 0.02
