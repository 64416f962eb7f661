"""One step of every predictor against the papers' formulas, written out again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdescore as ss
from sdescore.score.mixture import GaussianScore
from tests.helpers.strategies import linear_sdes, ordered_times

pytestmark = pytest.mark.fast

LEVELS = 12
TABLE = ss.DiscreteVPSDE.linear(LEVELS, 1e-3, 0.4)
LADDER = ss.DiscreteVESDE.geometric(sigma_max=5.0, sigma_min=0.05, levels=LEVELS)
ETAS = (0.0, 0.3, 1.0)

# Plain Python on 0 … N−1 as the papers' index i, x and z scalars, score the value at x.
BETA = TABLE.betas
ALPHA_BAR = [math.prod(1 - b for b in BETA[: i + 1]) for i in range(LEVELS)]
SIGMA = LADDER.sigmas[::-1]  # rising


def song_algorithm_3(i: int, x: float, score: float, z: float) -> float:
    """Song et al. 2021, algorithm 3, the predictor: from x_{i+1} to x_i."""
    return (2 - math.sqrt(1 - BETA[i])) * x + BETA[i] * score + math.sqrt(BETA[i]) * z


def song_algorithm_2(i: int, x: float, score: float, z: float) -> float:
    """Song et al. 2021, algorithm 2, the predictor."""
    gap = SIGMA[i] ** 2 - SIGMA[i - 1] ** 2
    return x + gap * score + math.sqrt(gap) * z


def song_eq_47(i: int, x: float, score: float, z: float) -> float:
    """Ancestral sampling for SMLD."""
    gap = SIGMA[i] ** 2 - SIGMA[i - 1] ** 2
    return x + gap * score + math.sqrt(SIGMA[i - 1] ** 2 * gap / SIGMA[i] ** 2) * z


def ho_algorithm_2(i: int, x: float, score: float, z: float) -> float:
    """Ho et al. 2020, algorithm 2, with σ² = β̃ (eq. 7)."""
    epsilon = -math.sqrt(1 - ALPHA_BAR[i]) * score
    mean = (x - BETA[i] / math.sqrt(1 - ALPHA_BAR[i]) * epsilon) / math.sqrt(1 - BETA[i])
    return mean + math.sqrt((1 - ALPHA_BAR[i - 1]) / (1 - ALPHA_BAR[i]) * BETA[i]) * z


def ddim_eq_12(eta: float) -> Callable[[int, float, float, float], float]:
    """Song, Meng & Ermon 2021, eq. 12 with eq. 16's σ (their α is ᾱ)."""

    def step(i: int, x: float, score: float, z: float) -> float:
        now, to = ALPHA_BAR[i], ALPHA_BAR[i - 1]
        epsilon = -math.sqrt(1 - now) * score
        sigma = eta * math.sqrt((1 - to) / (1 - now)) * math.sqrt(1 - now / to)
        x0 = (x - math.sqrt(1 - now) * epsilon) / math.sqrt(now)
        return math.sqrt(to) * x0 + math.sqrt(1 - to - sigma**2) * epsilon + sigma * z

    return step


CASES = [
    ("algorithm 3", TABLE, ss.ReverseDiffusion(), song_algorithm_3),
    ("algorithm 2", LADDER, ss.ReverseDiffusion(), song_algorithm_2),
    ("eq. 47", LADDER, ss.Ancestral(), song_eq_47),
    ("Ho", TABLE, ss.Ancestral(), ho_algorithm_2),
    ("DDIM is Ho's at eta = 1", TABLE, ss.DDIM(1.0), ho_algorithm_2),
    *((f"DDIM {eta}", TABLE, ss.DDIM(eta), ddim_eq_12(eta)) for eta in ETAS),
]


@pytest.mark.parametrize(
    ("sde", "predictor", "paper"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_one_step_is_the_papers(
    sde: ss.LinearSDE, predictor: ss.Predictor, paper: Callable
) -> None:
    times = torch.sort(sde.level_times()).values.tolist()
    x, score, z = torch.randn(3, 4, 2, dtype=torch.float64)
    for i in range(1, LEVELS):
        got = predictor.step(sde, x, lambda _: score, times[i], times[i - 1], z)
        expected = x.clone().apply_(lambda _: math.nan)
        for at in [(b, e) for b in range(4) for e in range(2)]:
            expected[at] = paper(i, x[at].item(), score[at].item(), z[at].item())
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@given(st.data(), linear_sdes())
def test_reverse_diffusion_and_ancestral_on_any_sde(data: st.DataObject, sde: ss.LinearSDE) -> None:
    """From (α, σ) in 50 digits: ``a`` and ``V`` by subtraction, which mpmath can afford."""
    s, t = data.draw(ordered_times(sde, 2))
    (alpha_s, sigma_s), (alpha_t, sigma_t) = (
        [mpmath.mpf(v.item()) for v in sde.marginal(u)] for u in (s, t)
    )
    with mpmath.workdps(50):
        a = alpha_t / alpha_s
        V = sigma_t**2 - a**2 * sigma_s**2
        # α and σ are rounded to float64 before they are subtracted.
        slack = 1e-14 * sigma_t**2
        up = sigma_s**2 * V / sigma_t**2
    times = torch.tensor([t, s], dtype=torch.float64)
    reverse = ss.ReverseDiffusion().tableau(sde, times)
    ancestral = ss.Ancestral().tableau(sde, times)
    assert reverse.a.item() == pytest.approx(float(2 - a), rel=1e-12, abs=1e-12)
    assert reverse.b.item() == pytest.approx(float(V), rel=1e-12, abs=float(slack))
    assert reverse.c.item() ** 2 == pytest.approx(float(V), rel=1e-12, abs=float(slack))
    assert ancestral.a.item() == pytest.approx(float(1 / a), rel=1e-12)
    assert ancestral.b.item() == pytest.approx(float(V / a), rel=1e-12, abs=float(slack / a))
    assert ancestral.c.item() ** 2 == pytest.approx(float(up), rel=1e-12, abs=float(slack))


@pytest.mark.guards("T02", "T08")
def test_ancestral_noise_does_not_cancel_on_a_grid_of_10000_steps() -> None:
    """τ² as ``1 − (…)²`` is 12 % off at N = 1e4 in float32; here it keeps float64's digits."""
    sde = ss.VESDE()
    times = torch.linspace(1.0, 0.0, 10_001, dtype=torch.float64)
    numbers = ss.Ancestral().tableau(sde, times)
    r = mpmath.power(mpmath.mpf("0.01") / 50, mpmath.mpf(1) / 10_000)
    for k in (0, 5000, 9999):
        sigma_to = mpmath.mpf(50) * r ** (k + 1)
        expected = sigma_to * mpmath.sqrt((1 - r) * (1 + r))
        assert numbers.c[k].item() == pytest.approx(float(expected), rel=1e-10)


DETERMINISTIC = [ss.EulerMaruyama(0.0), ss.ReverseDiffusion(0.0), ss.DDIM(0.0), ss.NoPredictor()]


class Counted(ss.noise.NoiseSource):
    """Zeros, and the numbers of the draws that were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def open(self, samples, event_shape, spans, *, dtype, device, domain=0):
        source = self

        class Stream:
            def draw(self, k: int) -> torch.Tensor:
                source.asked.append(k)
                return torch.zeros(len(samples), *event_shape, dtype=dtype)

        return Stream()


@pytest.mark.guards("M13")
@pytest.mark.parametrize("predictor", DETERMINISTIC, ids=repr)
def test_a_deterministic_predictor_draws_no_noise(predictor: ss.Predictor) -> None:
    sde = ss.VPSDE()
    sampler = ss.PredictorCorrector(sde, predictor=predictor, steps=6)
    noise = Counted()
    sampler.sample(GaussianScore([0.0], 1.0, sde), (2, 1), noise=noise)
    assert noise.asked == [0]
    assert not predictor.stochastic


@pytest.mark.parametrize(
    "predictor", [ss.EulerMaruyama(), ss.ReverseDiffusion(0.1), ss.Ancestral(), ss.DDIM(0.1)]
)
def test_a_stochastic_predictor_draws_once_a_step_and_the_denoise_never(predictor) -> None:
    sde = ss.VPSDE()
    corrector = ss.Langevin(steps=2)
    sampler = ss.PredictorCorrector(sde, predictor=predictor, corrector=corrector, steps=4)
    noise = Counted()
    sampler.sample(GaussianScore([0.0], 1.0, sde), (2, 1), noise=noise)
    assert noise.asked == list(range(1 + 3 * (1 + 2)))
    assert predictor.stochastic
    grid = sampler.times.tolist()
    moves = [span for span in sampler.program.spans if span is not None]
    assert moves == list(itertools.pairwise(grid))


def test_a_step_by_hand_of_a_method_with_stages_is_refused() -> None:
    class TwoOutputs(ss.DDIM):
        def tableau(self, sde, times):
            base = super().tableau(sde, times)
            b = torch.cat([base.b, torch.zeros_like(base.b)], -1)
            return ss.Tableau(base.times, base.a, b, base.c)

    x = torch.zeros(1, 1)
    with pytest.raises(ss.errors.IncompatibleError, match="iterate"):
        TwoOutputs().step(ss.VPSDE(), x, lambda y: y, 0.5, 0.4, x)
