"""Orders of convergence, measured on exact distributions and on shared Brownian paths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import sdescore as ss
from tests.helpers import methods
from tests.helpers.affine import Modes, coefficients, order, output_moments, slope
from tests.helpers.methods import Heun, Multistep

fast = pytest.mark.fast  # but not the simulations of a path

DATA = Modes.of((0.7, 0.5), (-1.0, 2.0), (0.2, 0.05))
# Moderate σ_max/σ_min for VE: with λ the data's variance, Euler–Maruyama's leading error there
# is u/(u + λ)² at u = σ_min² minus the same at u = σ_max², and vanishes where
# λ = σ_min σ_max: 0.5 at the default 0.01 and 50, where the measured order is 2.1 by luck.
SDES = {
    "ve": ss.VESDE(sigma_min=0.1, sigma_max=4.0),
    "vp": ss.VPSDE(),
    "subvp": ss.SubVPSDE(),
    "cosine": ss.CosineVPSDE(T=0.9),
    "flow": ss.RectifiedFlowSDE(T=0.9),
    "trigonometric": ss.LinearSDE.from_marginal(
        lambda t: torch.cos(1.4 * t), lambda t: torch.sin(1.4 * t), T=1.0
    ),
}
PREDICTORS = [
    *(ss.EulerMaruyama(eta) for eta in (0.0, 0.5, 1.0)),
    *(ss.ReverseDiffusion(eta) for eta in (0.0, 0.5, 1.0)),
    *(ss.DDIM(eta) for eta in (0.0, 0.5, 1.0)),
    ss.Ancestral(),
]
# Over a moderate range of λ the leading error shows at few steps.
SHORT = {
    "ve": ss.VESDE(sigma_min=0.3, sigma_max=2.0),
    "trigonometric": ss.LinearSDE.from_marginal(
        lambda t: torch.cos(1.4 * t), lambda t: torch.sin(1.4 * t), T=0.8, t_min=0.1
    ),
}
ANY_NUMBER_OF_TIMES = [p for p in methods.PREDICTORS if p.grid_times is None]
TOLERANCE = 0.1  # NUMERICS' bar


@fast
@pytest.mark.guards("M09", "B04")
@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("predictor", ANY_NUMBER_OF_TIMES, ids=repr)
def test_every_registered_predictor_has_its_declared_order(
    name: str, predictor: ss.Predictor
) -> None:
    measured = order(SHORT[name], predictor, DATA, grid=ss.LogSNRGrid())
    assert measured == pytest.approx(predictor.order, abs=TOLERANCE)


@fast
def test_one_predictor_alone_is_made_for_its_number_of_times() -> None:
    """Its order is measured where its weights are tested."""
    fixed = {type(p) for p in methods.PREDICTORS if p.grid_times is not None}
    assert fixed == {ss.predictors.Multistep}


@fast
def test_a_boastful_order_is_found() -> None:
    class Boastful(ss.DDIM):
        order = 2

    measured = order(SHORT["ve"], Boastful(), DATA, grid=ss.LogSNRGrid())
    assert abs(measured - Boastful.order) > 0.9


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("predictor", PREDICTORS, ids=repr)
def test_the_first_order_holds_on_every_sde(name: str, predictor: ss.Predictor) -> None:
    assert order(SDES[name], predictor, DATA) == pytest.approx(1, abs=TOLERANCE)


@fast
@pytest.mark.parametrize("grid", [ss.LogSNRGrid(), ss.KarrasGrid(), ss.QuadraticGrid()], ids=repr)
def test_the_order_holds_on_every_grid(grid: ss.grids.Grid) -> None:
    for predictor in (ss.DDIM(), ss.Ancestral(), ss.ReverseDiffusion()):
        measured = order(ss.VPSDE(), predictor, DATA, grid=grid, steps=128)
        assert measured == pytest.approx(1, abs=TOLERANCE)


@pytest.mark.parametrize(
    "predictor", [Heun(), Multistep(), Multistep("epsilon")], ids=["heun", "x0", "epsilon"]
)
@pytest.mark.parametrize("name", ["ve", "cosine", "flow", "trigonometric"])
def test_a_users_second_order_method(name: str, predictor: ss.Predictor) -> None:
    grid = ss.UniformGrid() if isinstance(predictor, Heun) else ss.LogSNRGrid()
    sde = SDES[name]
    if name == "trigonometric":  # σ(0) = 0 has no log-SNR: stop where the others do
        sde = ss.LinearSDE.from_marginal(sde.alpha, sde.sigma, T=1.0, t_min=0.01)
    measured = order(sde, predictor, DATA, grid=grid)
    assert measured == pytest.approx(2, abs=0.1)


@fast
@pytest.mark.parametrize("output", ["x0", "epsilon"])
def test_the_first_evaluation_of_a_multistep_method_does_not_reach_into_nothing(
    output: str,
) -> None:
    numbers = Multistep(output).tableau(ss.VPSDE(), torch.tensor([1.0, 0.5, 0.2]).double())
    assert numbers.b[0, 0, 1] == 0
    assert numbers.b[1, 0, 1] != 0


@fast
@pytest.mark.parametrize("denoise", [False, True])
@pytest.mark.parametrize("predictor", [*PREDICTORS, Heun(), Multistep()], ids=repr)
def test_the_loop_computes_the_affine_map(predictor: ss.Predictor, denoise: bool) -> None:
    """The loop's state against the basis map applied to the draws it used: 1e-12, float64."""
    sde = ss.VPSDE()
    sampler = ss.PredictorCorrector(
        sde, predictor=predictor, corrector=ss.Langevin(0.2, steps=2), steps=9, denoise=denoise
    )
    draws = len(sampler.program.spans)
    z = torch.randn(draws, 5, 3, dtype=torch.float64)
    got = sampler.sample(
        DATA.score(sde), (5, 3), noise=ss.noise.ReplayNoise(z), dtype=torch.float64
    )
    start = sde.prior_std() * z[:1]
    basis = torch.cat([torch.ones_like(z[:1]), start, z[1:]])
    on = torch.tensor(coefficients(sampler, DATA))
    expected = torch.einsum("dk,kbd->bd", on, basis[: on.shape[1]])
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@dataclass(frozen=True)
class TwoLangevinStages(ss.Langevin):
    """Two Langevin steps as two stages of one row: two outputs and two noises of its own."""

    def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
        base = super().tableau(sde, times)
        tau, c, zero = base.b[..., 0], base.c[..., 0], torch.zeros_like(times)[:, None]
        b = torch.stack([torch.cat([tau, tau], 1), torch.cat([zero, tau], 1)], -1)
        noise = torch.stack([torch.cat([c, c], 1), torch.cat([zero, c], 1)], -1)
        twice = base.times.expand(-1, 2)
        return ss.Tableau(twice, torch.ones_like(twice), b, noise)


@fast
@pytest.mark.parametrize("predictor", [ss.Ancestral(), Multistep()], ids=repr)
def test_a_correctors_stages_keep_their_outputs_to_themselves(predictor: ss.Predictor) -> None:
    """Two stages are two steps, and a multistep predictor does not see them in its past."""
    sde, z = ss.VPSDE(), torch.randn(40, 5, 3, dtype=torch.float64)
    ends = [
        ss.PredictorCorrector(sde, predictor=predictor, corrector=corrector, steps=9).sample(
            DATA.score(sde), (5, 3), noise=ss.noise.ReplayNoise(z), dtype=torch.float64
        )
        for corrector in (ss.Langevin(0.2, steps=2), TwoLangevinStages(0.2))
    ]
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


@fast
@pytest.mark.parametrize("corrector_first", [False, True])
@pytest.mark.parametrize(
    "predictor", [ss.EulerMaruyama(), ss.Ancestral(), ss.DDIM(), Heun()], ids=repr
)
def test_simulated_chains_have_the_exact_distribution(
    predictor: ss.Predictor, corrector_first: bool
) -> None:
    """20,000 chains: mean by a z-test, variance by χ², α = 1e-6 a test, Bonferroni over modes."""
    sde, n = ss.VESDE(sigma_min=0.1, sigma_max=4.0), 20_000
    sampler = ss.PredictorCorrector(
        sde,
        predictor=predictor,
        corrector=ss.Langevin(snr=0.3),
        steps=8,
        corrector_first=corrector_first,
    )
    x = sampler.sample(DATA.score(sde), (n, 3), seed=11).double().numpy()
    prior = np.zeros(3), np.full(3, sde.prior_std() ** 2)
    mean, variance = output_moments(sampler, DATA, prior)
    alpha = 1e-6 / 6
    assert (abs(x.mean(0) - mean) < stats.norm.isf(alpha / 2) * np.sqrt(variance / n)).all()
    scaled = ((x - mean) ** 2).sum(0) / variance
    low, high = stats.chi2.ppf([alpha / 2, 1 - alpha / 2], n)
    assert ((low < scaled) & (scaled < high)).all()


@cache
def strong_end(predictor: ss.Predictor, n: int, shared: bool) -> Tensor:
    """The end of n steps, which are on one Brownian path or take the draws of one seed in turn."""
    sde = ss.VESDE(sigma_min=0.3, sigma_max=3.0)
    generator = torch.Generator().manual_seed(0)
    start = 3.0 * torch.randn(400, 3, dtype=torch.float64, generator=generator)
    sampler = ss.PredictorCorrector(
        sde, predictor=predictor, grid=ss.UniformGrid(), steps=n, denoise=False
    )
    noise = ss.noise.BrownianNoise(5) if shared else ss.noise.SeededNoise(5)
    return sampler.sample(DATA.score(sde), init=start, noise=noise, dtype=torch.float64)


def strong_errors(predictor: ss.Predictor, sizes: tuple[int, ...], shared: bool) -> list[float]:
    """Root-mean-square end-point distance from 2¹² Euler–Maruyama steps on the same path.

    The reference is 16 times finer than the finest chain. Independent noise, ``shared=False``,
    takes each grid's own draws from one seed.
    """
    reference = strong_end(ss.EulerMaruyama(), 4096, shared)
    ends = (strong_end(predictor, n, shared) for n in sizes)
    return [(end - reference).square().mean().sqrt().item() for end in ends]


@pytest.mark.slow
@pytest.mark.guards("B05")
@pytest.mark.parametrize("predictor", [ss.EulerMaruyama(), ss.ReverseDiffusion()], ids=repr)
def test_strong_order_on_one_brownian_path(predictor: ss.Predictor) -> None:
    """The noise is additive, so the strong order is 1 (Kloeden & Platen 1992, section 10.3)."""
    sizes = (32, 64, 128, 256)
    assert slope(sizes, strong_errors(predictor, sizes, shared=True)) == pytest.approx(1, abs=0.1)


@pytest.mark.guards("M08")
def test_independent_noises_do_not_converge_strongly() -> None:
    sizes = (32, 128)
    errors = strong_errors(ss.EulerMaruyama(), sizes, shared=False)
    assert slope(sizes, errors) < 0.2
