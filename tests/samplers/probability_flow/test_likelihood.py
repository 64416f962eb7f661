"""Hutchinson's estimator, and how sure a likelihood is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import sdescore as ss
from sdescore.samplers.probability_flow.likelihood import t_quantile
from tests.helpers.flows import (
    F64,
    STD,
    M,
    mixture,
    mixture_states,
)

ALPHA = 1e-6


# Hutchinson's estimator, on a score whose Jacobian A is constant: every estimate of the integral
# is c vᵀAv, and the exact one c tr A, with the same c.


A = torch.tensor([[-1.0, 0.5, 0.0], [0.1, -2.0, 0.7], [-0.4, 0.3, 0.5]], dtype=F64)


S = (A + A.T) / 2


OFF = S - S.diag().diag()


VARIANCE = {
    "rademacher": 2 * OFF.square().sum().item(),
    "gaussian": 2 * S.square().sum().item(),
}


def traces(n: int, probes: int, distribution: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """``n`` estimates of tr A and their reported standard errors.

    In one Euler step the log determinant is a + b tr(∇s), a that of the score 0.
    """
    flow = ss.ProbabilityFlow(ss.VESDE(), method="euler", steps=1)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return x @ A.T

    start = torch.zeros(1, 3, dtype=F64)
    exact, none = (
        flow.log_likelihood(s, start).log_det.item() for s in (score, lambda x, t: 0 * x)
    )
    scale = A.trace().item() / (exact - none)
    got = flow.log_likelihood(
        score,
        torch.zeros(n, 3, dtype=F64),
        divergence="hutchinson",
        probes=probes,
        probe_distribution=distribution,
        seed=seed,
    )
    return ((got.log_det - none) * scale).numpy(), (got.standard_error * abs(scale)).numpy()


@pytest.mark.guards("T12")
@pytest.mark.parametrize("distribution", VARIANCE)
@pytest.mark.parametrize("probes", [1, 4])
def test_hutchinson_variance(distribution: str, probes: int) -> None:
    """Mean and variance of 40,000 estimates, two-sided at alpha = 1e-6 each (CLT; the variance's
    standard error from the fourth moment)."""
    n = 40_000
    estimates, _ = traces(n, probes, distribution)
    z, variance = stats.norm.isf(ALPHA / 2), VARIANCE[distribution] / probes
    assert abs(estimates.mean() - A.trace().item()) < z * math.sqrt(variance / n)
    fourth = ((estimates - estimates.mean()) ** 4).mean()
    error = math.sqrt((fourth - estimates.var() ** 2) / n)
    assert abs(estimates.var() - variance) < z * error
    assert error < 0.03 * variance  # sharp enough to tell the two distributions and K apart


@pytest.mark.guards("T12")
@pytest.mark.parametrize("distribution", VARIANCE)
def test_the_standard_error_is_that_of_the_mean(distribution: str) -> None:
    """E[se²] is the variance of the mean over K probes; alpha = 1e-6 by the CLT."""
    _, errors = traces(20_000, 5, distribution)
    squares = np.nan_to_num(errors) ** 2  # NaN where all five coincide: their spread is 0
    slack = stats.norm.isf(ALPHA / 2) * squares.std() / math.sqrt(len(squares))
    assert abs(squares.mean() - VARIANCE[distribution] / 5) < slack
    assert slack < 0.1 * VARIANCE[distribution] / 5
    assert np.isnan(traces(2, 1, distribution)[1]).all()


def test_probes_follow_the_seed() -> None:
    assert np.array_equal(traces(5, 2, "gaussian", 1)[0], traces(9, 2, "gaussian", 1)[0][:5])
    assert not np.array_equal(traces(5, 2, "gaussian", 1)[0], traces(5, 2, "gaussian", 2)[0])
    # Equal samples, probes of their own: sums of 4 signs, equal for all 20 in 3e-9 of the seeds.
    x = torch.full((20, 2), 0.3, dtype=F64)
    flow = ss.ProbabilityFlow(ss.VPSDE(), rtol=1e-7, atol=1e-7)
    got = flow.log_likelihood(mixture(ss.VPSDE()), x, divergence="hutchinson", probes=4)
    assert len(got.log_prob.unique()) > 1


def test_probes_are_not_the_samplers_noise() -> None:
    """With ∇s = e₀e₀ᵀ an estimate is c v₀²; it must not be the start of the seed's own chain."""
    sde = ss.VESDE()
    flow = ss.ProbabilityFlow(sde, method="euler", steps=1)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return x * torch.eye(2)[0].to(x)

    zeros = torch.zeros(50, 2, dtype=F64)
    none = flow.log_likelihood(lambda x, t: 0 * x, zeros).log_det
    c = flow.log_likelihood(score, zeros).log_det - none
    options = {"divergence": "hutchinson", "probe_distribution": "gaussian", "seed": 8}
    estimate = (flow.log_likelihood(score, zeros, **options).log_det - none) / c
    noise = ss.noise.standard_normal(8, range(50), range(1), (2,))[0, :, 0].double()
    assert not torch.isclose(estimate, noise.square()).any()


def test_rademacher_is_exact_on_a_diagonal_jacobian() -> None:
    sde = ss.SubVPSDE()
    score, x = ss.GaussianScore(M, STD**2, sde), M + torch.randn(4, 3, dtype=F64)
    flow = ss.ProbabilityFlow(sde, rtol=1e-8, atol=1e-8, t_min=0.05)
    exact = flow.log_likelihood(score, x)
    for probes in (3, 21):
        guess = flow.log_likelihood(score, x, divergence="hutchinson", probes=probes)
        torch.testing.assert_close(guess.log_prob, exact.log_prob, rtol=0, atol=1e-6)
        # Three that coincide do not know whether they always do.
        unknown = guess.standard_error.isnan() & guess.margin.isnan()
        assert bool(unknown.all()) if probes == 3 else guess.margin.max() < 1e-10
    wide = flow.log_likelihood(
        score, x, divergence="hutchinson", probes=3, probe_distribution="gaussian"
    )
    assert wide.standard_error.min() > 1e-2


def test_hutchinson_estimates_the_likelihood_of_a_mixture() -> None:
    """Estimates of 200 points with 16 probes: their z scores' mean at alpha = 1e-6."""
    sde = ss.VPSDE()
    score, x = mixture(sde), mixture_states(sde, 200, sde.t_min)
    flow = ss.ProbabilityFlow(sde)
    exact = flow.log_likelihood(score, x)
    guess = flow.log_likelihood(score, x, divergence="hutchinson", probes=16)
    error = (guess.log_prob - exact.log_prob).mean()
    slack = stats.norm.isf(ALPHA / 2) * guess.standard_error.square().mean().sqrt() / 200**0.5
    assert error.abs() < slack + 1e-4


def thin() -> tuple[ss.MixtureScore, Tensor]:
    """A score in d = 12 whose data lie near a plane of two dimensions, and 100 of its data."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(12, 12, dtype=F64, generator=generator))[0]
    spectrum = torch.tensor([3.0, 1.0] + 10 * [0.01], dtype=F64)
    score = ss.GaussianScore(torch.zeros(12), axes @ spectrum.diag() @ axes.T, ss.VPSDE())
    return score, score.sample(100, seed=1, dtype=F64)


def test_hutch_plus_plus_estimates_a_likelihood_closer() -> None:
    """Nine derivatives each; the mean of 100 z scores two-sided at alpha = 1e-6, and the errors."""
    score, x = thin()
    flow = ss.ProbabilityFlow(score.sde, rtol=1e-4, atol=1e-4)
    exact = flow.log_likelihood(score, x).log_prob
    options = {"divergence": "hutch++", "probes": 9, "seed": 4}
    plus = flow.log_likelihood(score, x, **options)
    plain = flow.log_likelihood(score, x, divergence="hutchinson", probes=9, seed=4)
    off, off_plain = plus.log_prob - exact, plain.log_prob - exact
    assert off.std() < 0.5 * off_plain.std()
    assert off.mean().abs() < stats.norm.isf(ALPHA / 2) * off.std() / 10 + 1e-3
    # Three estimates a sample: their standard errors are right on average, within 25 %.
    assert plus.standard_error.square().mean().sqrt() == pytest.approx(off.std(), rel=0.25)
    part = flow.log_likelihood(score, x[:3], **options)
    torch.testing.assert_close(part.log_prob, plus.log_prob[:3], rtol=0, atol=1e-3)


# How sure a likelihood is.


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 20, 61])
def test_students_quantiles_are_scipys(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-12)


@pytest.mark.parametrize(
    ("divergence", "probes"), [("hutchinson", 2), ("hutchinson", 5), ("hutch++", 6), ("hutch++", 9)]
)
def test_the_margin_covers_what_it_says(divergence: str, probes: int) -> None:
    """95 % of 4,000 intervals hold the exact value, within 2 % (binomial, alpha = 1e-8).

    Gaussian probes in d = 24 give estimates that are nearly normal, and so does what Hutch++ leaves
    to its probes, two and three of them.
    """
    sde, n, d = ss.VESDE(), 4000, 24
    flow = ss.ProbabilityFlow(sde, method="euler", steps=1)
    weights = torch.linspace(0.5, 1.0, d, dtype=F64)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -weights * x

    x = torch.zeros(n, d, dtype=F64)
    exact = flow.log_likelihood(score, x[:1]).log_prob
    got = flow.log_likelihood(
        score, x, divergence=divergence, probes=probes, probe_distribution="gaussian", seed=3
    )
    inside = ((got.log_prob - exact).abs() <= got.margin).double().mean().item()
    assert inside == pytest.approx(0.95, abs=0.02)


def test_two_probes_that_coincide_know_nothing() -> None:
    """In d = 2 Rademacher probes are equal, up to their sign, in half of the samples."""
    sde = ss.VPSDE()
    flow = ss.ProbabilityFlow(sde, method="euler", steps=3)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return x @ torch.tensor([[-1.0, 0.9], [0.9, -1.0]], dtype=F64)

    x = torch.zeros(400, 2, dtype=F64)
    got = flow.log_likelihood(score, x, divergence="hutchinson", probes=2)
    off = (got.log_prob - flow.log_likelihood(score, x).log_prob).abs()
    unknown = got.standard_error.isnan()
    assert 0.3 < unknown.double().mean() < 0.7
    assert bool((off[unknown] > 0.1).all())  # a standard error of 0 would have been wrong
    assert bool((off[~unknown] <= got.margin[~unknown]).all())


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_likelihood_under_autocast(divergence: str) -> None:
    """The network rounds to bfloat16, 8 bits; the flow's own arithmetic does not."""
    torch.manual_seed(0)
    sde = ss.VPSDE()
    model, x = ss.ScoreModel(ss.MLP(2), sde, prediction="epsilon"), torch.randn(5, 2)
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    flow = ss.ProbabilityFlow(sde, method="rk4", steps=20)
    plain = flow.log_likelihood(model, x, divergence=divergence, probes=3)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = flow.log_likelihood(model, x, divergence=divergence, probes=3)
        exact = flow.log_likelihood(ss.GaussianScore([0.0, 0.0], 1.0, sde), torch.zeros(1, 2))
    assert mixed.log_prob.dtype == torch.float32
    torch.testing.assert_close(mixed.log_prob, plain.log_prob, rtol=0, atol=0.1)
    assert exact.log_prob.item() == pytest.approx(-math.log(2 * math.pi), abs=1e-3)
