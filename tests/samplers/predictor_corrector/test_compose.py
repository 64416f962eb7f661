"""Everything with everything: any SDE, predictor, corrector, grid, order and shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import sdescore as ss
from sdescore.score.mixture import GaussianScore
from tests.helpers.affine import Modes, coefficients, output_moments
from tests.helpers.methods import Heun, Multistep
from tests.helpers.strategies import REPRESENTATIVES, grids, linear_sdes, log_uniform


@st.composite
def predictors(draw: st.DrawFn) -> ss.Predictor:
    eta = draw(st.sampled_from([0.0, 1.0]) | st.floats(0, 1))
    return draw(
        st.sampled_from(
            [
                ss.EulerMaruyama(eta),
                ss.ReverseDiffusion(eta),
                ss.DDIM(eta),
                ss.Ancestral(),
                ss.NoPredictor(),
                Heun(),
                Multistep(),
            ]
        )
    )


@st.composite
def correctors(draw: st.DrawFn, sde: ss.LinearSDE) -> ss.Corrector:
    steps = draw(st.integers(1, 3))
    last = sde.marginal(sde.t_min)[1].item()
    options: list[ss.Corrector] = [
        ss.NoCorrector(),
        ss.Langevin(draw(log_uniform(0.01, 0.7)), steps),
    ]
    if last > 0:
        options.append(ss.AnnealedLangevin(draw(log_uniform(1e-3, 1.0)) * last**2, steps))
    return draw(st.sampled_from(options))


@st.composite
def samplers(draw: st.DrawFn) -> ss.PredictorCorrector:
    sde = draw(linear_sdes())
    assume(sde.t_min < sde.T)  # a table of one level has one time
    predictor, grid = draw(predictors()), draw(grids(sde))
    if isinstance(predictor, Multistep):
        assume(bool(sde.log_snr(torch.tensor([sde.t_min, sde.T])).isfinite().all()))
    denoise = draw(st.booleans())
    longest = sde.levels - (not denoise) if isinstance(grid, ss.LevelGrid) else 12
    return ss.PredictorCorrector(
        sde,
        predictor=predictor,
        corrector=draw(correctors(sde)),
        grid=grid,
        steps=draw(st.integers(1, min(12, longest))),
        corrector_first=draw(st.booleans()),
        denoise=denoise,
    )


def shapes() -> st.SearchStrategy[tuple[int, ...]]:
    """``(B, *E)``, with B = 0, empty events and events of no elements."""
    event = st.lists(st.integers(0, 3), max_size=3)
    return st.builds(lambda b, e: (b, *e), st.integers(0, 3), event)


def score_of(mean: float, variance: float, sde: ss.LinearSDE):
    def score(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (v.item() for v in sde.marginal(t))
        return (alpha * mean - x) / (alpha**2 * variance + sigma**2)

    return score


@given(samplers(), shapes(), st.floats(-2, 2), log_uniform(0.05, 5.0))
@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_any_chain_without_noise_is_its_affine_map(sampler, shape, mean, variance) -> None:
    """Zeros for noise, a start given: the loop's result is constant + weight · start."""
    score = score_of(mean, variance, sampler.sde)
    init = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).reshape(shape)
    zeros = ss.noise.ReplayNoise(torch.zeros(len(sampler.program.spans), *shape))
    peak = 1.0
    for state in sampler.iterate(score, init=init, noise=zeros, dtype=torch.float64):
        peak = max([peak, *state.x.abs().flatten().tolist()])
    got = sampler.sample(score, init=init, noise=zeros, dtype=torch.float64)
    assert got.shape == shape and got.isfinite().all()
    on = coefficients(sampler, Modes.of((mean, variance)))[0]
    # Unstable steps (Euler on a stiff SDE, a few steps) grow to `peak` and round there.
    tolerance = {"rtol": 1e-8, "atol": 1e-9 * peak}
    torch.testing.assert_close(got, on[0] + on[1] * init, **tolerance)


@given(samplers(), shapes(), st.integers(0, 9))
@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
def test_any_chain_with_noise_is_its_affine_map(sampler, shape, seed) -> None:
    score = score_of(0.3, 0.8, sampler.sde)
    draws = torch.randn(len(sampler.program.spans), *shape, dtype=torch.float64)
    init = torch.ones(shape, dtype=torch.float64)
    noise = ss.noise.ReplayNoise(draws)
    peak, last = 1.0, init  # a chain without predictor, corrector and denoise has no step
    for state in sampler.iterate(score, init=init, noise=noise, dtype=torch.float64):
        last = state.x
        peak = max([peak, *last.abs().flatten().tolist()])
    on = torch.tensor(coefficients(sampler, Modes.of((0.3, 0.8)))[0])
    basis = torch.cat([torch.ones(1, *shape), init[None], draws[1:]])[: len(on)]
    expected = (on.reshape(-1, *[1] * len(shape)) * basis).sum(0)
    torch.testing.assert_close(last, expected, rtol=1e-8, atol=1e-9 * peak)


@given(samplers(), st.sampled_from(["sample", "batch"]), shapes())
@settings(max_examples=40, suppress_health_check=[HealthCheck.filter_too_much])
def test_langevin_with_norms_of_zero_noise_does_nothing(sampler, norm, shape) -> None:
    """τ = 2 (snr ‖z‖/‖s‖)² is 0 with z = 0, so the corrected chain is the bare one."""
    options = {
        "predictor": sampler.predictor,
        "grid": sampler.grid,
        "steps": sampler.steps,
        "denoise": sampler.denoise,
        "corrector_first": sampler.corrector_first,
    }
    bare = ss.PredictorCorrector(sampler.sde, **options)
    corrected = ss.PredictorCorrector(
        sampler.sde, corrector=ss.Langevin(0.2, 2, norm=norm), **options
    )
    score, init = score_of(0.3, 0.8, sampler.sde), torch.ones(shape, dtype=torch.float64)
    ends = [
        s.sample(
            score,
            init=init,
            noise=ss.noise.ReplayNoise(torch.zeros(len(s.program.spans), *shape)),
            dtype=torch.float64,
        )
        for s in (bare, corrected)
    ]
    torch.testing.assert_close(*ends, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("name", REPRESENTATIVES)
@pytest.mark.parametrize(
    "predictor",
    [ss.EulerMaruyama(), ss.ReverseDiffusion(), ss.Ancestral(), ss.DDIM(), ss.DDIM(0.5)],
    ids=repr,
)
def test_every_pair_samples_the_data(name: str, predictor: ss.Predictor) -> None:
    """N((1, −2), 0.25) from its exact marginal at T: distribution within 0.1, and 400 chains near
    it."""
    sde, data = REPRESENTATIVES[name], Modes.of((1.0, 0.25), (-2.0, 0.25))
    fine = 400 if isinstance(predictor, (ss.EulerMaruyama, ss.ReverseDiffusion)) else 60
    grid: ss.grids.Grid = ss.UniformGrid()
    if name in ("edm", "flow", "cosine", "ve", "marginal-straight"):
        grid = ss.LogSNRGrid()  # uniform steps are stiff there
    mean, variance = (torch.tensor(v, dtype=torch.float32) for v in data.marginal(sde, sde.T))
    init = mean + variance.sqrt() * torch.randn(400, 2)
    for corrector in (ss.NoCorrector(), ss.Langevin(snr=0.1)):
        sampler = ss.PredictorCorrector(
            sde, predictor=predictor, corrector=corrector, steps=fine, grid=grid
        )
        reached, spread = output_moments(sampler, data)
        np.testing.assert_allclose(reached, [1.0, -2.0], atol=0.1)
        np.testing.assert_allclose(np.sqrt(spread), 0.5, atol=0.1)
        x = sampler.sample(data.score(sde), init=init)
        # Six standard errors of the mean of 400, α < 1e-8.
        np.testing.assert_allclose(x.mean(0), reached, atol=6 * 0.6 / 20)


@pytest.mark.guards("M05")
def test_a_user_may_subclass_linear_sde_with_a_marginal_alone() -> None:
    """No list of known classes stands between an SDE and the samplers."""

    class Mine(ss.LinearSDE):
        T = 1.0
        t_min = 1e-3

        def _marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return torch.exp(-3 * t**2), torch.sqrt(-torch.expm1(-6 * t**2))

    sde = Mine()
    score = GaussianScore([1.0], 0.25, sde)
    for predictor in (ss.EulerMaruyama(), ss.ReverseDiffusion(), ss.Ancestral(), ss.DDIM()):
        for corrector in (ss.NoCorrector(), ss.Langevin(0.1), ss.AnnealedLangevin(1e-7, 1)):
            sampler = ss.PredictorCorrector(
                sde, predictor=predictor, corrector=corrector, steps=100
            )
            x = sampler.sample(score, (500, 1))
            assert x.mean().item() == pytest.approx(1.0, abs=0.15)
            assert x.std().item() == pytest.approx(0.5, abs=0.1)


@pytest.mark.guards("M03")
def test_a_step_knows_both_its_ends() -> None:
    """``dt = 1/N`` where the spacing is ``(1 − ε)/(N − 1)`` is the classic off-by-one."""
    times = torch.linspace(1.0, 0.3, 5, dtype=torch.float64)
    sde = ss.LinearSDE.from_marginal(
        lambda t: torch.exp(-t), lambda t: torch.sqrt(-torch.expm1(-2 * t)), t_min=0.3
    )
    sampler = ss.PredictorCorrector(
        sde, predictor=ss.EulerMaruyama(), grid=ss.UniformGrid(), steps=5
    )
    assert torch.equal(sampler.times, times)
    for row, h in zip(sampler.program.rows, -times.diff(), strict=False):
        assert row.a[0] == pytest.approx(1 + h.item(), rel=1e-12)  # f = −1
        assert row.c[0][0] == pytest.approx(math.sqrt(2 * h.item()), rel=1e-12)  # g² = 2


@pytest.mark.guards("M06")
def test_the_last_denoise_is_tweedies_mean_at_the_last_time() -> None:
    for name, sde in REPRESENTATIVES.items():
        last = 0.3 * sde.T
        alpha, sigma = (v.item() for v in sde.marginal(last))
        sampler = ss.PredictorCorrector(sde, predictor=ss.NoPredictor(), grid=[last])
        x = torch.randn(3, 2, dtype=torch.float64)
        got = sampler.sample(lambda x, t: torch.sin(x), init=x, dtype=torch.float64)
        expected = (x + sigma**2 * torch.sin(x)) / alpha
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12, msg=name)


def test_parts_hash_compare_and_rebuild_by_repr() -> None:
    names = {name: getattr(ss, name) for name in ss.__all__}
    for part in (ss.DDIM(0.3), ss.Langevin(0.2, 3, "batch"), ss.AnnealedLangevin(1e-3, 2)):
        assert eval(repr(part), names) == part and hash(part) == hash(eval(repr(part), names))
    one, two = (
        ss.PredictorCorrector(ss.VPSDE(), predictor=ss.ReverseDiffusion(), steps=n) for n in (5, 5)
    )
    assert one == two and hash(one) == hash(two)
    assert eval(repr(one), names) == one


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_euler_maruyama_by_step_and_by_tableau_are_one(name: str) -> None:
    """A linear SDE stripped to its drift and diffusion takes the other path through the loop."""

    class Bare(ss.SDE):
        T, t_min = REPRESENTATIVES[name].T, REPRESENTATIVES[name].t_min

        def drift(self, x: Tensor, t: ss.typing.Time) -> Tensor:
            return REPRESENTATIVES[name].drift(x, t)

        def diffusion(self, t: ss.typing.Time) -> Tensor:
            return REPRESENTATIVES[name].diffusion(t)

    linear, times = REPRESENTATIVES[name], [0.6, 0.5, 0.43, 0.31]
    times = [linear.T * t for t in times]
    results = [
        ss.PredictorCorrector(sde, predictor=ss.EulerMaruyama(), grid=times, denoise=False).sample(
            lambda x, t: -torch.tanh(x) / (0.1 + t),
            init=torch.ones(3, 2),
            seed=5,
            dtype=torch.float64,
        )
        for sde in (linear, Bare())
    ]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@pytest.mark.guards("M10")
def test_a_small_sigma_max_needs_the_datas_own_spread() -> None:
    """σ_max = 1 on data of standard deviation 2: N(0, σ_max²) is far too narrow a start."""
    sde, data = ss.VESDE(sigma_min=0.05, sigma_max=1.0), Modes.of((0.0, 4.0))
    std = {}
    for data_std in (0.0, 2.0):
        sampler = ss.PredictorCorrector(sde, predictor=ss.DDIM(), steps=200, data_std=data_std)
        start = [0.0], [sde.prior_std(data_std) ** 2]
        std[data_std] = math.sqrt(output_moments(sampler, data, start)[1][0])
        x = sampler.sample(data.score(sde), (4000, 1))
        assert x.std().item() == pytest.approx(std[data_std], rel=0.08)
    assert std[2.0] == pytest.approx(2.0, rel=0.01)
    assert std[0.0] < 1.0
