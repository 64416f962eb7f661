"""The surrogate of the data, and the trajectories that grids are fitted to."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

import sdescore as ss
from sdescore.analysis.model_error import constant_error, error_beyond
from sdescore.analysis.optimal_grid.surrogate import Surrogate, fit_surrogate, gaussian_surrogate
from sdescore.analysis.optimal_grid.trajectories import FlowTrajectories, run, trajectory_error
from tests.helpers.spectra import F64, erring, two_blobs


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


@pytest.mark.parametrize(("n", "components"), [(5, 1), (30, 2), (71, 5), (400, 16)])
def test_a_component_stands_for_four_data_a_direction(n: int, components: int) -> None:
    """In three directions for twelve; at least one component, and at most 16."""
    assert len(fit_surrogate(two_blobs(n)).weights) == components


def test_a_covariance_counts_some_data_of_all_components() -> None:
    """Two blobs far apart, so that every datum belongs to one: in r directions, the scatter of a
    blob and of r data with the pooled covariance, by numpy."""
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(6, 2)) - [20, 0], rng.normal(size=(30, 2)) * [0.3, 2] + [20, 0]
    surrogate = fit_surrogate(torch.from_numpy(np.concatenate([few, many])), 2)
    scatters = [len(x) * np.cov(x.T, bias=True) for x in (few, many)]
    pooled = sum(scatters) / 36
    for k, x, scatter in zip(surrogate.weights.argsort(), (few, many), scatters, strict=True):
        assert surrogate.weights[k].item() == pytest.approx(len(x) / 36, rel=1e-6)
        wanted = np.linalg.eigvalsh((scatter + 2 * pooled) / (len(x) + 2))
        # Every covariance is held from 0 by a millionth of the data's variance, here some 10⁻⁴.
        np.testing.assert_allclose(surrogate.variances[k].numpy(), wanted, rtol=0, atol=3e-4)


def test_a_narrow_component_in_a_wide_one_is_found() -> None:
    """Each datum's share counts the components' weights and widths: 80 % are narrow. Of
    10,000 data, five standard errors of the share are 0.02 without overlap, and those of the wide
    component's spread 8 %: a false alarm in 3e-6 of the seeds, or a few times that with it."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(10_000, 2, generator=generator, dtype=F64)
    wide = torch.rand(10_000, 1, generator=generator) < 0.2
    surrogate = fit_surrogate(torch.where(wide, z + 0.5, 0.3 * z), 2)
    order = surrogate.variances[:, 0].argsort()
    share, std = surrogate.weights[order], surrogate.variances[order].sqrt()
    torch.testing.assert_close(share, torch.tensor([0.8, 0.2], dtype=F64), rtol=0, atol=0.03)
    wanted = torch.tensor([[0.3, 0.3], [1.0, 1.0]], dtype=F64)
    torch.testing.assert_close(std, wanted, rtol=0.1, atol=0)


@pytest.mark.parametrize("components", [1, 2])
def test_data_of_a_plane_have_a_surrogate(components: int) -> None:
    """Without spread in one direction, the denoiser knows where they are in it."""
    data = two_blobs(40)
    data[:, 2] = 7.0
    surrogate = fit_surrogate(data, components)
    flat = surrogate.variances.amin(1)
    assert flat.min() > 1e-8 and flat.max() < 1e-5
    score = exact_score(surrogate, ss.EDMSDE())
    noised = data[:5] + torch.tensor([0.0, 0.0, 0.1])
    cleaned = noised + 0.1**2 * score(noised, 0.1)
    assert (cleaned[:, 2] - 7).abs().max() < 1e-3


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
