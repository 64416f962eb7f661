"""Multistep methods given by their weights, and how a chain ends."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sdescore as ss
from sdescore.analysis.optimal_grid.optimal import POINTS
from sdescore.predictors.multistep import shares
from tests.helpers.affine import Modes, extrapolated, output_moments
from tests.helpers.multisteps import ADAMS, F64, mixture, noise

SDES = [ss.VPSDE(), ss.VESDE(sigma_max=20.0), ss.SubVPSDE(), ss.EDMSDE(sigma_max=20.0)]


DATA = Modes.of((0.7, 0.5), (-1.0, 2.0), (0.2, 0.05))


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize(
    "predictor",
    [ss.DDIM(), ss.ExponentialAdams(points=3), ADAMS, ss.ExponentialAdams(midpoint=True)],
    ids=repr,
)
def test_it_is_the_adams_method_whose_weights_it_has(
    sde: ss.LinearSDE, predictor: ss.Predictor
) -> None:
    plain = ss.PredictorCorrector(sde, predictor=predictor, grid=ss.LogSNRGrid(), steps=7)
    if isinstance(predictor, ss.DDIM):
        weights = torch.eye(1, POINTS, dtype=F64).expand(7, -1)
    else:
        weights = shares(predictor, sde, plain.times, POINTS)
    same = dataclasses.replace(plain, predictor=ss.predictors.Multistep(weights.tolist()))
    x = sde.marginal(sde.T)[1] * noise(5, 2)
    ours, theirs = (s.sample(mixture(sde), init=x, dtype=F64) for s in (same, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    *_, last = same.iterate(mixture(sde), init=x, dtype=F64)
    torch.testing.assert_close(last.x, ours, rtol=0, atol=0)


@pytest.mark.guards("M09")
@pytest.mark.parametrize(
    ("adams", "order"), [(None, 1), (ss.ExponentialAdams(points=2), 2), (ADAMS, 3)], ids=repr
)
def test_the_order_is_that_of_the_weights(adams: ss.Predictor | None, order: int) -> None:
    """Any weights promise order 1, the declared one; those of an Adams method have its order."""
    sde = ss.VESDE(sigma_min=0.3, sigma_max=2.0)
    errors = []
    for steps in (64, 128, 256):
        times = ss.LogSNRGrid().times(sde, steps + 1)
        rows = [[1.0]] * len(times)
        if adams is not None:
            rows = shares(adams, sde, times, POINTS).tolist()
        sampler = ss.PredictorCorrector(
            sde, predictor=ss.predictors.Multistep(rows), grid=times, denoise=False
        )
        start = DATA.marginal(sde, sde.T)
        mean, variance = output_moments(sampler, DATA, start)
        exact_mean, exact_variance = DATA.marginal(sde, times[-1].item())
        errors.append(math.hypot(*(mean - exact_mean), *(variance**0.5 - exact_variance**0.5)))
    assert extrapolated(errors) == pytest.approx(order, abs=0.05)
    assert order >= ss.predictors.Multistep.order


@given(seed=st.integers(0, 10**6), steps=st.integers(2, 6), which=st.integers(0, len(SDES) - 1))
def test_any_weights_keep_a_point_and_its_noise(seed: int, steps: int, which: int) -> None:
    """Data at one point: x̂₀ is the point, and x on the way α c + σ ε with the ε of the start."""
    sde = SDES[which]
    older = noise(steps, 2, seed).tril(-1)
    weights = torch.cat([1 - older.sum(1, keepdim=True), older], 1)
    sampler = ss.PredictorCorrector(
        sde, predictor=ss.predictors.Multistep(weights.tolist()), grid=ss.LogSNRGrid(), steps=steps
    )
    c, epsilon = torch.tensor([1.5, -0.5], dtype=F64), noise(3, 2, seed + 1)

    def score(x: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = sde.marginal(t)
        return (alpha_t * c - x) / sigma_t.square()

    alpha, sigma = sde.marginal(sampler.times)
    states = list(sampler.iterate(score, init=alpha[0] * c + sigma[0] * epsilon, dtype=F64))
    size = weights.abs().sum(1).max().item() * sigma[0].item()
    for n, state in enumerate(states[:-1], 1):
        wanted = alpha[n] * c + sigma[n] * epsilon
        torch.testing.assert_close(state.x, wanted, rtol=1e-8, atol=1e-9 * size)
    torch.testing.assert_close(states[-1].x, c.expand(3, 2), rtol=1e-8, atol=1e-9 * size)


def test_the_exact_distribution_is_that_of_the_chain_run() -> None:
    """On a Gaussian of mean 0 the chain is linear: one run from 1 is its transfer."""
    sde, variance = ss.VPSDE(), 0.3
    weights = [[1.0], [1.4, -0.4], [1.6, -0.7, 0.1], [1.8, -0.9, 0.1]]
    sampler = ss.PredictorCorrector(
        sde, predictor=ss.predictors.Multistep(weights), grid=ss.LogSNRGrid(), steps=4
    )
    score = ss.GaussianScore(torch.zeros(1), variance, sde)
    transfer = sampler.sample(score, init=torch.ones(1, 1), dtype=F64).item()
    error = ss.analysis.gaussian_error(sampler, torch.tensor([variance]))
    prior = sde.marginal(sde.T)[1].item() ** 2
    assert error.variance.item() == pytest.approx(transfer**2 * prior, rel=1e-6)


# -- endings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_the_flows_ending_is_half_of_the_means(sde: ss.LinearSDE) -> None:
    x, t = noise(4, 2), torch.tensor([0.3 * sde.T], dtype=F64)
    ends = {
        how: ss.PredictorCorrector(sde, predictor=ss.NoPredictor(), grid=t, denoise=how).sample(
            mixture(sde), init=x, dtype=F64
        )
        for how in (True, "flow")
    }
    mean = mixture(sde).denoise(x, t[0])
    alpha_t = sde.marginal(t[0])[0]
    torch.testing.assert_close(ends[True], mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ends["flow"], (x / alpha_t + mean) / 2, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("how", "order"), [(True, 1), ("flow", 2)])
def test_the_distribution_of_an_ending_is_right_to_its_order_in_the_noise_left(
    how: bool | str, order: int
) -> None:
    """Twice the time on the VE SDE σ² = 2 t (to first order) leaves twice, or four times, as much
    error of the variance; the measured order is that to 3 %."""
    sde = ss.LinearSDE.from_marginal(lambda t: torch.ones_like(t), lambda t: t.sqrt(), T=1.0)
    errors = []
    for t in (1e-3, 5e-4):
        sampler = ss.PredictorCorrector(
            sde, predictor=ss.NoPredictor(), grid=torch.tensor([t], dtype=F64), denoise=how
        )
        error = ss.analysis.gaussian_error(sampler, torch.tensor([0.1]))
        errors.append(abs(error.ended_variance.item() - error.data_variance.item()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, rel=0.03)


def test_likelihood_of_many_stochastic_steps_is_right_with_the_flows_ending() -> None:
    """A mode three times as wide as the noise left at t_min, a figure per mode, exact."""
    sde, spectrum = ss.VPSDE(), torch.tensor([1.0, 0.03**2])
    loss = {}
    for how in (True, "flow"):
        sampler = ss.PredictorCorrector(
            sde,
            predictor=ss.ExponentialAdams(eta=1.0, points=2),
            grid=ss.LogSNRGrid(),
            steps=1000,
            denoise=how,
        )
        error = ss.analysis.gaussian_error(sampler, spectrum)
        loss[how] = (0.5 * (error.variance / error.data_variance - 1)).abs().max().item()
    assert loss[True] > 0.04 and loss["flow"] < 0.004
