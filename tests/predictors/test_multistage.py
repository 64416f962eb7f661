"""Exact distributions and noises of the multistage predictors."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.integrate
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
    VP,
    response,
)
from tests.helpers.strategies import REPRESENTATIVES

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


@pytest.mark.guards("T16")
@pytest.mark.parametrize("name", REPRESENTATIVES)
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_noises_of_a_step_add_up_to_the_exact_kernels(name: str, stages: int) -> None:
    """η = 1: the bridge's variance where x₀ is held, that of x_s | x_t, ε where ε is; also at
    every stage."""
    sde = REPRESENTATIVES[name]
    grid = sde.T * torch.tensor([0.9, 0.5, 0.49, 0.1], dtype=torch.float64)
    for output in ("x0", "epsilon"):
        numbers = ExponentialRungeKutta(1.0, stages, output).tableau(sde, grid)
        ends = torch.cat([numbers.times[:, 1:], grid[1:, None]], 1)
        for j in range(stages):
            bridge = sde.bridge(ends[:, j], grid[:-1])
            held = bridge.added_variance / bridge.scale**2
            expected = bridge.variance if output == "x0" else held
            got = numbers.c[:, j].square().sum(-1)
            torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-14)
            assert (numbers.c[:, j, j + 1 :] == 0).all()


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_noises_cover_the_step_once(stages: int) -> None:
    predictor = ExponentialRungeKutta(1.0, stages)
    sampler = ss.PredictorCorrector(VP, predictor=predictor, steps=5)
    spans = sampler.program.spans[1:]
    assert len(spans) == 4 * stages
    assert spans[0][0] == 1.0 and spans[-1][1] == sampler.times[-1]
    assert all(one[1] == other[0] for one, other in itertools.pairwise(spans))
    assert [span[0] for span in spans[::stages]] == sampler.times[:-1].tolist()


@pytest.mark.parametrize("node", [0.2, 0.4, 0.9])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_node_of_ones_own_ends_with_the_line_through_both_outputs(
    node: float, eta: float
) -> None:
    """The integral of the exact solution by scipy's quadrature, between two times."""
    numbers = ExponentialRungeKutta(eta, 2, "x0", node).tableau(
        VP, torch.tensor([0.8, 0.3], dtype=torch.float64)
    )
    lam = 0.5 * VP.log_snr(
        torch.tensor([0.8, 0.3, numbers.times[0, 1].item()], dtype=torch.float64)
    )
    h, alpha_s = (lam[1] - lam[0]).item(), VP.marginal(0.3)[0].item()
    assert (lam[2] - lam[0]).item() == pytest.approx(node * h, rel=1e-9)
    k = 1 + eta**2
    for newest, wanted in ((0, lambda u: u / node), (1, lambda u: 1 - u / node)):
        integral, _ = scipy.integrate.quad(
            lambda tau, f=wanted: math.exp(-k * (h - tau)) * f(tau / h), 0, h, epsabs=1e-13
        )
        assert numbers.b[0, 1, newest].item() == pytest.approx(alpha_s * k * integral, rel=1e-7)


@pytest.mark.parametrize("steps", [12, 20, 30])
@pytest.mark.parametrize("sde", [VP, ss.VESDE(sigma_max=20.0)], ids=["vp", "ve"])
def test_two_fifths_leave_little_of_the_distributions_error_at_eta_1(
    sde: ss.LinearSDE, steps: int
) -> None:
    """As the documentation says: less than a third of what the papers' middle node leaves."""
    spectrum = torch.tensor([2.0, 0.5, 0.05]).double()
    kl = [
        ss.analysis.gaussian_error(
            ss.PredictorCorrector(
                sde,
                predictor=ExponentialRungeKutta(1.0, 2, "x0", node),
                grid=ss.LogSNRGrid(),
                steps=steps,
            ),
            spectrum,
        ).w2_of_steps.item()
        for node in (0.4, 0.5, None)
    ]
    assert kl[0] < min(kl[1:]) / 3


def test_churn_draws_are_off_the_path() -> None:
    sampler = ss.PredictorCorrector(VP, predictor=Heun(s_churn=3.0), steps=5)
    assert sampler.program.spans == [None] * 5  # the start, three moves below T, the last denoise
    x = sampler.sample(GaussianScore(MEAN, VARIANCE, VP), (2, 3), noise=ss.noise.BrownianNoise(1))
    assert torch.equal(x, sampler.sample(GaussianScore(MEAN, VARIANCE, VP), (2, 3), seed=1))
