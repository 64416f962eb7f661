"""The underdamped corrector."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdescore as ss
from sdescore.correctors.underdamped import Underdamped
from sdescore.langevin.chains import chains
from tests.helpers.affine import Modes, output_moments
from tests.helpers.correctors import SDE, at_one_time, mixture
from tests.helpers.strategies import log_uniform

LADDER = ss.DiscreteVESDE.geometric(sigma_max=3.0, sigma_min=0.1, levels=6)


# Underdamped.


@given(log_uniform(1e-3, 1.0), st.one_of(st.just(0.0), log_uniform(1e-3, 1e4)))
@settings(max_examples=60)
def test_a_trajectory_of_one_step_is_langevins(snr: float, friction: float) -> None:
    times = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    short = Underdamped(snr=snr, friction=friction, length=1).tableau(SDE, times)
    plain = ss.Langevin(snr=snr).tableau(SDE, times)
    torch.testing.assert_close(short.b, plain.b, rtol=1e-13, atol=0.0)
    torch.testing.assert_close(
        short.c.square().sum(-1), plain.c.square().sum(-1), rtol=1e-13, atol=0.0
    )
    assert torch.equal(short.a, plain.a) and torch.equal(short.times, plain.times)
    # The share of the first kick in the two drifts: h²/4 and e^(-γh) h²/4.
    h = Underdamped(snr=snr, friction=friction).relative_step
    overdamped = 0.25 * h * h * (1 + math.exp(-friction * h))
    assert overdamped == pytest.approx(2 * snr**2, rel=1e-13)


@pytest.mark.parametrize("friction", [0.0, 0.7, 30.0])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_trajectory_is_baoab_step_by_step(length: int, friction: float) -> None:
    """The tableau in the sampler against the chain in x and v, on a score that is not linear."""
    snr, B, trajectories = 0.3, 7, 2
    corrector = Underdamped(snr=snr, friction=friction, steps=trajectories, length=length)
    sampler = at_one_time(corrector)
    draws = 1 + trajectories * (length + 1)
    assert len(sampler.program.spans) == (draws if friction else 1 + trajectories)
    assert sampler.evaluations == trajectories * length
    x = torch.randn(B, 1, dtype=torch.float64)
    z = torch.randn(draws, B, 1, dtype=torch.float64)
    given = z if friction else torch.stack([z[0], z[1], z[1 + length + 1]])
    got = sampler.sample(mixture(), init=x, noise=ss.noise.ReplayNoise(given), dtype=torch.float64)
    t = sampler.times[1]
    sigma = SDE.marginal(t)[1].item()
    h = corrector.relative_step * sigma
    for k in range(trajectories):
        own = z[1 + k * (length + 1) :][: length + 1]
        x = chains(
            mixture(),
            x,
            h,
            length,
            t=t.item(),
            method="underdamped",
            friction=friction / sigma,
            noise=ss.noise.ReplayNoise(own),
        ).x
    torch.testing.assert_close(got, x, rtol=1e-11, atol=1e-11)


def test_the_exact_distribution_of_trajectories() -> None:
    """Many trajectories at one level: close to p_t, closer the smaller the step; length 1 is known.

    The step is halved by halving snr, so a trajectory of twice the length covers the same time.
    """
    data = Modes.of((0.0, 0.5), (1.0, 2.0))
    start = (np.zeros(2), np.full(2, 9.0))

    def variance(snr: float, length: int) -> np.ndarray:
        sampler = ss.PredictorCorrector(
            LADDER,
            predictor=ss.NoPredictor(),
            corrector=Underdamped(snr=snr, friction=0.5, steps=round(300 / length), length=length),
            grid=[0.5, 0.4],
            denoise=False,
        )
        return output_moments(sampler, data, start)[1] / data.marginal(LADDER, 0.4)[1]

    tau_over_S = 2 * (0.5 * LADDER.marginal(0.4)[1].item()) ** 2 / data.marginal(LADDER, 0.4)[1]
    np.testing.assert_allclose(variance(0.5, 1), 1 / (1 - tau_over_S / 2), rtol=1e-6)
    coarse, fine = abs(variance(0.4, 4) - 1), abs(variance(0.2, 8) - 1)
    np.testing.assert_allclose(coarse / fine, 4, rtol=0.35)


def test_trajectories_sample_in_a_sampler() -> None:
    """Mean and width of 20,000 samples of a Gaussian, each within its 1e-6 band and 2 % of bias."""
    score = ss.GaussianScore([1.0, -2.0], 0.25, SDE)
    sampler = ss.PredictorCorrector(
        SDE, predictor=ss.ReverseDiffusion(), corrector=Underdamped(snr=0.15, steps=1), steps=60
    )
    x = sampler.sample(score, (20_000, 2), seed=3)
    assert sampler.evaluations == 60 + 59 * 5
    assert bool(((x.mean(0) - torch.tensor([1.0, -2.0])).abs() < 0.02 + 5.1 * 0.5 / 2e4**0.5).all())
    assert bool(((x.std(0) - 0.5).abs() < 0.02).all())
