"""The exact error of samplers, measured orders, optimal grids and the recommended sampler.

Oracles: simulated chains of the sampler itself, the closed-form solution of the reverse SDE on
Gaussian data, Wasserstein by quantiles and KL by quadrature, and torchdiffeq. Statistical tests
use fixed seeds and a false-positive rate of 1e-6 each.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path

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
from sdescore.analysis.chain import output_errors
from sdescore.analysis.model_error import constant_error, error_beyond
from sdescore.analysis.optimal_grid.surrogate import Surrogate, fit_surrogate, gaussian_surrogate
from sdescore.analysis.optimal_grid.trajectories import FlowTrajectories, run, trajectory_error
from sdescore.checkpoint.store import read_manifest
from tests.helpers.callers import SETTINGS

F64 = torch.float64
Z = scipy.stats.norm.isf(0.5e-6 / 6)  # two-sided, alpha = 1e-6 over six figures
SPECTRUM = torch.tensor([2.0, 0.3, 0.01], dtype=F64)
MEAN = torch.tensor([1.0, -3.0, 0.2], dtype=F64)
COUNT = 1_000_000


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


def erring(
    score: ss.GaussianScore, sde: ss.LinearSDE, error: float, spread: float | None = None
) -> Callable:
    """A score whose ε is off by normal errors of its own in every call; with ``spread``, where they
    make x₀ wrong by more than that."""
    generator = torch.Generator().manual_seed(3)

    def found(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = sde.marginal(t)
        off = error * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        if spread is not None:
            off = off / (1 + (spread * alpha / (sigma * error)) ** 2)
        return score(x, t) - off / sigma

    return found


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
    error = ss.analysis.GaussianError(1, mu * one, variance * one, *same, one, *same, *same)
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


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({}, ss.errors.IncompatibleError, "got both or none"),
        (
            {"spectrum": SPECTRUM, "data": torch.zeros(3, 2)},
            ss.errors.IncompatibleError,
            "both or none",
        ),
        ({"data": torch.zeros(3, 2), "mean": MEAN}, ss.errors.IncompatibleError, "no mean="),
        (
            {"spectrum": torch.ones(2, 2)},
            ss.errors.ShapeError,
            r"expected spectrum to be a tensor \(M,\)",
        ),
        (
            {"spectrum": torch.tensor([1.0, -1.0])},
            ss.errors.ParameterError,
            "finite variances >= 0",
        ),
        ({"spectrum": torch.tensor([])}, ss.errors.ParameterError, "at least one"),
        (
            {"spectrum": SPECTRUM, "mean": torch.zeros(2)},
            ss.errors.ShapeError,
            "expected mean of shape",
        ),
        ({"data": torch.zeros(1, 2)}, ss.errors.ShapeError, "at least two data"),
        ({"data": torch.full((3, 2), math.nan)}, ss.errors.ParameterError, "finite data"),
        ({"spectrum": SPECTRUM, "score_error": -1.0}, ss.errors.ParameterError, "score_error >= 0"),
    ],
)
def test_bad_requests(arguments: dict, error: type[Exception], match: str) -> None:
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=3)
    with pytest.raises(error, match=match):
        ss.analysis.gaussian_error(sampler, **arguments)


def test_steps_that_are_not_affine_are_refused() -> None:
    sampler = ss.PredictorCorrector(
        ss.VPSDE(), predictor=ss.DDIM(), corrector=ss.Langevin(snr=0.1, norm="batch"), steps=3
    )
    with pytest.raises(ss.errors.IncompatibleError, match="expected affine steps"):
        ss.analysis.gaussian_error(sampler, SPECTRUM)


# The surrogate and its trajectories


def two_blobs(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(2, (n, 1), generator=generator) * 2.0 - 1.0
    z = torch.randn(n, 3, generator=generator, dtype=F64)
    return sign * torch.tensor([2.0, 0.0, 0.0]) + z * torch.tensor([0.3, 0.2, 0.1])


def exact_score(surrogate: Surrogate, sde: ss.LinearSDE) -> ss.MixtureScore:
    axes = surrogate.axes
    covariances = axes @ torch.diag_embed(surrogate.variances) @ axes.mT
    return ss.MixtureScore(surrogate.weights, surrogate.means, covariances, sde)


def test_the_surrogate_is_the_mixture_that_made_the_data() -> None:
    data = two_blobs(4000)
    surrogate = fit_surrogate(data, 2)
    centres = surrogate.means[:, 0].sort().values
    torch.testing.assert_close(centres, torch.tensor([-2.0, 2.0], dtype=F64), atol=0.03, rtol=0)
    assert (surrogate.weights - 0.5).abs().max() < 0.03
    found = surrogate.variances.flip(1).sqrt()
    wanted = torch.tensor([0.3, 0.2, 0.1], dtype=F64).expand(2, 3)
    torch.testing.assert_close(found, wanted, rtol=0.06, atol=0.0)
    torch.testing.assert_close(surrogate.spectrum.sum(), data.var(0).sum())


def test_the_surrogate_denoises_as_the_exact_score_does() -> None:
    surrogate = fit_surrogate(two_blobs(1000), 3)
    sde = ss.EDMSDE(sigma_min=0.01, sigma_max=10.0)
    exact = exact_score(surrogate, sde)
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    for sigma in (0.05, 0.7, 8.0):
        ours = surrogate.denoise(z, torch.tensor(sigma**2, dtype=F64))
        torch.testing.assert_close(ours, z + sigma**2 * exact(z, sigma), rtol=1e-8, atol=1e-8)


def test_many_dimensions_keep_their_spectrum() -> None:
    """64 directions carry the mixture; the others are Gaussian modes."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(0.5, -2, 100, dtype=F64)
    data = torch.randn(300, 100, generator=generator, dtype=F64) * scale
    surrogate = fit_surrogate(data)
    assert surrogate.rank == 64 and surrogate.rest.shape == (36,)
    wanted = torch.linalg.eigvalsh(torch.cov(data.T)).flip(0)
    torch.testing.assert_close(surrogate.spectrum, wanted.clamp(min=0))
    torch.testing.assert_close(surrogate.rest, wanted.clamp(min=0)[64:])


def test_the_flow_is_the_probability_flow() -> None:
    """Against scipy's solution of dx/dσ = −σ ∇log p, between the nodes too."""
    surrogate = fit_surrogate(two_blobs(1000), 2)
    flow = FlowTrajectories.solve(surrogate, -3.0, 4.0, 5, seed=0)
    score = exact_score(surrogate, ss.EDMSDE(sigma_min=1e-3, sigma_max=100.0))

    def slope(sigma: float, y: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(y).reshape(5, 3)
        return (-sigma * score(x, sigma)).flatten().numpy()

    for half_log_snr in (-2.0, 1.2345):
        ends = (math.exp(3.0), math.exp(-half_log_snr))
        start = flow.x_bar[0].flatten().numpy()
        solved = scipy.integrate.solve_ivp(slope, ends, start, rtol=1e-9, atol=1e-9).y[:, -1]
        here = flow.at(torch.tensor(half_log_snr, dtype=F64))
        torch.testing.assert_close(here.flatten(), torch.from_numpy(solved), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "predictor",
    [
        ss.DDIM(),
        ss.Heun(),
        ss.ExponentialAdams(points=3, corrector_points=3),
        ss.predictors.RungeKutta4(),
    ],
    ids=repr,
)
def test_the_trajectories_are_the_samplers(predictor: ss.Predictor) -> None:
    sde = ss.VPSDE()
    surrogate = fit_surrogate(two_blobs(1000), 2)
    score = exact_score(surrogate, sde)
    sampler = ss.PredictorCorrector(sde, predictor=predictor, steps=7, grid=ss.LogSNRGrid())
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=F64)
    tableau = predictor.tableau(sde, sampler.times)
    ending = predictor.ending(sde, sampler.times)
    ours = run(tableau, ending, sde, sampler.times, surrogate.denoise, x)[-1]
    theirs = sampler.sample(score, init=x, dtype=F64)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_the_errors_of_one_mode_are_the_documented_ones() -> None:
    """DDIM on a VE SDE by hand, against the flow of a Gaussian mode in closed form."""
    sde, variance = ss.VESDE(sigma_min=0.05, sigma_max=3.0), 0.2
    times = torch.tensor([1.0, 0.7, 0.4, 0.1], dtype=F64)
    sigma = sde.marginal(times)[1].tolist()
    x, off = sigma[0], []
    for before, after in itertools.pairwise(sigma):
        shrunk = variance / (variance + before**2) * x
        x = after / before * x + (1 - after / before) * shrunk
        flow = sigma[0] * math.sqrt((variance + after**2) / (variance + sigma[0] ** 2))
        off.append((x - flow) ** 2 / after**2)
    x = variance / (variance + sigma[-1] ** 2) * x
    end = (x - sigma[0] * math.sqrt(variance / (variance + sigma[0] ** 2))) ** 2

    ddim, last = ss.DDIM(), 0.5 * sde.log_snr(0.0).item()
    flow = FlowTrajectories.solve(
        gaussian_surrogate(torch.tensor([variance])), -math.log(3.0), last, 1, seed=0
    )
    found = trajectory_error(ddim.tableau(sde, times), ddim.ending(sde, times), sde, times, flow)
    plain, weighted = 10 * end / variance, end / (variance + 0.05**2)
    assert found.plain.item() == pytest.approx(plain / (1 + plain / 2), rel=1e-6)
    assert found.weighted.item() == pytest.approx(weighted / (1 + weighted / 2), rel=1e-6)
    assert found.path.item() == pytest.approx(sum(off) / 3, rel=1e-6)


def test_a_flow_ends_at_the_data_and_weighs_by_their_precision() -> None:
    """One Gaussian, a mode of which is twice as wide as the noise left at t_min."""
    variances = torch.tensor([1.0, 0.02**2], dtype=F64)
    turn = torch.linalg.qr(
        torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    ).Q
    one = Surrogate(
        torch.ones(1, dtype=F64),
        torch.zeros(1, 2, dtype=F64),
        variances[None],
        turn[None],
        variances[:0],
        variances,
    )
    flow = FlowTrajectories.solve(one, -2.0, -math.log(0.01), 6, seed=1)
    start = math.exp(2.0)
    exact = (flow.x_bar[0] @ turn) * (variances / (variances + start**2)).sqrt()
    torch.testing.assert_close(flow.x @ turn, exact, rtol=3e-3, atol=1e-6)
    covariance = turn @ torch.diag(variances + 0.01**2) @ turn.T
    wanted = torch.linalg.inv(covariance).expand(6, 2, 2)
    torch.testing.assert_close(flow.precision, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("score_error", [0.0, 0.02])
def test_gaussian_modes_are_counted_as_the_mixture_would_count_them(score_error: float) -> None:
    """A mixture of one component, and the same variances as independent modes."""
    sde, predictor = ss.VESDE(sigma_min=0.001, sigma_max=2.0), ss.ExponentialAdams(points=2)
    variances = torch.tensor([1.5, 0.2], dtype=F64)
    one = Surrogate(
        torch.ones(1, dtype=F64),
        torch.zeros(1, 2, dtype=F64),
        variances[None],
        torch.eye(2, dtype=F64)[None],
        variances[:0],
        variances,
    )
    times = ss.LogSNRGrid().times(sde, 24)
    tableau = predictor.tableau(sde, times)
    first, last = (0.5 * sde.log_snr(times[[0, -1]])).tolist()
    ending = predictor.ending(sde, times)
    flows = (
        FlowTrajectories.solve(one, first, last, 10_000, seed=0),
        FlowTrajectories.solve(gaussian_surrogate(variances), first, last, 1, seed=0),
    )
    sampled, exact = (
        trajectory_error(tableau, ending, sde, times, flow, constant_error(score_error))
        for flow in flows
    )
    if score_error:
        alone = trajectory_error(tableau, ending, sde, times, flows[1])
        assert all(got > 2 * without for got, without in zip(exact, alone, strict=True))
    # The bounds are of a mean in one and inside the mean in the other: small errors compare.
    # 10,000 squares of normals have a relative error of 0.014 on their mean: five of them.
    for got, wanted in zip(sampled, exact, strict=True):
        assert got.item() == pytest.approx(wanted.item(), rel=0.07)


@pytest.mark.parametrize("spread", [None, 0.5], ids=["everywhere", "beyond"])
@pytest.mark.parametrize(
    "predictor", [ss.ExponentialAdams(points=2, corrector_points=3), ss.Heun()], ids=repr
)
def test_a_networks_errors_are_those_of_chains_that_make_them(
    predictor: ss.Predictor, spread: float | None
) -> None:
    """400,000 chains of two modes, started where the closed form of their flow is known.

    Their mean squares have a relative standard error below 0.003: five of them.
    """
    sde, error, variances = ss.VPSDE(), 0.04, torch.tensor([0.5, 0.02], dtype=F64)
    sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=ss.QuadraticGrid(), steps=7)
    times = sampler.times
    start = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(4), dtype=F64)
    score = erring(ss.GaussianScore(torch.zeros(2), variances, sde), sde, error, spread)
    errs = constant_error(error) if spread is None else error_beyond(error, spread**2)
    alpha, sigma = sde.marginal(times)
    states = [sigma[0] * start]
    states += [s.x for s in sampler.iterate(score, init=states[0], dtype=F64)]
    rho2 = (sigma / alpha).square()
    scale = start * (rho2[0] / (variances + rho2[0])).sqrt()
    off = [
        (x / a - scale * (variances + r).sqrt()).square().sum(1).mean() / r / 2
        for x, a, r in zip(states[1:-1], alpha[1:], rho2[1:], strict=True)
    ]
    end = (states[-1] - scale * variances.sqrt()).square().mean(0)
    finest = (-sde.log_snr(sde.t_min)).exp()

    first, last = (0.5 * sde.log_snr(torch.tensor([sde.T, sde.t_min], dtype=F64))).tolist()
    flow = FlowTrajectories.solve(gaussian_surrogate(variances), first, last, 1, seed=0)
    tableau, ending = predictor.tableau(sde, times), predictor.ending(sde, times)
    found = trajectory_error(tableau, ending, sde, times, flow, errs)
    plain, weighted = 10 * end.sum() / variances.sum(), (end / (variances + finest)).mean()
    assert found.plain.item() == pytest.approx((plain / (1 + plain / 2)).item(), rel=0.015)
    assert found.weighted.item() == pytest.approx((weighted / (1 + weighted / 2)).item(), rel=0.015)
    assert found.path.item() == pytest.approx(torch.stack(off).mean().item(), rel=0.015)


# Optimal grids


def test_the_search_assumes_a_networks_error() -> None:
    """All of it where it makes x₀ wrong by far more than the data's spread, half at the spread."""
    error = error_beyond(0.1, 4.0)
    assert error is not None and error_beyond(0.0, 4.0) is None and constant_error(0.0) is None
    rho = torch.tensor([2e4, 20.0, 0.2], dtype=F64)
    wanted = torch.tensor([0.1, 0.05, 1e-5], dtype=F64)
    torch.testing.assert_close(error(rho**2), wanted, rtol=2e-4, atol=0)
    # In x₀ it is ϱ times that: on a VE SDE, whose σ is ϱ.
    sde, t = ss.VESDE(sigma_max=100.0), torch.tensor([0.95, 0.6], dtype=F64)
    sigma = sde.marginal(t)[1]
    found = output_errors(sde, t, ["x0", "epsilon"], error)
    size = 0.1 / (1 + (2 / (0.1 * sigma)) ** 2)
    torch.testing.assert_close(found.abs(), size * torch.stack([sigma[0], sigma[1] ** 0]))


def test_a_grid_serves_the_score_error_it_assumes() -> None:
    """Made for an erring score it is better there, made for an exact one on the exact one."""
    sde, predictor, error = ss.VPSDE(), ss.ExponentialAdams(points=2, corrector_points=3), 0.05
    variances = torch.tensor([1.0, 0.05], dtype=F64)
    exact, spread = ss.GaussianScore(torch.zeros(2), variances, sde), variances.mean().sqrt().item()
    alpha, sigma = (value.item() for value in sde.marginal(torch.tensor(sde.T, dtype=F64)))
    x = sigma * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(6), dtype=F64)
    ends = x / alpha * (variances / (variances + (sigma / alpha) ** 2)).sqrt()
    off, first = {}, {}
    for made_for in (0.0, error):
        grid = ss.optimal_grid(sde, predictor, 5, spectrum=variances, score_error=made_for)
        sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=grid)
        lam = 0.5 * sde.log_snr(sampler.times)
        first[made_for] = (lam[1] - lam[0]).item()
        for of in (0.0, error):
            score = erring(exact, sde, of, spread) if of else exact
            made = sampler.sample(score, init=x, dtype=F64)
            off[made_for, of] = (made - ends).square().mean().sqrt().item()
    assert off[error, error] < 0.8 * off[0.0, error]
    assert off[0.0, 0.0] < 0.8 * off[error, 0.0]
    assert first[error] < first[0.0]


def test_an_optimal_grid_beats_the_fixed_ones_on_the_target_itself() -> None:
    """Fitted to samples; judged by exact errors of trajectories drawn afresh from the mixture."""
    sde, predictor = ss.VPSDE(), ss.ExponentialAdams(points=2, corrector_points=3)
    grid = ss.optimal_grid(sde, predictor, 7, data=two_blobs(1500), score_error=0)
    truth = fit_surrogate(two_blobs(20_000, seed=5), 2)
    first, last = (0.5 * sde.log_snr(torch.tensor([sde.T, sde.t_min], dtype=F64))).tolist()
    flow = FlowTrajectories.solve(truth, first, last, 500, seed=9)

    def rms(times: Tensor) -> float:
        x = run(
            predictor.tableau(sde, times),
            predictor.ending(sde, times),
            sde,
            times,
            truth.denoise,
            sde.marginal(times[0])[1] * flow.x_bar[0] * math.exp(first),
        )[-1]
        return (x - flow.x).square().sum(1).median().sqrt().item()

    ours = rms(grid.times(sde, None))
    for fixed in (ss.LogSNRGrid(), ss.UniformGrid(), ss.KarrasGrid(), ss.QuadraticGrid()):
        assert ours < 0.7 * rms(fixed.times(sde, 7))
    assert grid.held_out_loss < 3 * grid.loss < grid.log_snr_loss


@pytest.mark.parametrize(
    "sde",
    [ss.VPSDE(), ss.VESDE(), ss.RectifiedFlowSDE(), ss.DiscreteVPSDE.linear(100)],
    ids=lambda sde: type(sde).__name__,
)
@pytest.mark.parametrize("predictor", [ss.DDIM(), ss.Heun()], ids=repr)
def test_grids_for_every_sde(sde: ss.LinearSDE, predictor: ss.Predictor) -> None:
    spectrum = torch.tensor([1.0, 0.05])
    grid = ss.optimal_grid(sde, predictor, 5, spectrum=spectrum)
    times = grid.times(sde, None)
    assert len(times) == 5 and times[0] == sde.T and times[-1] >= sde.t_min
    assert grid.loss < 0.8 * grid.log_snr_loss
    sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=grid)
    w2 = ss.analysis.gaussian_error(sampler, spectrum).w2.item()
    assert grid.relative_w2 == pytest.approx(w2 / math.sqrt(1.05), rel=1e-6)


def test_a_grid_is_deterministic_and_rebuilds_from_its_repr() -> None:
    sde, predictor = ss.VPSDE(), ss.DDIM()
    data = two_blobs(200)
    state = torch.get_rng_state()
    one, two, other = (
        ss.optimal_grid(sde, predictor, 3, data=data, trajectories=4, seed=s) for s in (0, 0, 1)
    )
    assert one == two != other and torch.equal(torch.get_rng_state(), state)
    assert eval(repr(one), {"OptimalGrid": ss.analysis.OptimalGrid}) == one


def test_a_checkpoint_holds_a_grid(tmp_path: Path) -> None:
    sde = ss.VPSDE()
    grid = ss.optimal_grid(sde, ss.DDIM(), 3, spectrum=torch.tensor([1.0, 0.1]))
    model = ss.ScoreModel(ss.MLP(2, hidden=4), sde)
    ss.save(tmp_path / "m.safetensors", model, info={"grid": dataclasses.asdict(grid)})
    info = read_manifest(tmp_path / "m.safetensors")["info"]
    assert ss.analysis.OptimalGrid(**info["grid"]) == grid
    with pytest.raises(ss.errors.ScheduleError, match="expected a Grid instance, or times as"):
        ss.analysis.OptimalGrid(**{**info["grid"], "values": "soon"})


def test_likelihood_moves_the_end_towards_the_data() -> None:
    """Local precision sees the finest mode, which an early last denoise flattens."""
    sde, predictor = ss.VPSDE(), ss.ExponentialAdams()
    ends = [
        ss.optimal_grid(sde, predictor, 6, spectrum=torch.tensor([2.0, 1e-3]), likelihood=b).values[
            -1
        ]
        for b in (0.0, 1.0)
    ]
    assert ends[0] > 2 * ends[1]


class ByHand(ss.DDIM):
    """A step that no numbers describe."""

    def is_affine(self, sde: ss.SDE) -> bool:
        return False


@pytest.mark.parametrize(
    ("predictor", "steps", "options", "error", "match"),
    [
        (ByHand(), 5, {}, ss.errors.IncompatibleError, "expected a predictor with a tableau"),
        (ss.DDIM(), 1, {}, ss.errors.ParameterError, "steps >= 2"),
        (ss.DDIM(), 5.0, {}, ss.errors.ParameterError, "steps >= 2"),
        (
            ss.DDIM(),
            5,
            {"likelihood": 2.0},
            ss.errors.ParameterError,
            "likelihood >= 0 and likelihood <= 1",
        ),
        (ss.DDIM(), 5, {"score_error": -0.1}, ss.errors.ParameterError, "score_error >= 0"),
        (ss.DDIM(), 5, {"score_error": math.nan}, ss.errors.ParameterError, "score_error >= 0"),
        (ss.DDIM(), 5, {"trajectories": 0}, ss.errors.ParameterError, "trajectories >= 1"),
        (ss.DDIM(), 5, {"surrogate": "flow"}, ss.errors.IncompatibleError, "mixture, gaussian"),
        (ss.DDIM(), 5, {"data": torch.ones(9, 2)}, ss.errors.ParameterError, "data that vary"),
        (ss.DDIM(), 5, {"data": None}, ss.errors.IncompatibleError, "both or none"),
    ],
)
def test_bad_grids(
    predictor: ss.Predictor, steps: int, options: dict, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        ss.optimal_grid(ss.VPSDE(), predictor, steps, **{"data": two_blobs(50), **options})


def test_the_recommended_sampler() -> None:
    sampler = ss.recommended_sampler(ss.VPSDE(), 3, data=two_blobs(300).float())
    assert sampler.evaluations == 3 and isinstance(sampler.grid, ss.analysis.OptimalGrid)
    assert "relative_w2=" in repr(sampler)
    with pytest.raises(ss.errors.ParameterError, match="evaluations >= 2"):
        ss.recommended_sampler(ss.VPSDE(), 1, data=two_blobs(300))


# The caller's own settings


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_no_setting_of_the_caller_changes_an_analysis(setting: Callable) -> None:
    """Bit for bit, and with the types of the numbers: grids, exact errors, orders, spectra."""
    data, spectrum = two_blobs(60), torch.tensor([2.0, 0.1])

    def analysed() -> list[object]:
        sde, predictor = ss.VPSDE(), ss.ExponentialAdams()
        options = {"trajectories": 8, "seed": 3}
        grids = [
            ss.optimal_grid(sde, predictor, 3, data=data, weights=True, **options),
            ss.optimal_grid(sde, predictor, 3, spectrum=spectrum, **options),
            ss.optimal_grid(sde, ss.Ancestral(), 3, data=data, surrogate="gaussian", **options),
        ]
        sampler = ss.PredictorCorrector(sde, predictor=ss.Heun(), grid=grids[0])
        error = ss.analysis.gaussian_error(sampler, data=data, score_error=0.1)
        order = ss.analysis.order(predictor, sde, steps=8)
        spectra = ss.analysis.local_spectra(data, neighbourhoods=2)
        return [
            *map(repr, grids),
            error.w2.item(),
            error.w2_of_score.item(),
            order,
            spectra.tolist(),
        ]

    plain = analysed()
    with setting():
        assert analysed() == plain


@pytest.mark.guards("W03")
def test_numpy_scalars_are_numbers() -> None:
    spectrum = torch.tensor([2.0, 0.1])
    plain = ss.optimal_grid(
        ss.VPSDE(), ss.DDIM(), 3, spectrum=spectrum, likelihood=0.5, score_error=0.25, seed=1
    )
    options = {"likelihood": np.float32(0.5), "score_error": np.float32(0.25), "seed": np.int64(1)}
    grid = ss.optimal_grid(ss.VPSDE(), ss.DDIM(), np.int64(3), spectrum=spectrum, **options)
    assert repr(grid) == repr(plain)
