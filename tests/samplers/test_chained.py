"""Calls that follow each other with one seed: independent noise, each of the right distribution.

Every bound is on a statistic of independent normal numbers, at a false-positive rate of 1e-6.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import sdescore as ss
from sdescore.noise import counter
from sdescore.noise.counter import Domain
from sdescore.samplers.request import domain_at
from tests.helpers.affine import Modes, output_moments
from tests.helpers.memory import Peak

ALPHA = 1e-6
VP = ss.VPSDE()
N = 20_000


def correlation_bound(n: int) -> float:
    return stats.norm.isf(ALPHA / 2) / math.sqrt(n)


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


def require_variance(x: Tensor, variance: float) -> None:
    """χ² test of independent normal numbers with mean 0."""
    low, high = (stats.chi2.ppf(p, x.numel()) / x.numel() for p in (ALPHA / 2, 1 - ALPHA / 2))
    assert low < x.double().square().mean().item() / variance < high


def variance_after(sampler: ss.PredictorCorrector, variance: float) -> float:
    """The exact variance after a chain of independent noise, from that before it."""
    start = np.array([0.0]), np.array([variance])
    return float(output_moments(sampler, Modes.of((0.0, 1.0)), start)[1][0])


def chain(first: float, last: float, steps: int = 60) -> ss.PredictorCorrector:
    grid = torch.linspace(first, last, steps, dtype=torch.float64)
    return ss.PredictorCorrector(VP, predictor=ss.Ancestral(), grid=grid, denoise=False)


def stationary(x: Tensor, t: Tensor) -> Tensor:
    """The score of N(0, 1), which the VP SDE keeps at all times."""
    return -x


@pytest.mark.guards("W02")
def test_sampling_on_from_own_samples_keeps_the_variance() -> None:
    """Two runs of one grid length: with one stream step n of both adds the same number."""
    first, x = chain(1.0, 0.5), None
    variance = first.start_std**2
    for sampler in (first, chain(0.5, 0.01), chain(0.6, 0.1)):
        x = sampler.sample(stationary, None if x is not None else (N, 1), init=x)
        variance = variance_after(sampler, variance)
        require_variance(x, variance)


@pytest.mark.guards("W02")
def test_the_prior_and_a_sample_are_independent() -> None:
    prior = VP.prior_sample((N, 1))
    bound = correlation_bound(N)
    one_step = chain(1.0, 0.9, 2)
    assert abs(correlation(prior, one_step.sample(stationary, (N, 1)))) < bound
    start = VP.prior_sample((N, 1), seed=3)
    moved = one_step.sample(stationary, init=start, seed=3)
    row = one_step.program.rows[0]
    noise = moved - (row.a[0] - row.b[0][0]) * start  # x ← a x + b s + c z with s = −x
    require_variance(noise, row.c[0][0] ** 2)
    assert abs(correlation(noise, start)) < bound


@pytest.mark.guards("W02")
def test_simulating_and_sampling_back_keeps_the_variance() -> None:
    x0 = ss.noise.standard_normal(9, range(N), range(1), (1,))[0]
    half = ss.simulate(VP, x0, end=0.5, steps=59, method="exact")
    full = ss.simulate(VP, half, start=0.5, end=1.0, steps=59, method="exact")
    require_variance(half, 1.0)
    require_variance(full, 1.0)
    back = chain(1.0, 0.5)
    require_variance(back.sample(stationary, init=full), variance_after(back, 1.0))
    adaptive = ss.AdaptiveSampler(VP, rtol=0.02, atol=0.02, denoise=False)
    require_variance(adaptive.sample(stationary, init=full[:2000]), 1.0)


@pytest.mark.guards("W02")
def test_a_rewind_draws_other_noise_each_time() -> None:
    sampler = chain(1.0, 0.1, 6)
    states = list(sampler.iterate(stationary, (500, 2), seed=4))
    back = states[1]
    runs = [list(sampler.iterate(stationary, start=back, seed=4)) for _ in range(3)]
    bound = correlation_bound(1000)
    row = sampler.program.rows[back.step]
    factor = row.a[0] - row.b[0][0]
    noises = [after.x - factor * back.x for after in (states[2], *(run[0] for run in runs))]
    for i in range(4):
        for j in range(i):
            assert abs(correlation(noises[i], noises[j])) < bound
    # The rewound run goes on, from its latest state, as itself.
    rewound = sampler.iterate(stationary, start=back, seed=4)
    latest = [next(rewound) for _ in range(2)][-1]
    rest = list(sampler.iterate(stationary, start=latest, seed=4))
    assert torch.equal(rest[-1].x, list(rewound)[-1].x)


def test_runs_from_init_differ_by_where_they_start() -> None:
    times = [1.0, 0.5, math.nextafter(0.5, 1.0), 0.0]
    domains = {domain_at(role, t, again) for role in Domain for t in times for again in range(3)}
    assert len(domains) == len(Domain) * len(times) * 3
    assert domain_at(Domain.SIMULATE, 0.0) == Domain.SIMULATE


@pytest.mark.guards("W06")
@pytest.mark.parametrize("way", ["predictor–corrector", "flow"])
def test_one_tensor_takes_all_parts(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of the batch change no bit, and more samples take the memory of these samples, once.

    The adaptive sampler fills its tensors by the same function, and its parts are in test_chunks.
    """
    made = {
        "predictor–corrector": ss.PredictorCorrector(
            VP, predictor=ss.ReverseDiffusion(), steps=6
        ).sample,
        "flow": ss.ProbabilityFlow(VP, method="euler", steps=4).sample,
    }[way]
    monkeypatch.setattr(counter, "_CHUNK", 1 << 10)  # little scratch beside the parts
    whole = made(stationary, (8, 2048), seed=2)
    peaks = []
    for B in (8, 40):
        with Peak() as memory:
            parts = made(stationary, (B, 2048), seed=2, max_batch=1)
        assert torch.equal(parts[:8], whole)
        peaks.append(memory.peak)
    assert peaks[1] - peaks[0] < 1.2 * 4 * whole.nbytes  # 32 more samples, once
