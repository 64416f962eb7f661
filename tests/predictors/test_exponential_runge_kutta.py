"""Exponential Runge–Kutta methods: one step of each against its paper, its noises and its node."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.integrate
import torch

import sdescore as ss
from sdescore.predictors.exponential_runge_kutta import ExponentialRungeKutta
from tests.helpers.by_hand import ByHand, Paper, one_step_is
from tests.helpers.multistage import SDES, VP
from tests.helpers.strategies import REPRESENTATIVES


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


STEPS = [
    ("DPM-Solver-2", VP, ExponentialRungeKutta(0.0, 2, "epsilon"), dpm_solver_2),
    ("DPM-Solver-3", VP, ExponentialRungeKutta(0.0, 3, "epsilon"), dpm_solver_3),
    ("DPM-Solver++(2S)", VP, ExponentialRungeKutta(0.0, 2, "x0"), dpm_solver_plus_2s),
    ("SEEDS-2", VP, ExponentialRungeKutta(1.0, 2, "epsilon"), seeds_2),
    ("SEEDS-3", VP, ExponentialRungeKutta(1.0, 3, "epsilon"), seeds_3),
    ("SEEDS-3 cosine", SDES["cosine"], ExponentialRungeKutta(1.0, 3, "epsilon"), seeds_3),
]


@pytest.mark.parametrize(
    ("sde", "predictor", "paper"), [c[1:] for c in STEPS], ids=[c[0] for c in STEPS]
)
def test_one_step_is_the_papers(sde: ss.LinearSDE, predictor: ss.Predictor, paper: Paper) -> None:
    one_step_is(paper, sde, predictor)


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
