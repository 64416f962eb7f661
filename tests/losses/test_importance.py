"""Importance weights of the training times."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

import sdescore as ss
from sdescore.losses import (
    EDMWeighting,
    ImportanceTimes,
    LogNormalTimes,
    LogSNRTimes,
    MinSNR,
)
from sdescore.losses.times import TimeDistribution
from sdescore.losses.weighting import Weighting, likelihood, sigma2
from tests.helpers.weightings import (
    SDES,
    Tripled,
    draw,
    generator,
    integral,
    log_level,
    rate,
    truncated_normal,
)

Z = scipy.stats.norm.isf(0.5e-6)  # two-sided, alpha = 1e-6


# Importance weights.


@SDES
def test_the_weight_is_uniform_density_over_own(sde: ss.LinearSDE) -> None:
    whole = integral(lambda u: rate(sde, u), sde.t_min, sde.T, sde)
    t = torch.tensor([0.03, 0.31, 0.77, 0.93], dtype=torch.float64)
    t = sde.t_min + (sde.T - sde.t_min) * t
    expected = 1 / (sde.T - sde.t_min) / (rate(sde, t) / whole)
    got = ImportanceTimes().importance_weight(sde, t)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)
    # So the likelihood's weight of the ε error is the same everywhere.
    constant = likelihood(sde, t) * got
    constant = constant / sde.marginal(t)[1].square()
    torch.testing.assert_close(constant, constant[:1].expand(4), rtol=1e-12, atol=0)


STD, BELIEVED = 1.3, 0.4  # of the data, and by a wrong score


def wrong_score(sde: ss.LinearSDE):
    def score(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = sde.marginal(t.double())
        return -x / (alpha**2 * BELIEVED**2 + sigma**2)

    return score


def uniform_mean(sde: ss.LinearSDE, weighting: Weighting) -> float:
    """E ½ λ |s + ε/σ|² over uniform t and x₀ ~ N(0, STD²) in one dimension, s = −x/V."""

    def expected(t: Tensor) -> Tensor:
        return weighting(sde, t) * wrong_error(sde, t)

    return integral(expected, sde.t_min, sde.T, sde) / (sde.T - sde.t_min)


def wrong_error(sde: ss.LinearSDE, t: Tensor) -> Tensor:
    alpha, sigma = sde.marginal(t)
    V = alpha**2 * BELIEVED**2 + sigma**2
    return 0.5 * ((alpha * STD / V) ** 2 + (1 / sigma - sigma / V) ** 2)


@SDES
@pytest.mark.parametrize("stratified", [False, True])
def test_the_likelihood_is_unbiased_under_importance(sde: ss.LinearSDE, stratified: bool) -> None:
    """Monte Carlo against quadrature over uniform t, alpha = 1e-6.

    Stratified times vary less, so the bound from independent draws is safe for them.
    """
    n, expected = 40_000, uniform_mean(sde, lambda sde, t: sde.rates(t)[1])
    loss = ss.denoising_loss(
        wrong_score(sde), STD * draw(n), sde=sde, weighting="likelihood",
        times=ImportanceTimes(stratified=stratified), generator=generator(5),
    )  # fmt: skip
    error = loss.per_sample.std().item() / math.sqrt(n)
    assert abs(loss.mean.item() - expected) < Z * error
    assert error < 0.02 * expected


@pytest.mark.parametrize("weighting", ["sigma2", MinSNR(), EDMWeighting()])
def test_any_weighting_is_unbiased_under_importance(weighting: object) -> None:
    sde, n = ss.SubVPSDE(), 100_000
    expected = uniform_mean(sde, sigma2 if weighting == "sigma2" else weighting)
    loss = ss.denoising_loss(
        wrong_score(sde), STD * draw(n), sde=sde, weighting=weighting,
        times=ImportanceTimes(), generator=generator(6),
    )  # fmt: skip
    error = loss.per_sample.std().item() / math.sqrt(n)
    assert abs(loss.mean.item() - expected) < Z * error
    assert error < 0.05 * loss.mean.item()


@pytest.mark.parametrize("distribution", [LogSNRTimes(), LogNormalTimes(-0.5, 0.8)])
def test_other_distributions_are_the_objective(distribution: TimeDistribution) -> None:
    """Their expectation is the mean over their own distribution, by quadrature in log σ/α; no
    weight."""
    sde, n = ss.VPSDE(), 40_000
    ends = torch.tensor([sde.t_min, sde.T], dtype=torch.float64)
    low, high = log_level(sde, ends).tolist()
    own = scipy.stats.uniform(low, high - low)
    if distribution != LogSNRTimes():
        own = truncated_normal(sde, distribution)

    def integrand(level: np.ndarray) -> np.ndarray:
        t = sde.time_at_log_snr(torch.from_numpy(-2 * level))
        return own.pdf(level) * (sde.rates(t)[1] * wrong_error(sde, t)).numpy()

    expected = scipy.integrate.fixed_quad(integrand, low, high, n=200)[0]
    loss = ss.denoising_loss(
        wrong_score(sde), STD * draw(n), sde=sde, weighting="likelihood", times=distribution,
        generator=generator(7),
    )  # fmt: skip
    error = loss.per_sample.std().item() / math.sqrt(n)
    assert abs(loss.mean.item() - expected) < Z * error
    assert distribution.importance_weight(sde, ends) is None


def test_importance_lowers_the_variance() -> None:
    """For an error of ε that is the same at every t the times add no variance at all."""
    sde, n = ss.VPSDE(), 4000

    def score(x: Tensor, t: Tensor) -> Tensor:  # ε̂ = 0
        return torch.zeros_like(x)

    noise = torch.ones(n, 1, dtype=torch.float64)
    spread = {
        distribution: ss.denoising_loss(
            score, torch.zeros_like(noise), sde=sde, weighting="likelihood", times=distribution,
            noise=noise, generator=generator(),
        ).per_sample.std()
        for distribution in (ss.losses.UniformTimes(), ImportanceTimes())
    }  # fmt: skip
    assert spread[ImportanceTimes()] < 1e-12 < spread[ss.losses.UniformTimes()]


def test_the_weight_multiplies_lambda() -> None:
    x0, noise, sde = draw(5, 2), draw(5, 2, seed=1), ss.VPSDE()
    score = wrong_score(sde)
    arguments = {"sde": sde, "noise": noise, "weighting": "likelihood"}
    plain = ss.denoising_loss(lambda x, t: score(x, t[:, None]), x0, t=0.4, **arguments)
    weighed = ss.denoising_loss(lambda x, t: score(x, t[:, None]), x0, times=Tripled(), **arguments)
    torch.testing.assert_close(weighed.per_sample, 3 * plain.per_sample, rtol=1e-14, atol=0)
    t = torch.full((5,), 0.4, dtype=torch.float64)
    arguments["weight"] = Tripled().importance_weight(sde, t)
    by_hand = ss.denoising_loss(lambda x, t: score(x, t[:, None]), x0, t=t, **arguments)
    assert torch.equal(by_hand.per_sample, weighed.per_sample)


def test_training_keeps_the_weight() -> None:
    """The loop draws the times itself; the loss of its first step says what it weighed."""

    def first_loss(times: TimeDistribution) -> float:
        torch.manual_seed(0)
        model = ss.ScoreModel(ss.MLP(2, hidden=8), ss.VPSDE(), prediction="epsilon")
        result = ss.train(
            model, draw(20, 2).float(), steps=1, times=times, batch_size=16, progress=False
        )
        return result.losses[0]

    assert first_loss(Tripled(3.0)) == pytest.approx(3 * first_loss(Tripled(1.0)), rel=1e-6)


@pytest.mark.parametrize(
    ("first", "then", "agree"),
    [
        ({"weighting": MinSNR(5)}, {"weighting": MinSNR(5.0)}, True),
        ({"weighting": MinSNR(5)}, {"weighting": MinSNR(4)}, False),
        ({"weighting": EDMWeighting(0.5)}, {"weighting": EDMWeighting(0.6)}, False),
        ({"times": LogNormalTimes()}, {"times": LogNormalTimes(std=1.0)}, False),
        ({"times": ImportanceTimes()}, {"times": LogSNRTimes()}, False),
    ],
)
def test_a_resumed_run_keeps_its_parameters(
    tmp_path: Path, first: dict[str, object], then: dict[str, object], agree: bool
) -> None:
    def run(steps: int, options: dict[str, object], resume: bool) -> None:
        model = ss.ScoreModel(ss.MLP(2, hidden=8), ss.VPSDE(), prediction="epsilon")
        ss.train(
            model, draw(20, 2).float(), steps=steps, batch_size=4, progress=False,
            path=tmp_path / "run.safetensors", resume=resume, schedule="constant", **options,
        )  # fmt: skip

    run(1, first, resume=False)
    if agree:
        run(2, then, resume=True)
        return
    with pytest.raises(ss.errors.CheckpointError):
        run(2, then, resume=True)
