"""Multistage predictors: the papers' steps by hand, peers, orders, distributions and paths."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable, Sequence

import pytest
import scipy.integrate
import torch
from scipy import stats
from torch import Tensor

import sdescore as ss
from sdescore.analysis.error import gaussian_error
from sdescore.predictors.exponential_runge_kutta import ExponentialRungeKutta
from sdescore.predictors.runge_kutta import Heun, RungeKutta4
from sdescore.predictors.stochastic_heun import StochasticHeun
from sdescore.score.mixture import GaussianScore
from tests.helpers.affine import extrapolated, slope
from tests.helpers.strategies import REPRESENTATIVES

ALPHA = 1e-6  # false-positive rate of each statistical test here

VARIANCE = torch.tensor([0.5, 2.0, 0.05], dtype=torch.float64)
MEAN = torch.tensor([0.7, -1.0, 0.2], dtype=torch.float64)
SDES = {
    "ve": ss.VESDE(sigma_min=0.1, sigma_max=4.0),
    "vp": ss.VPSDE(),
    "cosine": ss.CosineVPSDE(T=0.9),
    "flow": ss.RectifiedFlowSDE(T=0.9),
    "trigonometric": ss.LinearSDE.from_marginal(
        lambda t: torch.cos(1.4 * t), lambda t: torch.sin(1.4 * t), T=1.0, t_min=0.01
    ),
}
SOLVERS = [
    ExponentialRungeKutta(eta, stages, output)
    for eta in (0.0, 0.5, 1.0)
    for stages in (1, 2, 3)
    for output in ("x0", "epsilon")
]
SOLVERS += [ExponentialRungeKutta(eta, 2, "x0", node) for eta in (0.0, 1.0) for node in (0.4, 0.9)]
DETERMINISTIC = [Heun(), RungeKutta4(), StochasticHeun(0.0), *(p for p in SOLVERS if not p.eta)]
STOCHASTIC = [
    Heun(s_churn=30.0),
    StochasticHeun(0.5),
    StochasticHeun(),
    *(p for p in SOLVERS if p.eta),
]
ADAMS = [ss.ExponentialAdams(points=3), ss.ExponentialAdams(1.0, 2, 3)]
EVERY = [*DETERMINISTIC, *STOCHASTIC]


def chain(
    sde: ss.LinearSDE, predictor: ss.Predictor, grid: ss.grids.Grid | Sequence[float], steps=None
) -> ss.PredictorCorrector:
    return ss.PredictorCorrector(sde, predictor=predictor, grid=grid, steps=steps, denoise=False)


def error_of_law(sde: ss.LinearSDE, predictor: ss.Predictor, steps: int) -> float:
    """W2 of the end distribution to the marginal there, from the marginal at T, on equal steps in
    λ."""
    sampler = chain(sde, predictor, ss.LogSNRGrid(), steps)
    return gaussian_error(sampler, VARIANCE, mean=MEAN).w2_of_steps.item()


# One step by hand, with a model that is not linear.


def bent(x: float, t: float) -> float:
    """A score, with no distribution behind it."""
    return -math.tanh(0.8 * x) - 0.3 * x * t + 0.2 * math.cos(3 * t)


class ByHand:
    """What the papers write a step with: α, σ, λ = log(α/σ), and times at a λ."""

    def __init__(self, sde: ss.LinearSDE) -> None:
        self.sde = sde

    def alpha(self, t: float) -> float:
        return self.sde.marginal(t)[0].item()

    def sigma(self, t: float) -> float:
        return self.sde.marginal(t)[1].item()

    def lam(self, t: float) -> float:
        return math.log(self.alpha(t) / self.sigma(t))

    def at(self, lam: float) -> float:
        """Bisection on λ, which falls."""
        low, high = 0.0, self.sde.T
        for _ in range(200):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.lam(middle) > lam else (low, middle)
        return 0.5 * (low + high)

    def epsilon(self, x: float, t: float) -> float:
        return -self.sigma(t) * bent(x, t)

    def x0(self, x: float, t: float) -> float:
        return (x + self.sigma(t) ** 2 * bent(x, t)) / self.alpha(t)


def dpm_solver_2(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
    """Lu et al. 2022a, algorithm 1."""
    h = p.lam(s) - p.lam(t)
    m = p.at((p.lam(t) + p.lam(s)) / 2)
    u = p.alpha(m) / p.alpha(t) * x - p.sigma(m) * math.expm1(h / 2) * p.epsilon(x, t)
    return p.alpha(s) / p.alpha(t) * x - p.sigma(s) * math.expm1(h) * p.epsilon(u, m)


def dpm_solver_3(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
    """Lu et al. 2022a, algorithm 2, r₁ = 1/3 and r₂ = 2/3."""
    h, r1, r2 = p.lam(s) - p.lam(t), 1 / 3, 2 / 3
    s1, s2 = p.at(p.lam(t) + r1 * h), p.at(p.lam(t) + r2 * h)
    start = p.epsilon(x, t)
    u1 = p.alpha(s1) / p.alpha(t) * x - p.sigma(s1) * math.expm1(r1 * h) * start
    d1 = p.epsilon(u1, s1) - start
    u2 = (
        p.alpha(s2) / p.alpha(t) * x
        - p.sigma(s2) * math.expm1(r2 * h) * start
        - p.sigma(s2) * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
    )
    d2 = p.epsilon(u2, s2) - start
    return (
        p.alpha(s) / p.alpha(t) * x
        - p.sigma(s) * math.expm1(h) * start
        - p.sigma(s) / r2 * (math.expm1(h) / h - 1) * d2
    )


def dpm_solver_plus_2s(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
    """Lu et al. 2022b, algorithm 1, r = 1/2."""
    h, r = p.lam(s) - p.lam(t), 0.5
    m = p.at(p.lam(t) + r * h)
    u = p.sigma(m) / p.sigma(t) * x - p.alpha(m) * math.expm1(-r * h) * p.x0(x, t)
    d = (1 - 1 / (2 * r)) * p.x0(x, t) + 1 / (2 * r) * p.x0(u, m)
    return p.sigma(s) / p.sigma(t) * x - p.alpha(s) * math.expm1(-h) * d


def seeds_2(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
    """Gonzalez et al. 2023, algorithm 2, r = 1/2."""
    h = p.lam(s) - p.lam(t)
    m = p.at(p.lam(t) + h / 2)
    u = (
        p.alpha(m) / p.alpha(t) * x
        - 2 * p.sigma(m) * math.expm1(h / 2) * p.epsilon(x, t)
        + p.sigma(m) * math.sqrt(math.expm1(h)) * z[0]
    )
    noise = math.sqrt(math.exp(2 * h) - math.exp(h)) * z[0] + math.sqrt(math.expm1(h)) * z[1]
    return (
        p.alpha(s) / p.alpha(t) * x
        - 2 * p.sigma(s) * math.expm1(h) * p.epsilon(u, m)
        + p.sigma(s) * noise
    )


def seeds_3(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
    """Gonzalez et al. 2023, algorithm 3, r₁ = 1/3 and r₂ = 2/3."""
    h, r1, r2 = p.lam(s) - p.lam(t), 1 / 3, 2 / 3
    s1, s2 = p.at(p.lam(t) + r1 * h), p.at(p.lam(t) + r2 * h)
    start = p.epsilon(x, t)

    def gap(a: float, b: float) -> float:
        return math.sqrt(math.exp(2 * a * h) - math.exp(2 * b * h))

    u1 = (
        p.alpha(s1) / p.alpha(t) * x
        - 2 * p.sigma(s1) * math.expm1(r1 * h) * start
        + p.sigma(s1) * gap(r1, 0) * z[0]
    )
    d1 = p.epsilon(u1, s1) - start
    u2 = (
        p.alpha(s2) / p.alpha(t) * x
        - 2 * p.sigma(s2) * math.expm1(r2 * h) * start
        - 2 * p.sigma(s2) * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
        + p.sigma(s2) * (gap(r2, r1) * z[0] + gap(r1, 0) * z[1])
    )
    d2 = p.epsilon(u2, s2) - start
    return (
        p.alpha(s) / p.alpha(t) * x
        - 2 * p.sigma(s) * math.expm1(h) * start
        - 2 * p.sigma(s) / r2 * (math.expm1(h) / h - 1) * d2
        + p.sigma(s) * (gap(1, r2) * z[0] + gap(r2, r1) * z[1] + gap(r1, 0) * z[2])
    )


def classical_runge_kutta(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
    """Kutta's method on dy/dρ = ε̂(α y, ρ), y = x/α, ρ = σ/α."""

    def slope_at(y: float, rho: float) -> float:
        time = p.at(-math.log(rho))
        return p.epsilon(p.alpha(time) * y, time)

    y, rho = x / p.alpha(t), math.exp(-p.lam(t))
    h = math.exp(-p.lam(s)) - rho
    k1 = slope_at(y, rho)
    k2 = slope_at(y + h / 2 * k1, rho + h / 2)
    k3 = slope_at(y + h / 2 * k2, rho + h / 2)
    k4 = slope_at(y + h * k3, rho + h)
    return p.alpha(s) * (y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))


def heun_on_the_reverse_sde(
    eta: float,
) -> Callable[[ByHand, float, float, float, list[float]], float]:
    def step(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
        reverse = p.sde.reverse(
            lambda y, time: y.clone().apply_(lambda v: bent(v, float(time))), eta
        )

        def drift(y: float, time: float) -> float:
            return reverse.drift(torch.tensor([y], dtype=torch.float64), time).item()

        h, g = t - s, [reverse.diffusion(u).item() for u in (t, s)]
        first = drift(x, t)
        y = x - h * first + g[0] * math.sqrt(h) * z[0]
        return x - h / 2 * (first + drift(y, s)) + (g[0] + g[1]) / 2 * math.sqrt(h) * z[0]

    return step


def edm_algorithm_2(
    churn: float, noise: float
) -> Callable[[ByHand, float, float, float, list[float]], float]:
    """Karras et al. 2022, one step of algorithm 2 for α = 1, σ = t, with γ given."""

    def step(p: ByHand, x: float, t: float, s: float, z: list[float]) -> float:
        later = t + churn * t
        x = x + math.sqrt(later**2 - t**2) * noise * z[0]
        d = (x - p.x0(x, later)) / later
        y = x + (s - later) * d
        return x + (s - later) * (d + (y - p.x0(y, s)) / s) / 2

    return step


VP = ss.VPSDE()
HALF = ss.EDMSDE(sigma_min=0.1, sigma_max=5.0)
STEPS = [
    ("DPM-Solver-2", VP, ExponentialRungeKutta(0.0, 2, "epsilon"), dpm_solver_2),
    ("DPM-Solver-3", VP, ExponentialRungeKutta(0.0, 3, "epsilon"), dpm_solver_3),
    ("DPM-Solver++(2S)", VP, ExponentialRungeKutta(0.0, 2, "x0"), dpm_solver_plus_2s),
    ("SEEDS-2", VP, ExponentialRungeKutta(1.0, 2, "epsilon"), seeds_2),
    ("SEEDS-3", VP, ExponentialRungeKutta(1.0, 3, "epsilon"), seeds_3),
    ("SEEDS-3 cosine", SDES["cosine"], ExponentialRungeKutta(1.0, 3, "epsilon"), seeds_3),
    ("Kutta", VP, RungeKutta4(), classical_runge_kutta),
    ("Kutta flow", SDES["flow"], RungeKutta4(), classical_runge_kutta),
    ("Roberts", VP, StochasticHeun(), heun_on_the_reverse_sde(1.0)),
    ("Roberts 0.6", SDES["flow"], StochasticHeun(0.6), heun_on_the_reverse_sde(0.6)),
    ("EDM", HALF, Heun(), edm_algorithm_2(0.0, 1.0)),
    # Two grid times are N = 2.
    ("EDM churn", HALF, Heun(s_churn=0.4, s_noise=1.1), edm_algorithm_2(0.2, 1.1)),
    ("EDM most churn", HALF, Heun(s_churn=9.0), edm_algorithm_2(math.sqrt(2) - 1, 1.0)),
]


@pytest.mark.parametrize(
    ("sde", "predictor", "paper"), [c[1:] for c in STEPS], ids=[c[0] for c in STEPS]
)
def test_one_step_is_the_papers(sde: ss.LinearSDE, predictor: ss.Predictor, paper) -> None:
    t, s = 0.6 * sde.T, 0.35 * sde.T
    sampler = chain(sde, predictor, [t, s])
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    z = torch.randn(len(sampler.program.spans), 5, dtype=torch.float64)

    def score(y: Tensor, time: Tensor) -> Tensor:
        return y.clone().apply_(lambda v: bent(v, time.item()))

    got = sampler.sample(score, init=x, noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    numbers = ByHand(sde)
    expected = [paper(numbers, x[i].item(), t, s, z[1:, i].tolist() + [0.0] * 3) for i in range(5)]
    torch.testing.assert_close(
        got, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-11
    )
    assert sampler.evaluations == predictor.evaluations
    assert predictor.stochastic == (len(sampler.program.spans) > 1)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_one_evaluation_is_ddim(name: str) -> None:
    sde = REPRESENTATIVES[name]
    times = sde.T * torch.tensor([1.0, 0.7, 0.2, 0.1], dtype=torch.float64)
    ddim = ss.DDIM().tableau(sde, times)
    sigma = sde.marginal(times[:-1])[1]
    numbers = ExponentialRungeKutta(0.0, 1, "epsilon").tableau(sde, times)
    torch.testing.assert_close(numbers.a, ddim.a, rtol=1e-12, atol=0.0)
    on_epsilon = -ddim.b[:, 0, 0] / sigma
    torch.testing.assert_close(numbers.b[:, 0, 0], on_epsilon, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "predictor", [p for p in EVERY if not isinstance(p, StochasticHeun)], ids=repr
)
@pytest.mark.parametrize("name", ["ve", "cosine", "trigonometric"])
def test_a_constant_output_has_the_exact_solution(name: str, predictor: ss.Predictor) -> None:
    """x̂₀ = m or ε̂ = m everywhere: the mean in closed form, at any step size.

    With ρ = σ/α, d(x/α) is (1 + η²)(x/α − m) dρ/ρ or (1 + η²) m dρ, up to noise. A churned
    step starts where the churn ends. :class:`StochasticHeun`, a method in t, is not exact.
    """
    sde, m, x = SDES[name], 0.7, 1.3
    t, s = sde.T * torch.tensor([0.8, 0.3], dtype=torch.float64)
    numbers = predictor.tableau(sde, torch.stack([t, s]))
    got = numbers.a[0, -1] * x + m * numbers.b[0, -1].sum()
    (alpha_t, _), (alpha_s, sigma_s) = sde.marginal(t), sde.marginal(s)
    alpha_start, sigma_start = sde.marginal(numbers.times[0, 0])
    rho_start, rho_s, k = sigma_start / alpha_start, sigma_s / alpha_s, 1.0
    if isinstance(predictor, ExponentialRungeKutta):
        k += predictor.eta**2
    if numbers.output == "x0":
        expected = m + (x / alpha_t - m) * (rho_s / rho_start) ** k
    else:
        expected = x / alpha_t + k * m * (rho_s - rho_start)
    torch.testing.assert_close(got, alpha_s * expected, rtol=1e-11, atol=1e-12)


# Orders.


# Over a moderate range of λ the leading error shows at few steps.
SHORT = {
    "ve": ss.VESDE(sigma_min=0.3, sigma_max=2.0),
    "trigonometric": ss.LinearSDE.from_marginal(
        lambda t: torch.cos(1.4 * t), lambda t: torch.sin(1.4 * t), T=0.8, t_min=0.1
    ),
}


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("predictor", EVERY, ids=repr)
def test_every_predictor_has_its_declared_order(name: str, predictor: ss.Predictor) -> None:
    """Of the distribution: on Gaussian data the flow, the reverse SDE and churn all end in the
    marginal."""
    # Below 73 steps this churn's γ is at its largest and does not shrink with the step.
    n = 128 if isinstance(predictor, Heun) and predictor.stochastic else 64
    errors = [error_of_law(SHORT[name], predictor, n * k) for k in (1, 2, 4)]
    assert extrapolated(errors) == pytest.approx(predictor.order, abs=0.05)


def test_a_factor_on_the_churns_noise_leaves_an_error() -> None:
    errors = [error_of_law(VP, Heun(s_churn=30.0, s_noise=1.05), n) for n in (200, 400)]
    assert errors[1] > 0.9 * errors[0] > 0.001


def test_each_method_is_more_accurate_than_the_one_below_it_at_equal_cost() -> None:
    cost = 60
    errors = [
        error_of_law(SDES["cosine"], predictor, cost // predictor.evaluations)
        for predictor in (ss.DDIM(), Heun(), RungeKutta4())
    ]
    assert errors[0] > 3 * errors[1] > 30 * errors[2]


# Peers.

SHAPE = (3, 2, 4, 4)


def epsilon_net(x: Tensor, level: Tensor) -> Tensor:
    phase = level.reshape(-1, *[1] * (x.ndim - 1)).to(x) / 10
    return torch.tanh(0.7 * x + torch.sin(phase)) + 0.1 * torch.roll(x, 1, -1)


@pytest.mark.parametrize("algorithm", ["dpmsolver", "dpmsolver++"])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_parity_with_diffusers_single_step(stages: int, algorithm: str) -> None:
    """A table whose levels are equally far apart in λ, for the scheduler evaluates at grid times
    only. Its order 3 takes one ``solver_type`` for the state at 2/3 and for the end; the papers'
    algorithm is "heun" at the first, "midpoint" at the second, and so set here."""
    diffusers = pytest.importorskip("diffusers")
    lam = torch.linspace(3.0, -3.0, 13, dtype=torch.float64)
    bar = torch.sigmoid(2 * lam)
    betas = 1 - bar / torch.cat([torch.ones(1).double(), bar[:-1]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = diffusers.DPMSolverSinglestepScheduler(
            num_train_timesteps=13,
            trained_betas=betas.numpy(),
            solver_order=stages,
            algorithm_type=algorithm,
            final_sigmas_type="sigma_min",
        )
        scheduler.set_timesteps(timesteps=list(range(12, 0, -1)))
        x = start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
        for k, t in enumerate(scheduler.timesteps):
            inside = stages == 3 and k % 3 == 1
            scheduler.register_to_config(solver_type="heun" if inside else "midpoint")
            x = scheduler.step(epsilon_net(x, t[None]), t, x).prev_sample
    sde = ss.DiscreteVPSDE(betas=betas)
    output = {"dpmsolver": "epsilon", "dpmsolver++": "x0"}[algorithm]
    predictor = ExponentialRungeKutta(0.0, stages, output)
    sampler = chain(sde, predictor, sde.level_times().flip(0)[::stages])
    assert sampler.evaluations == 12
    model = ss.ScoreModel(epsilon_net, sde, "epsilon", "level")
    torch.testing.assert_close(sampler.sample(model, init=start), x, rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("steps", [2, 7])
def test_parity_with_diffusers_heun(steps: int) -> None:
    """The scheduler's state is x/α, and its last, first-order step is the last denoise."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.HeunDiscreteScheduler(num_train_timesteps=60, beta_end=0.1)
    scheduler.set_timesteps(steps)
    levels = scheduler.timesteps[[0, *range(1, 2 * steps - 1, 2)]].round().long()
    scheduler.set_timesteps(timesteps=levels.tolist())
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    sde = ss.DiscreteVPSDE(betas=scheduler.betas.double())
    x = start / sde.marginal(sde.level_times()[levels[0]])[0].float()
    for t in scheduler.timesteps:
        output = epsilon_net(scheduler.scale_model_input(x, t), t[None])
        x = scheduler.step(output, t, x).prev_sample
    sampler = ss.PredictorCorrector(sde, predictor=Heun(), grid=sde.level_times()[levels])
    model = ss.ScoreModel(epsilon_net, sde, "epsilon", "level")
    assert sampler.evaluations == 2 * steps - 1
    torch.testing.assert_close(sampler.sample(model, init=start), x, rtol=3e-5, atol=3e-5)


def test_parity_with_edms_algorithm_2() -> None:
    """The whole loop, with a range of churn. Below the paper's σ_max, which it may exceed, and
    above its last step, where it may churn before the denoise."""
    sde, N = ss.EDMSDE(sigma_min=0.02, sigma_max=10.0), 9
    predictor = Heun(s_churn=2.0, s_min=0.05, s_max=6.0, s_noise=1.01)
    sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=ss.KarrasGrid(), steps=N)
    z = torch.randn(len(sampler.program.spans), 4, 3, dtype=torch.float64)
    score = GaussianScore(MEAN, VARIANCE, sde)

    def denoiser(x: Tensor, t: float) -> Tensor:
        return x + t**2 * score(x, torch.tensor(t, dtype=torch.float64))

    x, draw, kicked = 10.0 * z[0], 1, []
    for now, to in itertools.pairwise([*sampler.times.tolist(), 0.0]):
        gamma = min(2.0 / N, math.sqrt(2) - 1) if 0.05 <= now <= 6.0 else 0.0
        later = now + gamma * now
        if gamma:
            x = x + math.sqrt(later**2 - now**2) * 1.01 * z[draw]
            draw += 1
        kicked.append(later)
        d = (x - denoiser(x, later)) / later
        y = x + (to - later) * d
        if to:
            y = x + (to - later) * (0.5 * d + 0.5 * (y - denoiser(y, to)) / to)
        x = y
    got = sampler.sample(score, (4, 3), noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    torch.testing.assert_close(got, x, rtol=1e-11, atol=1e-11)
    assert draw == len(z) < N
    assert sampler.program.times[::2] == pytest.approx(kicked, rel=1e-12)


# Churn.


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_no_churn_is_no_churn_bit_for_bit(name: str) -> None:
    sde = REPRESENTATIVES[name]
    score = GaussianScore(MEAN, VARIANCE, sde)
    grid = torch.linspace(sde.T, 0.05 * sde.T, 6, dtype=torch.float64)
    plain = chain(sde, Heun(), grid).sample(score, (4, 3), seed=3)
    assert torch.equal(
        chain(sde, Heun(s_churn=0.0, s_noise=1.2), grid).sample(score, (4, 3), seed=3), plain
    )
    nowhere = Heun(s_churn=5.0, s_max=0.0)
    assert torch.equal(chain(sde, nowhere, grid).sample(score, (4, 3), seed=3), plain)
    assert len(chain(sde, nowhere, grid).program.spans) == 1


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_churn_stays_within_the_sdes_time(name: str) -> None:
    sde = REPRESENTATIVES[name]
    grid = sde.T * torch.tensor([1.0, 0.999, 0.5, 0.2], dtype=torch.float64)
    numbers = Heun(s_churn=100.0).tableau(sde, grid)
    first = numbers.times[:, 0]
    assert first[0] == sde.T and numbers.start[1][0] == 0 and numbers.start[0][0] == 1
    assert (first[1:] > grid[1:-1]).all() and (first <= sde.T).all()
    rho = (-0.5 * sde.log_snr(torch.stack([grid[2], first[2]]))).exp()
    most = min(math.sqrt(2), ((-0.5 * sde.log_snr(sde.T)).exp() / rho[0]).item())
    assert rho[1] / rho[0] == pytest.approx(most, rel=1e-9)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_the_churned_state_has_the_exact_marginal(name: str) -> None:
    sde = REPRESENTATIVES[name]
    grid = sde.T * torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    numbers = Heun(s_churn=0.5).tableau(sde, grid)
    (alpha, sigma), (alpha_later, sigma_later) = (
        sde.marginal(grid[:-1]),
        sde.marginal(numbers.times[:, 0]),
    )
    a, c = numbers.start[0], numbers.start[1][:, 0]
    torch.testing.assert_close(a * alpha, alpha_later, rtol=1e-12, atol=0.0)
    torch.testing.assert_close((a * sigma) ** 2 + c**2, sigma_later**2, rtol=1e-10, atol=0.0)


# Distributions and paths.


def response(sampler: ss.PredictorCorrector) -> Tensor:
    """The loop's end as an affine map: ``(1 + draws, M)``, the constant and each draw's weight."""
    draws, score = len(sampler.program.spans), GaussianScore(MEAN, VARIANCE, sampler.sde)
    z = torch.zeros(draws, 1 + draws, 3, dtype=torch.float64)
    z[range(draws), range(1, 1 + draws)] = 1.0
    ends = sampler.sample(score, z.shape[1:], noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    return torch.cat([ends[:1], ends[1:] - ends[:1]])


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
    law, on = gaussian_error(sampler, VARIANCE, mean=MEAN), response(sampler)
    torch.testing.assert_close(on[0], law.mean, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(on[1:].square().sum(0), law.variance, rtol=1e-11, atol=1e-11)
    assert law.evaluations == sampler.evaluations


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
    law, alpha = gaussian_error(sampler, VARIANCE, mean=MEAN), ALPHA / 6
    off = (x.mean(0) - law.mean).abs() / (law.variance / n).sqrt()
    assert (off < stats.norm.isf(alpha / 2)).all()
    scaled = (x - law.mean).square().sum(0) / law.variance
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
    assert sampler.program.spans == [None] * 4
    x = sampler.sample(GaussianScore(MEAN, VARIANCE, VP), (2, 3), noise=ss.noise.BrownianNoise(1))
    assert torch.equal(x, sampler.sample(GaussianScore(MEAN, VARIANCE, VP), (2, 3), seed=1))


STRONG = ss.VESDE(sigma_min=0.3, sigma_max=3.0)


@pytest.fixture(scope="module")
def fine_end() -> tuple[Tensor, Tensor]:
    """Start, and the end of 2¹² Euler–Maruyama steps on the path of seed 5."""
    start = 3.0 * torch.randn(
        3000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    return start, strong_end(ss.EulerMaruyama(), 4096, start)


def strong_end(predictor: ss.Predictor, steps: int, start: Tensor) -> Tensor:
    sampler = chain(STRONG, predictor, ss.UniformGrid(), steps)
    score = GaussianScore(MEAN, VARIANCE, STRONG)
    return sampler.sample(score, init=start, noise=ss.noise.BrownianNoise(5), dtype=torch.float64)


@pytest.mark.guards("M08")
@pytest.mark.parametrize(
    "predictor",
    [
        StochasticHeun(),
        *(ExponentialRungeKutta(1.0, p, "x0") for p in (1, 2, 3)),
        ExponentialRungeKutta(1.0, 2, "x0", 0.4),
        *(ss.ExponentialAdams(1.0, p, 0, o) for p in (1, 2) for o in ("x0", "epsilon")),
        ss.ExponentialAdams(1.0, 2, 3),
        ss.ExponentialAdams(1.0, 2, midpoint=True),
    ],
    ids=repr,
)
def test_strong_order_on_one_brownian_path(predictor: ss.Predictor, fine_end) -> None:
    """1, and no more: additive noise, and no iterated integrals of the path."""
    start, end = fine_end
    sizes = (64, 128, 256)
    errors = [(strong_end(predictor, n, start) - end).square().mean().sqrt().item() for n in sizes]
    assert slope(sizes, errors) == pytest.approx(1, abs=0.1)


# What a sampler asks of any predictor.


@pytest.mark.parametrize("predictor", [*EVERY, *ADAMS], ids=repr)
def test_numbers_of_any_grid_on_any_sde(predictor: ss.Predictor) -> None:
    for sde in REPRESENTATIVES.values():
        for fractions in ([1.0], [1.0, 0.9999999], [1.0, 0.7, 0.05, 0.04]):
            times = sde.T * torch.tensor(fractions, dtype=torch.float64)
            numbers = predictor.tableau(sde, times)
            assert len(numbers) == len(times) - 1
            assert numbers.times.shape[1] == predictor.evaluations
            for part in (numbers.times, numbers.a, numbers.b, numbers.c):
                assert part.dtype == torch.float64 and part.isfinite().all()
            inside = (numbers.times <= sde.T) & (numbers.times >= times[1:, None])
            assert inside.all()


@pytest.mark.parametrize("predictor", [*EVERY, *ADAMS], ids=repr)
@pytest.mark.parametrize("shape", [(0, 2), (5,), (5, 2, 1, 3)])
def test_any_shape_in_any_chunks(predictor: ss.Predictor, shape: tuple[int, ...]) -> None:
    sampler = ss.PredictorCorrector(VP, predictor=predictor, steps=3)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x / (0.5 + t)

    x = sampler.sample(score, shape, seed=2)
    assert x.shape == shape and x.dtype == torch.float32
    assert torch.equal(x, sampler.sample(score, shape, seed=2, max_batch=2))
    # A copy knows the run as it was then: a state that is behind its run would be a rewind.
    states = [copy.deepcopy(state) for state in sampler.iterate(score, shape, seed=2)]
    assert torch.equal(states[-1].x, x)
    resumed = list(sampler.iterate(score, shape, seed=2, start=states[0]))
    assert torch.equal(resumed[-1].x, x)


@pytest.mark.parametrize("name", ["vp", "trigonometric"])
@pytest.mark.parametrize(
    "predictor",
    [Heun(s_churn=1.0), RungeKutta4(), StochasticHeun(), ExponentialRungeKutta(1.0, 3)],
    ids=repr,
)
def test_gradients_of_the_times_flow(name: str, predictor: ss.Predictor) -> None:
    """Against central differences; the trigonometric SDE inverts its log-SNR by bisection."""
    sde = SDES[name]
    sampler = chain(sde, predictor, [1.0, 0.7, 0.45, 0.2])

    def error(times: Tensor) -> Tensor:
        return gaussian_error(sampler, VARIANCE, mean=MEAN, times=times).w2

    times = torch.tensor([1.0, 0.7, 0.45, 0.2], dtype=torch.float64, requires_grad=True)
    (got,) = torch.autograd.grad(error(times), times)
    step = 1e-5 * torch.eye(4, dtype=torch.float64)
    for i in (1, 2, 3):
        apart = error(times.detach() + step[i]) - error(times.detach() - step[i])
        assert got[i].item() == pytest.approx(apart.item() / 2e-5, rel=1e-5, abs=1e-8)


NAN, INF = math.nan, math.inf
BAD = [(Heun, {"s_churn": value}) for value in (-1.0, INF, NAN, None, torch.tensor(1.0), "1")]
BAD += [(Heun, {"s_min": value}) for value in (-1.0, INF, NAN, None)]
BAD += [(Heun, {"s_max": value}) for value in (-1.0, NAN, None, "x")]
BAD += [(Heun, {"s_min": 2.0, "s_max": 1.0})]
BAD += [(Heun, {"s_noise": value}) for value in (0.0, -1.0, INF, NAN, None)]
BAD += [(ExponentialRungeKutta, {"stages": value}) for value in (0, 4, -1, 1.0, True, None, "2")]
BAD += [(ExponentialRungeKutta, {"eta": value}) for value in (-0.1, 1.1, NAN, None)]
BAD += [(ExponentialRungeKutta, {"node": value}) for value in (0.0, 1.0, NAN, "1")]
BAD += [(ExponentialRungeKutta, {"stages": 3, "node": 0.4})]
BAD += [(StochasticHeun, {"eta": value}) for value in (-0.1, 1.1, NAN, None)]


@pytest.mark.parametrize(("kind", "options"), BAD, ids=lambda v: getattr(v, "__name__", str(v)))
def test_parameters_out_of_range(kind: type, options: dict) -> None:
    with pytest.raises(ss.errors.ParameterError, match="expected"):
        kind(**options)


@pytest.mark.parametrize("output", ["score", "v", "X0", None, 1])
def test_an_output_without_an_exponential_form(output: object) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="x0, epsilon"):
        ExponentialRungeKutta(output=output)


@pytest.mark.parametrize("predictor", EVERY, ids=repr)
def test_an_sde_without_kernels_is_refused(predictor: ss.Predictor) -> None:
    class OwnSDE(ss.SDE):
        T, t_min = 1.0, 1e-3

        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return -(x**3)

        def diffusion(self, t: Tensor) -> Tensor:
            return torch.ones_like(torch.as_tensor(t))

    with pytest.raises(ss.errors.IncompatibleError, match="LinearSDE"):
        ss.PredictorCorrector(OwnSDE(), predictor=predictor, steps=3, denoise=False)


@pytest.mark.parametrize("predictor", [ExponentialRungeKutta(1.0, 2), ExponentialRungeKutta()])
def test_a_grid_down_to_no_noise_is_refused(predictor: ss.Predictor) -> None:
    with pytest.raises(ss.errors.ScheduleError, match="sigma_t > 0"):
        chain(SDES["flow"], predictor, [0.9, 0.5, 0.0])


# The tableau's own fields.


def two_stages(**fields: object) -> ss.Tableau:
    n = torch.ones(3, 2, dtype=torch.float64)
    return ss.Tableau(n, n, n[..., None], torch.ones(3, 2, 1, dtype=torch.float64), **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"start": (torch.ones(2), torch.ones(3, 1))},
        {"start": (torch.ones(3), torch.ones(3, 2))},
        {"start": (torch.ones(3), torch.ones(3))},
        {"spans": torch.ones(3, 2)},
        {"spans": torch.ones(3, 1, 1)},
        {"spans": torch.ones(3, 2, 2)},
    ],
)
def test_starts_and_spans_that_do_not_fit(fields: dict) -> None:
    with pytest.raises(ss.errors.ShapeError, match=next(iter(fields))):
        two_stages(**fields)


class Started(ss.Predictor):
    """The step of DDIM, with a given start and spans."""

    order = 0

    def __init__(self, a: float = 1.0, c: float = 0.0, spans: Tensor | None = None) -> None:
        self.a, self.c, self.spans = a, c, spans

    def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
        base = ss.DDIM().tableau(sde, times)
        ones = torch.ones(len(base), 1, dtype=torch.float64)
        start = self.a * ones[:, 0], self.c * ones
        return ss.Tableau(base.times, base.a, base.b, base.c, start=start, spans=self.spans)


def test_a_start_in_a_one_stage_method() -> None:
    """Not folded: the model sees ``a x + c z``, the step starts at x."""
    score, x = GaussianScore(MEAN, VARIANCE, VP), torch.randn(2, 3, dtype=torch.float64)
    sampler = chain(VP, Started(0.5, 2.0), [0.8, 0.4])
    z = torch.randn(2, 2, 3, dtype=torch.float64)
    got = sampler.sample(score, init=x, noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    numbers = ss.DDIM().tableau(VP, torch.tensor([0.8, 0.4]).double())
    seen = score(0.5 * x + 2.0 * z[1], torch.tensor(0.8).double())
    torch.testing.assert_close(got, numbers.a.item() * x + numbers.b.item() * seen)
    law = gaussian_error(sampler, VARIANCE, mean=MEAN)
    on = response(sampler)
    torch.testing.assert_close(on[1:].square().sum(0), law.variance)


@pytest.mark.parametrize(
    "predictor", [Started(NAN), Started(1.0, INF), Started(1.0, 1.0, torch.full((1, 1, 2), NAN))]
)
def test_starts_and_spans_that_are_not_finite(predictor: ss.Predictor) -> None:
    with pytest.raises(ss.errors.ScheduleError, match="finite numbers"):
        chain(VP, predictor, [0.8, 0.4])
