"""Correctors beyond the plain Langevin step: preconditioned, Metropolis-adjusted, underdamped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sdescore as ss
from sdescore.correctors.mala import MALA
from sdescore.correctors.underdamped import Underdamped
from sdescore.langevin.chains import chains
from sdescore.langevin.preconditioner import Preconditioner
from sdescore.score.mixture import MixtureScore
from tests.helpers.affine import Modes, law
from tests.helpers.strategies import log_uniform

SDE = ss.VPSDE(beta_min=0.5, beta_max=8.0)
LADDER = ss.DiscreteVESDE.geometric(sigma_max=3.0, sigma_min=0.1, levels=6)


def at_one_time(corrector: ss.Corrector, sde: ss.LinearSDE = SDE) -> ss.PredictorCorrector:
    """A sampler that stays at ``sde.T`` and then at a last time close by, correcting at both."""
    return ss.PredictorCorrector(
        sde,
        predictor=ss.NoPredictor(),
        corrector=corrector,
        grid=[0.4, 0.4 - 1e-9],
        denoise=False,
        corrector_first=False,
    )


def mixture(sde: ss.LinearSDE = SDE) -> MixtureScore:
    return MixtureScore([0.3, 0.7], [[-1.5], [1.0]], [0.1, 0.2], sde)


class Counted:
    """An exact score that counts what is asked of it, and when."""

    def __init__(self, exact: Any) -> None:
        self.exact, self.calls = exact, list[str]()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls.append("score")
        return self.exact(x, t)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls.append("density")
        return self.exact.log_prob(x, t)


# Underdamped.


@given(log_uniform(1e-3, 1.0), st.one_of(st.just(0.0), log_uniform(1e-3, 1e4)))
@settings(max_examples=60)
def test_a_trajectory_of_one_step_is_langevins(snr: float, friction: float) -> None:
    times = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    short = Underdamped(snr=snr, friction=friction, length=1).tableau(SDE, times)
    plain = ss.Langevin(snr=snr).tableau(SDE, times)
    torch.testing.assert_close(short.b, plain.b, rtol=1e-13, atol=0.0)
    torch.testing.assert_close(
        short.c.square().sum(-1), plain.c.square().sum(-1), rtol=1e-13, atol=0.0
    )
    assert torch.equal(short.a, plain.a) and torch.equal(short.times, plain.times)
    # The share of the first kick in the two drifts: h²/4 and e^(-γh) h²/4.
    h = Underdamped(snr=snr, friction=friction).relative_step
    overdamped = 0.25 * h * h * (1 + math.exp(-friction * h))
    assert overdamped == pytest.approx(2 * snr**2, rel=1e-13)


@pytest.mark.parametrize("friction", [0.0, 0.7, 30.0])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_trajectory_is_baoab_step_by_step(length: int, friction: float) -> None:
    """The tableau in the sampler against the chain in x and v, on a score that is not linear."""
    snr, B, trajectories = 0.3, 7, 2
    corrector = Underdamped(snr=snr, friction=friction, steps=trajectories, length=length)
    sampler = at_one_time(corrector)
    draws = 1 + trajectories * (length + 1)
    assert len(sampler.program.spans) == (draws if friction else 1 + trajectories)
    assert sampler.evaluations == trajectories * length
    x = torch.randn(B, 1, dtype=torch.float64)
    z = torch.randn(draws, B, 1, dtype=torch.float64)
    given = z if friction else torch.stack([z[0], z[1], z[1 + length + 1]])
    got = sampler.sample(mixture(), init=x, noise=ss.noise.ReplayNoise(given), dtype=torch.float64)
    t = sampler.times[1]
    sigma = SDE.marginal(t)[1].item()
    h = corrector.relative_step * sigma
    for k in range(trajectories):
        own = z[1 + k * (length + 1) :][: length + 1]
        x = chains(
            mixture(),
            x,
            h,
            length,
            t=t.item(),
            method="underdamped",
            friction=friction / sigma,
            noise=ss.noise.ReplayNoise(own),
        ).x
    torch.testing.assert_close(got, x, rtol=1e-11, atol=1e-11)


def test_the_exact_distribution_of_trajectories() -> None:
    """Many trajectories at one level: close to p_t, closer the smaller the step; length 1 is known.

    The step is halved by halving snr, so a trajectory of twice the length covers the same time.
    """
    data = Modes.of((0.0, 0.5), (1.0, 2.0))
    start = (np.zeros(2), np.full(2, 9.0))

    def variance(snr: float, length: int) -> np.ndarray:
        sampler = ss.PredictorCorrector(
            LADDER,
            predictor=ss.NoPredictor(),
            corrector=Underdamped(snr=snr, friction=0.5, steps=round(300 / length), length=length),
            grid=[0.5, 0.4],
            denoise=False,
        )
        return law(sampler, data, start)[1] / data.marginal(LADDER, 0.4)[1]

    tau_over_S = 2 * (0.5 * LADDER.marginal(0.4)[1].item()) ** 2 / data.marginal(LADDER, 0.4)[1]
    np.testing.assert_allclose(variance(0.5, 1), 1 / (1 - tau_over_S / 2), rtol=1e-6)
    coarse, fine = abs(variance(0.4, 4) - 1), abs(variance(0.2, 8) - 1)
    np.testing.assert_allclose(coarse / fine, 4, rtol=0.35)


def test_trajectories_sample_in_a_sampler() -> None:
    """Mean and width of 20,000 samples of a Gaussian, each within its 1e-6 band and 2 % of bias."""
    score = ss.GaussianScore([1.0, -2.0], 0.25, SDE)
    sampler = ss.PredictorCorrector(SDE, corrector=Underdamped(snr=0.15, steps=1), steps=60)
    x = sampler.sample(score, (20_000, 2), seed=3)
    assert sampler.evaluations == 60 + 59 * 5
    assert bool(((x.mean(0) - torch.tensor([1.0, -2.0])).abs() < 0.02 + 5.1 * 0.5 / 2e4**0.5).all())
    assert bool(((x.std(0) - 0.5).abs() < 0.02).all())


# MALA.


@pytest.mark.parametrize("inner", [1, 3])
def test_what_mala_costs(inner: int) -> None:
    """``steps + 1`` scores and densities a time, and two draws a step."""
    score = Counted(mixture())
    sampler = ss.PredictorCorrector(SDE, corrector=MALA(snr=0.5, steps=inner), steps=5)
    sampler.sample(score, (3, 1))
    assert sampler.evaluations == score.calls.count("score") == 5 + 4 * (inner + 1)
    assert score.calls.count("density") == 4 * (inner + 1)
    assert len(sampler.program.spans) == 1 + 4 + 4 * 2 * inner


def test_mala_in_the_sampler_is_the_chain_at_that_level() -> None:
    """Against chains(method="mala") with the same draws, on the same score."""
    snr, inner, B = 0.6, 4, 9
    reported: list[tuple[float, Tensor]] = []
    sampler = at_one_time(MALA(snr=snr, steps=inner, report=lambda t, a: reported.append((t, a))))
    x, z = torch.randn(B, 1).double(), torch.randn(1 + 2 * inner, B, 1, dtype=torch.float64)
    got = sampler.sample(mixture(), init=x, noise=ss.noise.ReplayNoise(z), dtype=torch.float64)
    t = sampler.times[1].item()
    tau = 2 * (snr * SDE.marginal(t)[1].item()) ** 2
    run = chains(mixture(), x, tau, inner, t=t, method="mala", noise=ss.noise.ReplayNoise(z))
    torch.testing.assert_close(got, run.x, rtol=1e-12, atol=1e-12)
    assert len(reported) == 1 and reported[0][0] == t
    assert torch.equal(reported[0][1], run.acceptance.double())
    assert 0 < run.acceptance.mean() < 1


def mixture_cdf(sde: ss.LinearSDE, t: float) -> Callable[[np.ndarray], np.ndarray]:
    alpha, sigma = (v.item() for v in sde.marginal(t))
    parts = [
        (w, alpha * m, math.hypot(alpha * math.sqrt(v), sigma))
        for w, m, v in ((0.3, -1.5, 0.1), (0.7, 1.0, 0.2))
    ]
    return lambda x: sum(w * scipy.stats.norm.cdf(x, m, s) for w, m, s in parts)


def test_mala_leaves_the_distribution_alone_and_langevin_does_not() -> None:
    """20,000 exact states of p_t, corrected 30 times with a large step: KS at 1e-6."""
    score, t = mixture(), 0.1
    sampler = ss.PredictorCorrector(
        SDE,
        predictor=ss.NoPredictor(),
        corrector=MALA(snr=0.9, steps=30),
        grid=[t + 1e-9, t],
        denoise=False,
    )
    alpha, sigma = (v.item() for v in SDE.marginal(t))
    clean = score.sample(20_000, seed=5, dtype=torch.float64)
    start = alpha * clean + sigma * torch.randn(20_000, 1, dtype=torch.float64)
    cdf = mixture_cdf(SDE, t)

    def p_value(corrector: ss.Corrector) -> float:
        x = replace(sampler, corrector=corrector).sample(score, init=start, dtype=torch.float64)
        assert not torch.equal(x, start)
        return float(scipy.stats.kstest(x.flatten().numpy(), cdf).pvalue)

    assert p_value(MALA(snr=0.9, steps=30)) > 1e-6
    assert p_value(ss.Langevin(snr=0.9, steps=30)) < 1e-12


def test_an_energys_constant_costs_mala_no_precision() -> None:
    """A float64 energy under float32 states, by itself and in a ScoreModel: the same chain."""

    def sample(constant: float, wrapped: bool) -> Tensor:
        def f(x: Tensor, c: Tensor) -> Tensor:
            return constant - 0.5 * x.double().square().sum(1)

        score: Any = ss.EnergyModel(f)
        if wrapped:
            score = ss.ScoreModel(score, SDE, prediction="score")
            assert score.log_density(torch.zeros(2, 1), 0.5).dtype == torch.float64
        sampler = ss.PredictorCorrector(SDE, corrector=MALA(snr=0.7, steps=5), steps=10)
        return sampler.sample(score, (200, 1))

    for wrapped in (False, True):
        near = sample(0.0, wrapped)
        assert near.dtype == torch.float32
        assert torch.equal(near, sample(1e9, wrapped))


def test_acceptance_falls_with_the_step() -> None:
    rates: dict[float, list[Tensor]] = {}

    def mean(snr: float) -> float:
        seen = rates.setdefault(snr, [])
        corrector = MALA(snr=snr, steps=2, report=lambda t, a: seen.append(a))
        sampler = ss.PredictorCorrector(SDE, corrector=corrector, steps=20)
        sampler.sample(mixture(), (500, 1))
        assert len(seen) == 19 and all(a.shape == (500,) for a in seen)
        return torch.cat(seen).mean().item()

    low, middle, high = (mean(snr) for snr in (0.02, 0.7, 3.0))
    assert low > 0.99 and 0.5 < middle < 0.98 and high < middle
    assert all(bool(((a * 2) % 1 == 0).all()) for a in rates[0.7]), "shares of two steps"


@pytest.mark.parametrize(
    "corrector",
    [
        MALA(snr=0.6, steps=2),
        Underdamped(snr=0.2, steps=2, length=3),
        ss.Langevin(snr=0.2, preconditioner=Preconditioner.diagonal([0.3])),
    ],
    ids=lambda c: type(c).__name__,
)
def test_a_sample_does_not_know_its_companions(corrector: ss.Corrector) -> None:
    sampler = ss.PredictorCorrector(SDE, corrector=corrector, steps=8)

    class Elementwise:
        """Each number by itself, so that no sum over a batch can differ in its last bit."""

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return -x / (0.5 + t)

        def log_density(self, x: Tensor, t: Tensor) -> Tensor:
            return -0.5 * x[:, 0].square() / (0.5 + t)

    many = sampler.sample(Elementwise(), (9, 1), seed=2)
    assert torch.equal(many[:1], sampler.sample(Elementwise(), (1, 1), seed=2))
    assert torch.equal(many, sampler.sample(Elementwise(), (9, 1), seed=2, max_batch=4))
    *_, last = sampler.iterate(Elementwise(), (9, 1), seed=2)
    assert torch.equal(many, last.x)


def test_reports_come_chunk_by_chunk() -> None:
    whole: list[tuple[float, Tensor]] = []
    parts: list[tuple[float, Tensor]] = []
    for seen, max_batch in ((whole, None), (parts, 3)):
        corrector = MALA(snr=0.8, report=lambda t, a, seen=seen: seen.append((t, a)))
        sampler = ss.PredictorCorrector(SDE, corrector=corrector, steps=4)
        sampler.sample(mixture(), (7, 1), max_batch=max_batch)
    assert [len(a) for _, a in parts] == [3] * 3 + [3] * 3 + [1] * 3
    for k, (t, a) in enumerate(whole):
        assert [parts[k + 3 * i][0] for i in range(3)] == [t] * 3
        torch.testing.assert_close(torch.cat([parts[k + 3 * i][1] for i in range(3)]), a)


def test_a_model_without_a_density_is_refused_before_it_is_called() -> None:
    calls: list[int] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        calls.append(1)
        return -x

    net = ss.ScoreModel(lambda x, c: calls.append(1) or -x, SDE, prediction="score")  # type: ignore[arg-type, func-returns-value]
    guided = ss.classifier_free(mixture(), mixture(), 2.0)
    sampler = ss.PredictorCorrector(SDE, corrector=MALA(), steps=4)
    for model in (score, net, guided):
        with pytest.raises(ss.errors.IncompatibleError, match="log density"):
            sampler.sample(model, (2, 1))
        with pytest.raises(ss.errors.IncompatibleError, match="log density"):
            next(iter(sampler.iterate(model, (2, 1))))
    assert not calls
    ss.PredictorCorrector(SDE, corrector=ss.Langevin(), steps=4).sample(score, (2, 1))


@pytest.mark.parametrize("prediction", ["score", "epsilon"])
def test_an_energy_model_runs_as_the_exact_score_does(prediction: str) -> None:
    """Same chain on the exact score and on its energy in a ScoreModel of either convention."""
    S0 = 0.25
    sde = ss.VESDE(sigma_min=0.1, sigma_max=3.0)

    def f(x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        S = S0 + sigma**2
        energy = -0.5 * x.square().sum(1) / S
        return energy if prediction == "score" else -sigma * energy

    net = ss.EnergyModel(f).double()
    model = ss.ScoreModel(net, sde, prediction=prediction, time_input="sigma").double()
    exact = ss.GaussianScore([0.0, 0.0], S0, sde)
    sampler = ss.PredictorCorrector(sde, corrector=MALA(snr=0.7, steps=2), steps=8)
    options: dict[str, Any] = {"shape": (50, 2), "dtype": torch.float64}
    expected = sampler.sample(exact, **options)
    # The network is given σ in float32.
    torch.testing.assert_close(sampler.sample(model, **options), expected, rtol=1e-4, atol=1e-4)
    labelled = sampler.sample(model, label=torch.zeros(50, dtype=torch.int64), **options)
    torch.testing.assert_close(labelled, expected, rtol=1e-4, atol=1e-4)


def test_the_label_reaches_the_density() -> None:
    seen: list[Tensor] = []

    class Labelled:
        def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            return -x

        def log_density(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
            seen.append(label)
            return -0.5 * x.square().sum(1)

    sampler = ss.PredictorCorrector(SDE, corrector=MALA(), steps=3)
    label = torch.tensor([4, 5, 6])
    sampler.sample(Labelled(), (3, 2), label=label)
    assert len(seen) == 4 and all(torch.equal(one, label) for one in seen)


def test_a_density_of_nan_stops_the_run() -> None:
    class Broken(Counted):
        def log_density(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.where(t < 0.5, torch.nan, 0.0) + 0 * x[:, 0]

    sampler = ss.PredictorCorrector(SDE, corrector=MALA(), steps=6)
    with pytest.raises(ss.errors.DivergenceError, match=r"t = 0\.4"):
        sampler.sample(Broken(mixture()), (3, 1))


@pytest.mark.parametrize("event", [(), (0,), (2, 3)])
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize(
    "corrector",
    [
        MALA(snr=0.6, steps=2),
        Underdamped(snr=0.2, length=3),
        ss.Langevin(snr=0.2, preconditioner=Preconditioner.diagonal(0.3)),
    ],
    ids=lambda c: type(c).__name__,
)
def test_any_shape(corrector: ss.Corrector, batch: int, event: tuple[int, ...]) -> None:
    class Normal:
        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return -x

        def log_density(self, x: Tensor, t: Tensor) -> Tensor:
            return -0.5 * x.square().reshape(len(x), math.prod(event)).sum(1)

    x = ss.PredictorCorrector(SDE, corrector=corrector, steps=3).sample(Normal(), (batch, *event))
    assert x.shape == (batch, *event) and x.isfinite().all()


# Preconditioned Langevin.


def covariance(d: int) -> Tensor:
    root = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    return root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["expected", "sample", "batch"])
@pytest.mark.parametrize("full", [True, False])
def test_the_preconditioned_step_is_the_plain_one_of_whitened_states(full: bool, norm: str) -> None:
    """With P_t = α²C + σ²I, x̃ = P_t^{-1/2}x has the score P_t^{1/2}s: the plain step with σ = 1."""
    d, B, t, snr = 3, 6, 0.3, 0.2
    C = covariance(d) if full else torch.diag(torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64))
    alpha, sigma = (v.item() for v in SDE.marginal(t))
    P = alpha**2 * C + sigma**2 * torch.eye(d, dtype=torch.float64)
    values, vectors = np.linalg.eigh(P.numpy())
    root = torch.from_numpy(vectors @ np.diag(np.sqrt(values)) @ vectors.T)
    x, s, z = torch.randn(3, B, d, dtype=torch.float64)
    given = Preconditioner.full(C) if full else Preconditioner.diagonal(C.diagonal())
    corrector = ss.Langevin(snr=snr, norm=norm, preconditioner=given)
    assert not corrector.is_affine(SDE)
    got = corrector.step(SDE, x, lambda _: s, t, z)

    tilde, white = torch.linalg.solve(root, x.T).T, s @ root
    z_norm, s_norm = z.square().sum(1).sqrt(), white.square().sum(1).sqrt()
    if norm == "batch":
        z_norm, s_norm = z_norm.mean(), s_norm.mean()
    ratio = torch.ones((), dtype=torch.float64) if norm == "expected" else z_norm / s_norm
    tau = (2 * (snr * ratio) ** 2).reshape(-1, 1)
    expected = (tilde + tau * white + (2 * tau).sqrt() * z) @ root
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def test_a_wide_and_a_narrow_direction_are_corrected_alike() -> None:
    """Gaussian data of condition 10⁴, at t where σ is small: exact distribution of many steps,
    mode by mode.

    The step is linear in x and z: ones in turn give its coefficients. Each mode of the exact
    score then has the factor 1 − 2 snr², whatever its variance.
    """
    t, snr = 0.01, 0.4
    C = torch.tensor([1e-2, 1e2], dtype=torch.float64)
    sde = ss.VESDE(sigma_min=1e-3, sigma_max=50.0)
    exact = ss.GaussianScore([0.0, 0.0], C, sde)
    corrector = ss.Langevin(snr=snr, preconditioner=Preconditioner.diagonal(C))
    one, zero = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    a = corrector.step(sde, one, lambda x: exact(x, t), t, zero)
    c = corrector.step(sde, zero, lambda x: exact(x, t), t, one)
    torch.testing.assert_close(a, (1 - 2 * snr**2) * one, rtol=1e-12, atol=0.0)
    S = C + sde.marginal(t)[1] ** 2
    torch.testing.assert_close(c**2 / (1 - a**2), (S / (1 - snr**2))[None], rtol=1e-12, atol=0.0)


def test_a_preconditioner_in_a_sampler() -> None:
    C = Preconditioner.full([[0.5, 0.4], [0.4, 0.5]])
    score = MixtureScore([1.0], [[0.0, 0.0]], [[[0.5, 0.4], [0.4, 0.5]]], SDE)
    sampler = ss.PredictorCorrector(
        SDE, corrector=ss.Langevin(snr=0.2, steps=2, preconditioner=C), steps=100
    )
    x = sampler.sample(score, (20_000, 2))
    got = torch.cov(x.T)
    # Bias of the step 4 %, of the predictor less; 1e-6 band of a variance 5 %.
    torch.testing.assert_close(got, torch.tensor([[0.5, 0.4], [0.4, 0.5]]), rtol=0.09, atol=0)
    assert sampler.evaluations == 100 + 2 * 99


def test_correctors_compare_and_hash() -> None:
    def make() -> ss.Langevin:
        return ss.Langevin(preconditioner=Preconditioner.diagonal([0.3, 1.0]))

    assert make() == make() and len({make(), make(), ss.Langevin()}) == 2
    assert Underdamped() == Underdamped() != Underdamped(friction=2.0)
    assert MALA() == MALA() and len({MALA(), MALA(steps=2)}) == 2


@pytest.mark.parametrize("first", [False, True])
def test_a_preconditioner_of_another_shape_is_refused(first: bool) -> None:
    calls: list[int] = []
    for P in (Preconditioner.diagonal([0.3, 1.0]), Preconditioner.full([[1.0]])):
        corrector = ss.Langevin(preconditioner=P)
        with pytest.raises(ss.errors.ShapeError, match="preconditioner"):
            corrector.check_event((3,))
        sampler = ss.PredictorCorrector(SDE, corrector=corrector, steps=4, corrector_first=first)
        with pytest.raises(ss.errors.ShapeError, match="preconditioner"):
            sampler.sample(lambda x, t: calls.append(1) or -x, (2, 3))  # type: ignore[func-returns-value]
    assert not calls
    ss.Langevin().check_event((3,))
    MALA().check_event((3,))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: ss.Langevin(preconditioner=torch.ones(2)), ss.errors.IncompatibleError),  # type: ignore[arg-type]
        (lambda: ss.Langevin(preconditioner=0.3), ss.errors.IncompatibleError),  # type: ignore[arg-type]
        (lambda: MALA(snr=0.0), ss.errors.ParameterError),
        (lambda: MALA(snr=math.nan), ss.errors.ParameterError),
        (lambda: MALA(steps=0), ss.errors.ParameterError),
        (lambda: MALA(steps=True), ss.errors.ParameterError),
        (lambda: MALA(report="print"), ss.errors.IncompatibleError),  # type: ignore[arg-type]
        (lambda: Underdamped(snr=-1.0), ss.errors.ParameterError),
        (lambda: Underdamped(friction=-0.1), ss.errors.ParameterError),
        (lambda: Underdamped(friction=math.inf), ss.errors.ParameterError),
        (lambda: Underdamped(steps=0), ss.errors.ParameterError),
        (lambda: Underdamped(length=0), ss.errors.ParameterError),
        (lambda: Underdamped(length=2.0), ss.errors.ParameterError),  # type: ignore[arg-type]
        (lambda: Underdamped(length=True), ss.errors.ParameterError),
        (lambda: ss.PredictorCorrector(NonLinear(), corrector=MALA()), ss.errors.IncompatibleError),
        (
            lambda: ss.PredictorCorrector(NonLinear(), corrector=Underdamped()),
            ss.errors.IncompatibleError,
        ),
    ],
)
def test_bad_parameters(make: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_a_tensor_is_no_python_number() -> None:
    one = torch.tensor(0.1)
    for make in (
        lambda: MALA(snr=one),  # type: ignore[arg-type]
        lambda: ss.Langevin(snr=one),  # type: ignore[arg-type]
        lambda: Underdamped(snr=one),  # type: ignore[arg-type]
        lambda: Underdamped(friction=one),  # type: ignore[arg-type]
        lambda: ss.AnnealedLangevin(epsilon=one),  # type: ignore[arg-type]
    ):
        with pytest.raises(
            ss.errors.ParameterError, match=r"tensor\(0.1000\), which is no Python number"
        ):
            make()


class NonLinear(ss.SDE):
    T = 1.0

    def drift(self, x: Tensor, t: Any) -> Tensor:
        return -(x**3)

    def diffusion(self, t: Any) -> Tensor:
        return torch.ones(())


# Correctors of a user's own.


@dataclass(frozen=True)
class Midpoint(ss.Corrector):
    """Two evaluations and three noises a call, and half the calls that ``steps`` says."""

    steps: int = 4
    seen: list[Tensor] = field(default_factory=list, compare=False)

    @property
    def calls(self) -> int:
        return self.steps // 2

    @property
    def evaluations(self) -> int:
        return 2

    @property
    def noises(self) -> int:
        return 3

    def correct(
        self, sde: ss.SDE, x: Tensor, score: Any, t: float, noises: Iterator[Tensor]
    ) -> Tensor:
        self.seen.extend(z.clone() for z in noises)
        return x + 0.01 * score(x + 0.01 * score(x))


def test_a_corrector_may_evaluate_and_draw_as_it_says() -> None:
    corrector, score = Midpoint(), Counted(mixture())
    sampler = ss.PredictorCorrector(SDE, corrector=corrector, steps=5)
    noise = torch.randn(len(sampler.program.spans), 2, 1)
    sampler.sample(score, (2, 1), noise=ss.noise.ReplayNoise(noise))
    assert sampler.evaluations == score.calls.count("score") == 5 + 4 * 2 * 2
    assert len(noise) == 1 + 4 + 4 * 2 * 3
    moves = [1 + 7 * k for k in range(4)]
    drawn = [k for k in range(1, len(noise)) if k not in moves]
    assert all(torch.equal(z, noise[k]) for z, k in zip(corrector.seen, drawn, strict=True))


def test_a_corrector_that_did_not_ask_for_densities_gets_none() -> None:
    class Undeclared(Midpoint):
        def correct(
            self, sde: ss.SDE, x: Tensor, score: Any, t: float, noises: Iterator[Tensor]
        ) -> Tensor:
            return x + 0 * score.log_density(x)[:, None]

    sampler = ss.PredictorCorrector(SDE, corrector=Undeclared(), steps=3)
    with pytest.raises(ss.errors.IncompatibleError, match="needs_log_density = True"):
        sampler.sample(mixture(), (2, 1))


def test_a_corrector_without_a_step_says_where_its_rule_is() -> None:
    for corrector in (MALA(), Underdamped()):
        with pytest.raises(
            ss.errors.IncompatibleError, match=r"tableau\(\), or its rule in correct"
        ):
            corrector.step(SDE, torch.zeros(1, 1), torch.neg, 0.5, torch.zeros(1, 1))
    with pytest.raises(ss.errors.IncompatibleError, match="tableau"):
        MALA().tableau(SDE, torch.tensor([0.5]))
