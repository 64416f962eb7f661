"""The exact distribution of a sampler's output on Gaussian data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sdescore as ss
from tests.helpers.spectra import F64, erring

Z = scipy.stats.norm.isf(0.5e-6 / 6)  # two-sided, alpha = 1e-6 over six figures


SPECTRUM = torch.tensor([2.0, 0.3, 0.01], dtype=F64)


MEAN = torch.tensor([1.0, -3.0, 0.2], dtype=F64)


COUNT = 250_000


# The distribution


CHAINS = {
    "Euler–Maruyama": (ss.EulerMaruyama(), ss.NoCorrector(), {}),
    "probability flow by Euler": (ss.EulerMaruyama(eta=0.0), ss.NoCorrector(), {}),
    "reverse diffusion + Langevin": (ss.ReverseDiffusion(), ss.Langevin(snr=0.2), {}),
    "corrector first": (ss.Ancestral(), ss.Langevin(snr=0.1), {"corrector_first": True}),
    "multistep": (ss.ExponentialAdams(points=3, corrector_points=4), ss.NoCorrector(), {}),
    "noisy multistep + Langevin": (
        ss.ExponentialAdams(eta=1.0, points=2, corrector_points=3),
        ss.Langevin(snr=0.1, steps=2),
        {},
    ),
    "multistage": (ss.Heun(), ss.NoCorrector(), {}),
    "multistage with churn": (ss.Heun(s_churn=3.0), ss.NoCorrector(), {}),
    "SEEDS-3": (
        ss.ExponentialRungeKutta(eta=1.0, stages=3, output="epsilon"),
        ss.NoCorrector(),
        {},
    ),
    "no denoise, a prior that knows the data": (
        ss.DDIM(eta=0.5),
        ss.NoCorrector(),
        {"denoise": False, "data_std": 1.0},
    ),
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.VESDE(sigma_max=10.0)], ids=["vp", "ve"])
def test_the_distribution_is_that_of_simulated_chains(sde: ss.LinearSDE, chain: tuple) -> None:
    predictor, corrector, options = chain
    sampler = ss.PredictorCorrector(
        sde, predictor=predictor, corrector=corrector, steps=6, grid=ss.LogSNRGrid(), **options
    )
    error = ss.analysis.gaussian_error(sampler, SPECTRUM, mean=MEAN)
    assert error.evaluations == sampler.evaluations
    score = ss.GaussianScore(MEAN, SPECTRUM, sde)
    x = sampler.sample(score, (COUNT, 3), seed=0, dtype=F64, max_batch=100_000)
    off = (x.mean(0) - error.mean) / (error.variance / COUNT).sqrt()
    wide = (x.var(0) / error.variance - 1) / math.sqrt(2 / COUNT)
    assert off.abs().max() < Z and wide.abs().max() < Z


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
def test_the_distribution_of_a_score_that_errs_is_that_of_simulated_chains(chain: tuple) -> None:
    predictor, corrector, options = chain
    sde = ss.VPSDE()
    sampler = ss.PredictorCorrector(
        sde, predictor=predictor, corrector=corrector, steps=6, grid=ss.LogSNRGrid(), **options
    )
    exact = ss.analysis.gaussian_error(sampler, SPECTRUM, mean=MEAN)
    error = ss.analysis.gaussian_error(sampler, SPECTRUM, mean=MEAN, score_error=0.3)
    score = erring(ss.GaussianScore(MEAN, SPECTRUM, sde), sde, 0.3)
    x = sampler.sample(score, (COUNT, 3), seed=0, dtype=F64)
    off = (x.mean(0) - error.mean) / (error.variance / COUNT).sqrt()
    wide = (x.var(0) / error.variance - 1) / math.sqrt(2 / COUNT)
    assert off.abs().max() < Z and wide.abs().max() < Z
    torch.testing.assert_close(error.exact_variance, exact.variance)
    assert (error.variance / exact.variance).max() > 1.03  # what the test would not miss
    torch.testing.assert_close(error.w2_of_prior, exact.w2_of_prior)
    by_hand = (error.variance.sqrt() - exact.variance.sqrt()).norm()
    assert error.w2_of_score.item() == pytest.approx(by_hand.item()) and exact.w2_of_score == 0


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.VESDE(sigma_max=3.0)], ids=["vp", "ve"])
def test_many_steps_leave_the_prior_and_the_end(sde: ss.LinearSDE, eta: float) -> None:
    """On Gaussian data dx = (−η² f + ½(1 + η²)(log v)') x dt backwards, in closed form."""
    sampler = ss.PredictorCorrector(
        sde,
        predictor=ss.ExponentialAdams(eta=eta, points=2),
        steps=4000,
        grid=ss.LogSNRGrid(),
        denoise=False,
    )
    error = ss.analysis.gaussian_error(sampler, SPECTRUM, mean=MEAN)
    (alpha_T, sigma_T), (alpha_0, sigma_0) = (
        sde.marginal(torch.tensor(t, dtype=F64)) for t in (sde.T, sampler.times[-1].item())
    )
    v_T, v_0 = (a**2 * SPECTRUM + s**2 for a, s in ((alpha_T, sigma_T), (alpha_0, sigma_0)))
    transfer = (alpha_T / alpha_0) ** eta**2 * (v_0 / v_T) ** ((1 + eta**2) / 2)
    torch.testing.assert_close(
        error.mean, alpha_0 * MEAN - transfer * alpha_T * MEAN, rtol=1e-4, atol=1e-5
    )
    variance = v_0 + transfer**2 * (sigma_T**2 - v_T)
    torch.testing.assert_close(error.variance, variance, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(error.started_variance, v_0, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(error.ended_variance, v_0, rtol=1e-12, atol=0.0)


def test_the_last_denoise_alone() -> None:
    """Of N(αμ, v) it is N(μ, α²Λ²/v)."""
    sde = ss.VPSDE()
    sampler = ss.PredictorCorrector(sde, predictor=ss.DDIM(), grid=[1.0, 0.4])
    error = ss.analysis.gaussian_error(sampler, SPECTRUM, mean=MEAN)
    alpha, sigma = sde.marginal(torch.tensor(0.4, dtype=F64))
    v = alpha**2 * SPECTRUM + sigma**2
    torch.testing.assert_close(error.ended_mean, MEAN)
    torch.testing.assert_close(error.ended_variance, alpha**2 * SPECTRUM**2 / v)


@given(
    m=st.floats(-2, 2),
    mu=st.floats(-2, 2),
    Q=st.floats(0.01, 4),
    variance=st.floats(0.01, 4),
)
def test_distances_of_gaussians(m: float, mu: float, Q: float, variance: float) -> None:
    """W2 by quantiles, KL by quadrature."""
    one = torch.ones(1, dtype=F64)
    same = (m * one, Q * one)
    error = ss.analysis.GaussianOutput(1, mu * one, variance * one, *same, one, *same, *same)
    u = (np.arange(20_000) + 0.5) / 20_000
    p, q = scipy.stats.norm(mu, variance**0.5), scipy.stats.norm(m, Q**0.5)
    squared = np.mean((p.ppf(u) - q.ppf(u)) ** 2)
    assert error.w2.item() == pytest.approx(math.sqrt(squared), rel=2e-3, abs=1e-6)
    grid = np.linspace(mu - 12 * variance**0.5, mu + 12 * variance**0.5, 4001)
    kl = scipy.integrate.simpson(p.pdf(grid) * (p.logpdf(grid) - q.logpdf(grid)), x=grid)
    assert error.kl.item() == pytest.approx(kl, rel=1e-6, abs=1e-9)
    assert error.relative_std.item() == pytest.approx(math.sqrt(Q / variance) - 1, rel=1e-12)


def test_many_one_stage_steps_one_by_one() -> None:
    """More rows than are taken at once, with two kinds of outputs, against their recursion."""
    sde, steps = ss.VPSDE(), 75
    sampler = ss.PredictorCorrector(
        sde, predictor=ss.ExponentialAdams(eta=1.0, points=1), steps=steps, grid=ss.LogSNRGrid()
    )
    error = ss.analysis.gaussian_error(sampler, SPECTRUM, mean=MEAN)
    times = sampler.times
    mean, variance = torch.zeros(3, dtype=F64), sde.marginal(times[0])[1].square().expand(3)
    for t, s in itertools.pairwise(times):
        bridge = sde.bridge(s, t)  # ancestral sampling, in moments
        alpha, sigma = sde.marginal(t)
        gain = alpha * SPECTRUM / (alpha**2 * SPECTRUM + sigma**2)
        on_x0 = bridge.weight_0
        factor = bridge.weight_t + on_x0 * gain
        mean = factor * mean + on_x0 * (1 - gain * alpha) * MEAN
        variance = factor**2 * variance + bridge.variance
    alpha, sigma = sde.marginal(times[-1])
    gain = alpha * SPECTRUM / (alpha**2 * SPECTRUM + sigma**2)
    torch.testing.assert_close(error.mean, gain * mean + (1 - gain * alpha) * MEAN)
    torch.testing.assert_close(error.variance, gain**2 * variance)


def test_contributions_bound_the_whole() -> None:
    sampler = ss.PredictorCorrector(
        ss.VESDE(sigma_max=3.0), predictor=ss.Ancestral(), steps=15, grid=ss.LogSNRGrid()
    )
    error = ss.analysis.gaussian_error(sampler, SPECTRUM, mean=MEAN, score_error=0.1)
    parts = (error.w2_of_score, error.w2_of_prior, error.w2_of_steps, error.w2_of_end)
    assert all(part > 0 for part in parts)
    assert error.w2 <= sum(parts)


def test_data_are_their_own_spectrum() -> None:
    """Rotated data: the eigenvalues and the mean's components in their directions."""
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=F64))[0]
    z = torch.randn(500, 3, generator=generator, dtype=F64)
    z = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T))).T
    data = (MEAN + z * SPECTRUM.sqrt()) @ rotation.T
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=8)
    by_data = ss.analysis.gaussian_error(sampler, data=data.reshape(500, 1, 3))
    by_spectrum = ss.analysis.gaussian_error(sampler, SPECTRUM, mean=MEAN)
    torch.testing.assert_close(by_data.data_variance, SPECTRUM)
    torch.testing.assert_close(by_data.data_mean.abs(), MEAN.abs())
    for name in ("w2", "kl", "w2_of_prior"):
        torch.testing.assert_close(getattr(by_data, name), getattr(by_spectrum, name))


def test_gradients_of_the_times() -> None:
    """Central differences, for a chain of products and a general one."""
    for predictor in (ss.Ancestral(), ss.ExponentialAdams(eta=0.5, points=2, corrector_points=3)):
        sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=predictor, steps=5)

        def w2(inner: Tensor, sampler: ss.PredictorCorrector = sampler) -> Tensor:
            times = torch.cat([sampler.times[:1], inner, sampler.times[-1:]])
            return ss.analysis.gaussian_error(sampler, SPECTRUM, mean=MEAN, times=times).w2

        inner = sampler.times[1:-1].clone().requires_grad_()
        assert torch.autograd.gradcheck(w2, inner)


class Operations(TorchDispatchMode):
    """Counts torch's operations."""

    count = 0

    def __torch_dispatch__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        self.count += 1
        return func(*args, **kwargs or {})


def test_the_modes_of_a_thousand_steps_are_worked_on_in_blocks() -> None:
    """Two operations of torch a step, about; one step after the other takes more than fifty."""
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=1000)
    with Operations() as operations:
        ss.analysis.gaussian_error(sampler, torch.logspace(1, -4, 30))
    assert operations.count < 3000
