"""Exact distributions and noises of the multistage predictors."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

import sdescore as ss
from sdescore.analysis.error import gaussian_error
from sdescore.predictors.exponential_runge_kutta import ExponentialRungeKutta
from sdescore.predictors.runge_kutta import Heun
from sdescore.predictors.stochastic_heun import StochasticHeun
from sdescore.score.mixture import GaussianScore
from tests.helpers.multistage import (
    EVERY,
    MEAN,
    SDES,
    VARIANCE,
    response,
)

ALPHA = 1e-6  # false-positive rate of each statistical test here


@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("name", ["ve", "cosine"])
@pytest.mark.parametrize("predictor", EVERY, ids=repr)
def test_the_exact_distribution_is_the_loops(
    predictor: ss.Predictor, name: str, denoise: bool
) -> None:
    """Gaussian noise through the loop's own weights has the distribution that the analysis
    gives."""
    corrector = ss.Langevin(snr=0.2) if denoise else ss.NoCorrector()
    sampler = ss.PredictorCorrector(
        SDES[name], predictor=predictor, corrector=corrector, steps=5, denoise=denoise
    )
    distribution, on = gaussian_error(sampler, VARIANCE, mean=MEAN), response(sampler)
    torch.testing.assert_close(on[0], distribution.mean, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        on[1:].square().sum(0), distribution.variance, rtol=1e-11, atol=1e-11
    )
    assert distribution.evaluations == sampler.evaluations


@pytest.mark.parametrize(
    "predictor",
    [
        Heun(s_churn=3.0, s_noise=1.02),
        StochasticHeun(),
        ExponentialRungeKutta(1.0, 2, "epsilon"),
        ExponentialRungeKutta(1.0, 3, "epsilon"),
        ExponentialRungeKutta(0.7, 3, "x0"),
        ExponentialRungeKutta(0.7, 2, "x0", 0.4),
    ],
    ids=repr,
)
def test_simulated_chains_have_the_exact_distribution(predictor: ss.Predictor) -> None:
    """20,000 chains: means by z-tests, variances by χ², Bonferroni over the modes."""
    sampler, n = ss.PredictorCorrector(SDES["ve"], predictor=predictor, steps=6), 20_000
    score = GaussianScore(MEAN, VARIANCE, sampler.sde)
    x = sampler.sample(score, (n, 3), seed=21).double()
    distribution, alpha = gaussian_error(sampler, VARIANCE, mean=MEAN), ALPHA / 6
    off = (x.mean(0) - distribution.mean).abs() / (distribution.variance / n).sqrt()
    assert (off < stats.norm.isf(alpha / 2)).all()
    scaled = (x - distribution.mean).square().sum(0) / distribution.variance
    low, high = stats.chi2.ppf([alpha / 2, 1 - alpha / 2], n)
    assert ((low < scaled) & (scaled < high)).all()


@pytest.mark.parametrize(
    "predictor", [p for p in EVERY if not isinstance(p, StochasticHeun)], ids=repr
)
@pytest.mark.parametrize("name", ["ve", "cosine", "trigonometric"])
def test_a_constant_output_has_the_exact_solution(name: str, predictor: ss.Predictor) -> None:
    """x̂₀ = m or ε̂ = m everywhere: the mean in closed form, at any step size.

    With r = σ/α, d(x/α) is (1 + η²)(x/α − m) dr/r or (1 + η²) m dr, up to noise. A churned
    step starts where the churn ends. :class:`StochasticHeun`, a method in t, is not exact.
    """
    sde, m, x = SDES[name], 0.7, 1.3
    t, s = sde.T * torch.tensor([0.8, 0.3], dtype=torch.float64)
    numbers = predictor.tableau(sde, torch.stack([t, s]))
    got = numbers.a[0, -1] * x + m * numbers.b[0, -1].sum()
    (alpha_t, _), (alpha_s, sigma_s) = sde.marginal(t), sde.marginal(s)
    alpha_start, sigma_start = sde.marginal(numbers.times[0, 0])
    ratio_start, ratio_s, k = sigma_start / alpha_start, sigma_s / alpha_s, 1.0
    if isinstance(predictor, ExponentialRungeKutta):
        k += predictor.eta**2
    if numbers.output == "x0":
        expected = m + (x / alpha_t - m) * (ratio_s / ratio_start) ** k
    else:
        expected = x / alpha_t + k * m * (ratio_s - ratio_start)
    torch.testing.assert_close(got, alpha_s * expected, rtol=1e-11, atol=1e-12)
