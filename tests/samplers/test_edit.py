"""Edited data have the distribution that the chain's numbers give, whatever the sampler.

Statistical bounds have a false-positive rate of 1e-6 each.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import sdescore as ss
from sdescore.noise import counter, sources
from sdescore.samplers import edit
from tests.helpers.affine import CONSTANT, START, Modes, coefficients, output_moments
from tests.helpers.memory import Peak

ALPHA = 1e-6
N = 20_000
SDES = {"VP": ss.VPSDE(), "VE": ss.VESDE(), "levels": ss.DiscreteVPSDE.linear(100)}
PARTS: dict[str, Any] = {
    "default": {},
    "stochastic": {"predictor": ss.ExponentialAdams(eta=1.0, midpoint=True)},
    "ancestral, Langevin": {"predictor": ss.Ancestral(), "corrector": ss.Langevin(snr=0.1)},
    "no denoise": {"predictor": ss.Ancestral(), "denoise": False},
}


def require_moments(x: Tensor, mean: float, variance: float) -> None:
    """Of independent normal numbers."""
    x, n = x.double().flatten(), x.numel()
    error = (x.mean().item() - mean) / math.sqrt(variance / n)
    assert abs(error) < stats.norm.isf(ALPHA / 2), error
    low, high = (stats.chi2.ppf(p, n) / n for p in (ALPHA / 2, 1 - ALPHA / 2))
    assert low < (x - mean).square().mean().item() / variance < high


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("name", PARTS)
def test_one_datum_leads_to_the_distribution_of_the_last_steps(name: str, sde: Any) -> None:
    """A chain of the last 12 of 30 steps from ``αx₀ + σz``, its noise independent of z."""
    full, data = ss.PredictorCorrector(sde, steps=30, **PARTS[name]), Modes.of((1.0, 0.25))
    times = full.times[18:]
    rest = ss.PredictorCorrector(sde, grid=times, **PARTS[name])
    affine = coefficients(rest, data)[0]
    alpha, sigma = (v.item() for v in sde.marginal(times[0]))
    noise = np.square([sigma * affine[START], *affine[START + 1 :]]).sum()
    x = edit(full, data.score(sde), torch.full((N, 1), 1.5), strength=0.4)
    require_moments(x, affine[CONSTANT] + affine[START] * alpha * 1.5, noise)


def test_own_samples_are_edited_with_the_same_seed() -> None:
    """Their noise, that which is added and that of the steps are independent."""
    sde, data = ss.VPSDE(), Modes.of((0.0, 0.25))
    full = ss.PredictorCorrector(sde, predictor=ss.Ancestral(), steps=20)
    rest = ss.PredictorCorrector(sde, predictor=ss.Ancestral(), grid=full.times[4:])
    x0 = full.sample(data.score(sde), (N, 1), dtype=torch.float64)
    x = edit(full, data.score(sde), x0, strength=0.8)
    start = full.start_std**2
    variance = float(output_moments(full, data, (np.zeros(1), np.array([start])))[1][0])
    alpha, sigma = (v.item() for v in sde.marginal(full.times[4]))
    noised = np.zeros(1), np.array([alpha**2 * variance + sigma**2])
    require_moments(x, 0.0, float(output_moments(rest, data, noised)[1][0]))


@pytest.mark.parametrize(("name", "eta"), [("levels", 0.0), ("VE", 0.0), ("VP", 1.0)])
def test_an_adaptive_sampler_starts_at_the_share_of_the_default_grid(name: str, eta: float) -> None:
    """Against the exact distribution of a fine chain: within 0.14 of its standard deviation."""
    sde, data = SDES[name], Modes.of((1.0, 0.25))
    times = ss.PredictorCorrector(sde, steps=100).times[60:]
    rest = ss.PredictorCorrector(sde, predictor=ss.ExponentialAdams(eta=eta), grid=times)
    affine = coefficients(rest, data)[0]
    alpha, sigma = (v.item() for v in sde.marginal(times[0]))
    sampler = ss.AdaptiveSampler(sde, eta=eta, rtol=0.02, atol=0.02)
    x0 = torch.full((2000, 1), 1.5, dtype=torch.float64)
    x = edit(sampler, data.score(sde), x0, strength=0.4)
    mean = affine[CONSTANT] + affine[START] * alpha * 1.5
    std = np.square([sigma * affine[START], *affine[START + 1 :]]).sum() ** 0.5
    # 5 standard errors of 2,000 numbers are 0.11 standard deviations, and 8 % of one.
    assert abs(x.mean().item() - mean) < 0.14 * std
    assert abs(x.std().item() / std - 1) < 0.11


@pytest.mark.parametrize(
    ("steps", "strength", "run"),
    [(50, 1.0, 50), (50, 0.75, 37), (100, 0.29, 29), (10, 1e-9, 1), (10, 0.99, 9), (1, 0.5, 1)],
)
@pytest.mark.parametrize("denoise", [True, False])
def test_strength_is_a_share_of_the_steps(
    steps: int, strength: float, run: int, denoise: bool
) -> None:
    """Rounded down as in diffusers; 0.29 · 100 is 28.999… in floating point."""
    times = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        times.append(t.item())
        return -x

    sampler = ss.PredictorCorrector(
        SDES["VP"], predictor=ss.DDIM(), steps=steps, denoise=denoise, grid=ss.LogSNRGrid()
    )
    edit(sampler, score, torch.ones(1, 1, dtype=torch.float64), strength=strength)
    assert times == sampler.program.times[steps - run :]


def elementwise(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    return -torch.tanh(x - 0.1 * label.to(x)[:, None]) / (0.1 + t.expand(len(x))[:, None])


@pytest.mark.parametrize(
    "sampler",
    [ss.PredictorCorrector(ss.VPSDE(), predictor=ss.Ancestral(), steps=8),
     ss.AdaptiveSampler(ss.VPSDE(), rtol=0.2)],
    ids=["chain", "adaptive"],
)  # fmt: skip
def test_rows_and_chunks_are_those_of_the_whole(sampler: Any) -> None:
    x0, label = torch.randn(9, 3), torch.arange(9)
    before = x0.clone()
    options = {"strength": 0.6, "seed": 5, "label": label}
    whole = edit(sampler, elementwise, x0, **options)
    assert torch.equal(edit(sampler, elementwise, x0, max_batch=2, **options), whole)
    some = edit(sampler, elementwise, x0, samples=range(3, 8), max_batch=2, **options)
    assert torch.equal(some, whole[3:8]) and torch.equal(x0, before)
    other = edit(sampler, elementwise, x0, **(options | {"seed": 6}))
    assert (other - whole).abs().min() > 0


def test_parts_bound_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the data, the result, and what a part takes; all at once it is some eight times."""
    monkeypatch.setattr(counter, "_CHUNK", 1 << 10)  # little scratch beside the parts
    monkeypatch.setattr(sources, "_BUFFER", 1 << 10)
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.Ancestral(), steps=3)
    x0 = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    with Peak() as memory:
        edit(sampler, lambda x, t: -x, x0, strength=0.9, max_batch=20)
    assert memory.peak < 4 * x0.nbytes


def test_data_are_in_their_own_units() -> None:
    sde, x0 = ss.VPSDE(), 70 + 5 * torch.randn(6, 2)
    options: dict[str, Any] = {"prediction": "x0"}
    plain = ss.ScoreModel(lambda x, c: x.tanh(), sde, **options)
    scaled = ss.ScoreModel(lambda x, c: x.tanh(), sde, data_mean=70.0, data_std=5.0, **options)
    sampler = ss.PredictorCorrector(sde, predictor=ss.Ancestral(), steps=10)
    found = edit(sampler, scaled, x0, strength=0.5)
    wanted = edit(sampler, plain, scaled.from_data(x0), strength=0.5)
    torch.testing.assert_close(found, scaled.to_data(wanted), rtol=1e-5, atol=1e-4)


def test_a_method_made_for_its_grid() -> None:
    """The outputs that do not exist leave their weight to the oldest that does."""
    method = ss.predictors.Multistep([[1.0], [1.5, -0.5], [1.5, -0.25, -0.25], [2.0, -0.5, -0.5]])
    assert method.last(2).weights == ((1.0,), (2.0, -1.0))
    assert method.last(3).weights == ((1.0,), (1.5, -0.5), (2.0, -0.5, -0.5))
    assert method.last(4) == method
    sampler = ss.PredictorCorrector(SDES["VP"], predictor=method, grid=ss.LogSNRGrid(), steps=4)
    score = Modes.of((1.0, 0.25)).score(SDES["VP"])
    x = edit(sampler, score, torch.ones(500, 1), strength=0.75)
    assert abs(x.mean().item() - 1) < 0.2


def of_class(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """The exact VP score of ``N(label, 0.25)``, elementwise."""
    alpha, sigma = (v.reshape(-1, 1) for v in SDES["VP"].marginal(t))
    return -(x - alpha * label.to(x)[:, None]) / (0.25 * alpha**2 + sigma**2)


@pytest.mark.parametrize("grid", [None, ss.UniformGrid()], ids=["dopri5", "rk4 on a grid"])
def test_a_flow_encodes_under_one_label_and_decodes_under_the_other(grid: Any) -> None:
    """The flow of a Gaussian keeps the distance to its mean in standard deviations."""
    sde, options = SDES["VP"], {"rtol": 1e-8, "atol": 1e-8}
    if grid is not None:
        options = {"method": "rk4", "grid": grid, "steps": 100}
    flow = ss.ProbabilityFlow(sde, **options)
    if grid is None:  # the default grid has equal steps in log-SNR
        t = sde.time_at_log_snr(0.6 * sde.log_snr(sde.t_min) + 0.4 * sde.log_snr(sde.T))
    else:
        t = torch.tensor(sde.t_min + 0.4 * (sde.T - sde.t_min), dtype=torch.float64)
    (alpha, sigma), (first, noise) = sde.marginal(t), sde.marginal(sde.t_min)
    std, own = (0.25 * alpha**2 + sigma**2).sqrt(), (0.25 * first**2 + noise**2).sqrt()
    x0 = torch.linspace(-1, 3, 12, dtype=torch.float64).reshape(6, 2)
    source, label = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([2, 1, 0, 1, 0, 2])
    a, b = source[:, None], label[:, None]
    code = alpha * a + std * (x0 - first * a) / own
    wanted = first * b + own * (code - alpha * b) / std
    both = {"strength": 0.4, "source": source, "label": label}
    found = edit(flow, of_class, x0, **both)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[[1, 5]], x0[[1, 5]], rtol=0, atol=1e-5)  # the same label
    some = edit(flow, of_class, x0, samples=range(1, 5), max_batch=3, **both)
    torch.testing.assert_close(some, found[1:5], rtol=0, atol=1e-7)
