"""MALA in a sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

import sdescore as ss
from sdescore.correctors.mala import MALA
from sdescore.correctors.underdamped import Underdamped
from sdescore.langevin.chains import chains
from sdescore.langevin.preconditioner import Preconditioner
from tests.helpers.correctors import SDE, Counted, at_one_time, mixture


@pytest.mark.parametrize("inner", [1, 3])
def test_what_mala_costs(inner: int) -> None:
    """``steps + 1`` scores and densities a time, and two draws a step."""
    score = Counted(mixture())
    sampler = ss.PredictorCorrector(
        SDE, predictor=ss.ReverseDiffusion(), corrector=MALA(snr=0.5, steps=inner), steps=5
    )
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
        sampler = ss.PredictorCorrector(
            SDE, predictor=ss.ReverseDiffusion(), corrector=MALA(snr=0.7, steps=5), steps=10
        )
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
        sampler = ss.PredictorCorrector(
            SDE, predictor=ss.ReverseDiffusion(), corrector=corrector, steps=20
        )
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
    sampler = ss.PredictorCorrector(
        SDE, predictor=ss.ReverseDiffusion(), corrector=corrector, steps=8
    )

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
        sampler = ss.PredictorCorrector(
            SDE, predictor=ss.ReverseDiffusion(), corrector=corrector, steps=4
        )
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
    guided = ss.classifier_free(mixture(), score, 2.0)
    sampler = ss.PredictorCorrector(SDE, predictor=ss.ReverseDiffusion(), corrector=MALA(), steps=4)
    for model in (score, net, guided):
        with pytest.raises(ss.errors.IncompatibleError, match="log density"):
            sampler.sample(model, (2, 1))
        with pytest.raises(ss.errors.IncompatibleError, match="log density"):
            next(iter(sampler.iterate(model, (2, 1))))
    assert not calls
    ss.PredictorCorrector(
        SDE, predictor=ss.ReverseDiffusion(), corrector=ss.Langevin(), steps=4
    ).sample(score, (2, 1))


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
    sampler = ss.PredictorCorrector(
        sde, predictor=ss.ReverseDiffusion(), corrector=MALA(snr=0.7, steps=2), steps=8
    )
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

    sampler = ss.PredictorCorrector(SDE, predictor=ss.ReverseDiffusion(), corrector=MALA(), steps=3)
    label = torch.tensor([4, 5, 6])
    sampler.sample(Labelled(), (3, 2), label=label)
    assert len(seen) == 4 and all(torch.equal(one, label) for one in seen)


def test_a_density_of_nan_stops_the_run() -> None:
    class Broken(Counted):
        def log_density(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.where(t < 0.5, torch.nan, 0.0) + 0 * x[:, 0]

    sampler = ss.PredictorCorrector(
        SDE, predictor=ss.ReverseDiffusion(), corrector=MALA(), grid=ss.UniformGrid(), steps=6
    )
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

    x = ss.PredictorCorrector(
        SDE, predictor=ss.ReverseDiffusion(), corrector=corrector, steps=3
    ).sample(Normal(), (batch, *event))
    assert x.shape == (batch, *event) and x.isfinite().all()
