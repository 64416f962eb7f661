"""Langevin correctors: step sizes, stationary distributions, norms, and NCSN's whole sampler."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdescore as ss
from sdescore.score.mixture import GaussianScore
from tests.helpers.affine import Modes, output_moments
from tests.helpers.strategies import EPS, REPRESENTATIVES, linear_sdes, log_uniform, ordered_times

pytestmark = pytest.mark.fast

LADDER = ss.DiscreteVESDE.geometric(sigma_max=3.0, sigma_min=0.1, levels=6)


@pytest.mark.guards("B06")
@given(log_uniform(1e-3, 1e3), st.floats(0.01, 0.99), log_uniform(1e-2, 1.0))
def test_the_stationary_variance_is_exact(S: float, t: float, snr: float) -> None:
    """``v ← (a − b/S)² v + c²`` has the fixed point S/(1 − h/2S), h = τ: within 8 eps."""
    sde = ss.VESDE(sigma_min=0.01, sigma_max=1.0)
    for corrector in (ss.Langevin(snr=snr), ss.AnnealedLangevin(epsilon=1e-5)):
        numbers = corrector.tableau(sde, torch.tensor([t], dtype=torch.float64))
        a, b, c = (mpmath.mpf(v.item()) for v in (numbers.a, numbers.b, numbers.c))
        if b / S >= 2:
            continue  # such a step is unstable
        with mpmath.workdps(40):
            reached = c**2 / (1 - (a - b / S) ** 2)
            closed = S / (1 - b / (2 * S))
            assert abs(reached / closed - 1) <= 8 * EPS


def test_the_chain_reaches_its_stationary_variance() -> None:
    """1500 inner steps at one level through the exact distribution of the loop's rows."""
    data, sde, snr = Modes.of((0.0, 0.5), (1.0, 2.0)), LADDER, 0.5
    sampler = ss.PredictorCorrector(
        sde,
        predictor=ss.NoPredictor(),
        corrector=ss.Langevin(snr=snr, steps=1500),
        grid=[0.5, 0.4],
        denoise=False,
    )
    mean, variance = output_moments(sampler, data, start=(np.zeros(2), np.full(2, 9.0)))
    exact_mean, S = data.marginal(sde, 0.4)
    tau = 2 * (snr * sde.marginal(0.4)[1].item()) ** 2
    np.testing.assert_allclose(variance, S / (1 - tau / (2 * S)), rtol=1e-8)
    np.testing.assert_allclose(mean, exact_mean, atol=1e-9)


@given(linear_sdes(), st.data(), log_uniform(1e-3, 1.0))
@settings(max_examples=50)
def test_steps_of_both_conventions(sde: ss.LinearSDE, data: st.DataObject, snr: float) -> None:
    times = torch.tensor(data.draw(ordered_times(sde, 4))[::-1], dtype=torch.float64)
    sigma = sde.marginal(times)[1]
    one = ss.Langevin(snr=snr).tableau(sde, times)
    torch.testing.assert_close(one.b.flatten(), 2 * snr**2 * sigma**2, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(one.c.flatten(), 2 * snr * sigma, rtol=1e-12, atol=0.0)
    two = ss.AnnealedLangevin(epsilon=snr).tableau(sde, times)
    alpha = snr * sigma**2 / sigma[-1] ** 2
    torch.testing.assert_close(two.b.flatten(), alpha / 2, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(two.c.flatten(), alpha.sqrt(), rtol=1e-12, atol=0.0)
    for numbers in (one, two):
        assert (numbers.a == 1).all() and torch.equal(numbers.times.flatten(), times)
        assert numbers.output == "score"


def ours(norm: str, x: torch.Tensor, s: torch.Tensor, z: torch.Tensor, t: float) -> torch.Tensor:
    sde = ss.VPSDE()
    return ss.Langevin(snr=0.16, norm=norm).step(sde, x, lambda _: s, t, z)


def test_norms_are_the_papers_algorithm_5() -> None:
    x, s, z = torch.randn(3, 5, 2, 3, dtype=torch.float64)
    z_norms = [v.pow(2).sum().sqrt().item() for v in z]
    s_norms = [v.pow(2).sum().sqrt().item() for v in s]
    mean = sum(z_norms) / sum(s_norms)
    for norm, ratios in (
        ("sample", [a / b for a, b in zip(z_norms, s_norms, strict=True)]),
        ("batch", [mean] * 5),
    ):
        got = ours(norm, x, s, z, 0.4)
        for i, ratio in enumerate(ratios):
            eps = 2 * (0.16 * ratio) ** 2
            expected = x[i] + eps * s[i] + math.sqrt(2 * eps) * z[i]
            torch.testing.assert_close(got[i], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.guards("M04")
@pytest.mark.parametrize("norm", ["sample", "batch"])
def test_a_zero_score_takes_the_expected_step_and_no_nan(norm: str) -> None:
    x, z = torch.randn(2, 3, 2, dtype=torch.float64)
    sigma = ss.VPSDE().marginal(0.4)[1].item()
    expected = x + 2 * 0.16 * sigma * z
    torch.testing.assert_close(ours(norm, x, torch.zeros_like(x), z, 0.4), expected)


def test_one_zero_score_among_others_with_sample_norms() -> None:
    x, s, z = torch.randn(3, 3, 2, dtype=torch.float64)
    s[1] = 0
    got = ours("sample", x, s, z, 0.4)
    assert got.isfinite().all()
    assert torch.equal(got[0], ours("sample", x[:1], s[:1], z[:1], 0.4)[0])


@pytest.mark.parametrize("event", [(), (0,), (2, 3)])
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("norm", ["expected", "sample", "batch"])
def test_any_shape(norm: str, batch: int, event: tuple[int, ...]) -> None:
    sde = ss.VPSDE()
    sampler = ss.PredictorCorrector(
        sde, predictor=ss.ReverseDiffusion(), corrector=ss.Langevin(0.1, norm=norm), steps=3
    )
    x = sampler.sample(lambda x, t: -x, (batch, *event))
    assert x.shape == (batch, *event) and x.isfinite().all()


@pytest.mark.guards("T17", "M04")
@pytest.mark.parametrize(
    ("norm", "alone"), [("expected", True), ("sample", True), ("batch", False)]
)
def test_who_depends_on_companions(norm: str, alone: bool) -> None:
    sde = ss.VESDE(sigma_min=0.1, sigma_max=4.0)
    sampler = ss.PredictorCorrector(
        sde, predictor=ss.ReverseDiffusion(), corrector=ss.Langevin(0.2, norm=norm), steps=6
    )

    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -x / (0.5 + t)

    many, one = sampler.sample(score, (8, 3), seed=1), sampler.sample(score, (1, 3), seed=1)
    assert torch.equal(many[:1], one) is alone


@pytest.mark.parametrize("name", ["vp", "ve-small", "subvp"])
@pytest.mark.parametrize("corrector_first", [False, True])
def test_both_orders_against_a_loop(name: str, corrector_first: bool) -> None:
    """Song et al. 2021: algorithms 1–3 correct after the move, their code before it."""
    sde, n, inner, snr = REPRESENTATIVES[name], 6, 2, 0.2
    grid = [sde.T + k / (n - 1) * (sde.t_min - sde.T) for k in range(n)]
    z = iter(draws := torch.randn(1 + (n - 1) + inner * n, 4, 3, dtype=torch.float64))
    score = GaussianScore([0.1, 0.2, 0.3], 0.7, sde)

    def correct(x: torch.Tensor, t: float) -> torch.Tensor:
        for _ in range(inner):
            tau = 2 * (snr * sde.marginal(t)[1].item()) ** 2
            x = x + tau * score(x, t) + math.sqrt(2 * tau) * next(z)
        return x

    def move(x: torch.Tensor, t: float, s: float) -> torch.Tensor:
        step = sde.transition(s, t)
        a, V = step.scale.item(), step.variance.item()
        return (2 - a) * x + V * score(x, t) + math.sqrt(V) * next(z)

    x = sde.marginal(sde.T)[1].item() * next(z)
    if corrector_first:
        for t, s in itertools.pairwise(grid):
            x = move(correct(x, t), t, s)
        x = correct(x, grid[-1])
    else:
        for t, s in itertools.pairwise(grid):
            x = correct(move(x, t, s), s)
    alpha, sigma = (v.item() for v in sde.marginal(grid[-1]))
    expected = (x + sigma**2 * score(x, grid[-1])) / alpha

    sampler = ss.PredictorCorrector(
        sde,
        predictor=ss.ReverseDiffusion(),
        corrector=ss.Langevin(snr=snr, steps=inner),
        grid=ss.UniformGrid(),
        steps=n,
        corrector_first=corrector_first,
    )
    got = sampler.sample(score, (4, 3), noise=ss.noise.ReplayNoise(draws), dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
