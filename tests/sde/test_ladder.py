"""Ladders of noise levels and the step at each: techniques 2 to 4."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

import sdescore as ss
from sdescore.sde.ladder import (
    langevin_step_size,
    levels_for_ratio,
    ratio_for_overlap,
    shell_overlap,
    variance_ratio,
)
from tests.helpers.affine import Modes, output_moments
from tests.helpers.ladders import true_diameter
from tests.helpers.strategies import log_uniform

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(("ratio", "dim"), [(1.5, 2), (1.2, 8), (1.36, 64), (1.08, 784), (3.0, 3)])
def test_the_overlap_is_an_integral_of_the_radius(ratio: float, dim: int) -> None:
    sigma, above = 0.7, 0.7 * ratio
    low, high = (math.sqrt(dim) * above + k * above / math.sqrt(2) for k in (-3, 3))
    radius = stats.norm(math.sqrt(dim) * sigma, sigma / math.sqrt(2))
    expected, _ = integrate.quad(radius.pdf, low, high, points=[radius.mean()], limit=200)
    assert shell_overlap(ratio, dim) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("overlap", [1e-6, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("dim", [5, 8, 64, 784, 3072, 10**6])
def test_the_ratio_has_the_overlap_and_is_the_only_one(overlap: float, dim: int) -> None:
    a = math.sqrt(2 * dim)

    def papers(gamma: np.ndarray) -> np.ndarray:
        return stats.norm.cdf(a * (gamma - 1) + 3 * gamma) - stats.norm.cdf(
            a * (gamma - 1) - 3 * gamma
        )

    got = ratio_for_overlap(overlap, dim)
    assert got > 1
    assert papers(np.array(got)) == pytest.approx(overlap, rel=1e-5)
    gammas = 1 + (got - 1) * np.geomspace(1e-4, 1e3, 4001)
    above = papers(gammas) > overlap
    assert (np.diff(above.astype(int)) != 0).sum() == 1
    assert above[0]


def test_in_few_dimensions_there_is_no_ratio() -> None:
    gammas = np.geomspace(1, 1e4, 10001)
    for dim in (1, 2, 3, 4):
        assert min(shell_overlap(g, dim) for g in gammas) > 0.997
        with pytest.raises(ss.errors.ScheduleError, match="levels="):
            ratio_for_overlap(0.5, dim)
    with pytest.raises(ss.errors.ScheduleError, match="levels="):
        ss.DiscreteVESDE.from_data(torch.randn(10, 2))


@pytest.mark.parametrize(("dim", "expected"), [(8, 0.4335), (64, 0.4765), (784, 0.4933)])
def test_how_good_the_gaussian_radius_is(dim: int, expected: float) -> None:
    """The overlap under the exact distribution of the radius, χ with D degrees of freedom."""
    ratio = ratio_for_overlap(0.5, dim)
    low, high = (ratio * max(0.0, math.sqrt(dim) + k / math.sqrt(2)) for k in (-3, 3))
    true = stats.chi.cdf(high, dim) - stats.chi.cdf(low, dim)
    assert true == pytest.approx(expected, abs=1e-4)


def test_the_published_ladder_of_cifar_10() -> None:
    """NCSNv2's: σ from 50 to 0.01 in 232 levels, T = 5 and α = 6.2e-6."""
    ratio = (50 / 0.01) ** (1 / 231)
    assert shell_overlap(ratio, 3072) == pytest.approx(0.567, abs=1e-3)
    assert ratio_for_overlap(0.567, 3072) == pytest.approx(ratio, abs=1e-5)
    assert langevin_step_size(ratio, 5) * 0.01**2 == pytest.approx(6.2e-6, abs=5e-8)


@given(st.integers(1, 2000), log_uniform(1e-4, 1.0), log_uniform(1.5, 1e5))
def test_a_whole_number_of_steps_stays_whole(steps: int, low: float, span: float) -> None:
    assert levels_for_ratio(low * span, low, span ** (1 / steps)) == steps + 1


@given(log_uniform(1.001, 5.0), log_uniform(1.01, 1e5))
def test_the_levels_are_the_fewest(ratio: float, span: float) -> None:
    steps = levels_for_ratio(span, 1.0, ratio) - 1
    assert span ** (1 / steps) <= ratio * (1 + 1e-9)
    assert steps == 1 or span ** (1 / (steps - 1)) > ratio * (1 - 1e-9)


def test_a_ladder_from_data() -> None:
    data = torch.rand(40, 1, 6, 6)
    sde = ss.DiscreteVESDE.from_data(data, sigma_min=0.02)
    assert sde.sigmas[0] == pytest.approx(true_diameter(data), rel=1e-6)
    assert sde.sigmas[-1] == pytest.approx(0.02)
    ratios = [high / low for high, low in itertools.pairwise(sde.sigmas)]
    assert max(ratios) == pytest.approx(min(ratios))
    wanted = ratio_for_overlap(0.5, 36)
    assert ratios[0] <= wanted < (sde.sigmas[0] / 0.02) ** (1 / (sde.levels - 2))
    # More overlap takes more levels; levels= and ratio= take its place.
    assert ss.DiscreteVESDE.from_data(data, overlap=0.9).levels > sde.levels
    assert ss.DiscreteVESDE.from_data(data, levels=7).levels == 7
    by_ratio = ss.DiscreteVESDE.from_data(data, sigma_min=0.02, ratio=2.0)
    assert by_ratio.levels == 1 + math.ceil(math.log2(sde.sigmas[0] / 0.02))
    two = ss.DiscreteVESDE.from_data(torch.randn(9, 2), ratio=1e9)
    assert two.levels == 2


def test_a_ladder_of_too_many_levels_is_refused() -> None:
    """Nine decades at a ratio of 1 + 10⁻⁶ are two million levels; just below the bound is none."""
    data = torch.tensor([[0.0], [1.0]])
    span = math.log(1 / 0.01)
    for options in ({"ratio": 1 + 1e-6}, {"ratio": 1 + span / 100_100}, {"levels": 100_001}):
        with pytest.raises(
            ss.errors.ScheduleError, match=r"at most 100,000 levels; .* larger ratio"
        ):
            ss.DiscreteVESDE.from_data(data, **options)
    sde = ss.DiscreteVESDE.from_data(data, ratio=math.exp(span / 99_999))
    assert sde.levels == 100_000


# Technique 3.


def test_a_network_that_ignores_the_time_is_scaled_by_sigma() -> None:
    """Technique 3: s(x, σ) = −f(x)/σ; NCSNv2's own f is minus ours."""
    sde = ss.DiscreteVESDE.geometric(sigma_max=20.0, sigma_min=0.05, levels=9)
    net = torch.nn.Linear(3, 3).double()
    model = ss.ScoreModel(lambda x, c: net(x.double()), sde, prediction="epsilon")
    x, t = torch.randn(9, 3, dtype=torch.float64), sde.level_times()
    expected = -net(x) / torch.tensor(sde.sigmas, dtype=torch.float64)[:, None]
    torch.testing.assert_close(model(x, t), expected, rtol=1e-6, atol=1e-7)


# Technique 4.


def level_by_level(tau: list[float], sigmas: tuple[float, ...], steps: int, v: float) -> list:
    """Variance over σ_i² after each level, for data that are one point: s = −x/σ²."""
    ratios = []
    for step, sigma in zip(tau, sigmas, strict=True):
        for _ in range(steps):
            v = (1 - step / sigma**2) ** 2 * v + 2 * step
        ratios.append(v / sigma**2)
    return ratios


@given(st.floats(0.001, 1.9), log_uniform(1.001, 50.0), st.integers(1, 40))
def test_the_variance_ratio_is_what_the_steps_leave(r: float, ratio: float, steps: int) -> None:
    expected = level_by_level([r], (1.0,), steps, ratio**2)[0]
    assert variance_ratio(r, ratio, steps) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("ratio", [1.0001, 1.04, 1.3, 2.0, 20.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 30, 100])
def test_the_step_leaves_the_least_variance_and_never_little_enough(
    ratio: float, steps: int
) -> None:
    r = np.linspace(1e-6, 2 - 1e-6, 2001)
    left = np.array([variance_ratio(v, ratio, steps) for v in r])
    assert left.min() > 1
    best = langevin_step_size(ratio, steps)
    assert variance_ratio(best, ratio, steps) <= left.min() * (1 + 1e-12)
    assert variance_ratio(best, ratio, steps) <= 2
    found = optimize.minimize_scalar(
        lambda v: variance_ratio(v, ratio, steps), bounds=(0, 1), options={"xatol": 1e-12}
    )
    assert best == pytest.approx(found.x, rel=1e-5, abs=1e-7)


def test_one_step_has_a_closed_form() -> None:
    """T = 1: (1−r)² γ² + 2r is least at r = 1 − 1/γ²."""
    for ratio in (1.001, 1.5, 30.0):
        assert langevin_step_size(ratio, 1) == pytest.approx(1 - ratio**-2, rel=1e-12)


@pytest.mark.parametrize(
    ("ratio", "steps", "left"),
    [(1.04, 5, 1.058), (1.04, 100, 1.011), (2.0, 5, 1.25), (2.0, 100, 1.02)],
)
def test_what_is_left_at_best(ratio: float, steps: int, left: float) -> None:
    best = optimize.minimize_scalar(
        lambda r: level_by_level([r], (1.0,), steps, ratio**2)[0], bounds=(0, 1)
    )
    assert best.fun == pytest.approx(left, abs=2e-3)
    assert variance_ratio(langevin_step_size(ratio, steps), ratio, steps) == pytest.approx(best.fun)


def test_two_levels_are_a_ladder() -> None:
    sde = ss.DiscreteVESDE(sigmas=(3.0, 1.0))
    step = optimize.minimize_scalar(lambda r: level_by_level([r], (1.0,), 4, 9.0)[0], bounds=(0, 1))
    corrector = ss.AnnealedLangevin.for_ladder(sde, 4)
    tau = corrector.tableau(sde, sde.level_times()).b.flatten()
    assert tau.tolist() == pytest.approx([9 * step.x, step.x], rel=1e-4)


def test_down_a_ladder_more_is_left_than_at_one_level() -> None:
    sde = ss.DiscreteVESDE.geometric(sigma_max=0.01 * 1.04**200, sigma_min=0.01, levels=201)
    corrector = ss.AnnealedLangevin.for_ladder(sde, 5)
    tau = corrector.tableau(sde, sde.level_times()).b.flatten().tolist()
    assert level_by_level(tau, sde.sigmas, 5, 0.0)[-1] == pytest.approx(1.13, abs=5e-3)


def test_more_steps_come_nearer() -> None:
    left = [
        variance_ratio(langevin_step_size(1.5, T), 1.5, T) for T in (1, 2, 5, 20, 100, 10**4, 10**6)
    ]
    assert left == sorted(left, reverse=True)
    assert left[-1] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("steps", [1, 5, 12])
@pytest.mark.parametrize("ratio", [1.05, 1.6])
def test_the_corrector_does_it_at_every_level(ratio: float, steps: int) -> None:
    sde = ss.DiscreteVESDE.geometric(sigma_max=0.03 * ratio**8, sigma_min=0.03, levels=9)
    corrector = ss.AnnealedLangevin.for_ladder(sde, steps)
    assert corrector.steps == steps
    tau = corrector.tableau(sde, sde.level_times()).b.flatten().tolist()
    least = variance_ratio(langevin_step_size(ratio, steps), ratio, steps)
    for step, sigma in zip(tau, sde.sigmas, strict=True):
        left = level_by_level([step], (sigma,), steps, (ratio * sigma) ** 2)[0]
        assert left == pytest.approx(least, rel=1e-9)

    # And so does the whole chain, whose levels start from what the level above left.
    sampler = ss.PredictorCorrector(
        sde,
        predictor=ss.NoPredictor(),
        corrector=corrector,
        corrector_first=True,
        denoise=False,
    )
    mean, variance = output_moments(
        sampler, Modes.of((0.7, 0.0)), (np.array([0.7]), np.array([4.0]))
    )
    chain = level_by_level(tau, sde.sigmas, steps, 4.0)
    assert mean == pytest.approx(0.7)
    assert variance / sde.sigmas[-1] ** 2 == pytest.approx(chain[-1], rel=1e-9)


def test_the_largest_ratio_decides_for_a_ladder_that_is_not_geometric() -> None:
    """No other step leaves less at the level that is left with most."""
    sde = ss.DiscreteVESDE(sigmas=(9.0, 6.0, 2.0, 1.8, 1.0))
    worst = []
    for factor in (0.98, 1.0, 1.02):
        corrector = ss.AnnealedLangevin.for_ladder(sde, 4)
        corrector = ss.AnnealedLangevin(factor * corrector.epsilon, 4)
        tau = corrector.tableau(sde, sde.level_times()).b.flatten().tolist()
        left = [
            level_by_level([step], (low,), 4, high**2)[0]
            for step, (high, low) in zip(tau[1:], itertools.pairwise(sde.sigmas), strict=True)
        ]
        worst.append(max(left))
    assert worst[1] < min(worst[0], worst[2])
    assert worst[1] == pytest.approx(variance_ratio(langevin_step_size(3.0, 4), 3.0, 4))
