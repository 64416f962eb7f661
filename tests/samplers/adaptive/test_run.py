"""Distributions, and what a sample costs and does not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import sdescore as ss
from sdescore.samplers.adaptive import run as run_module
from sdescore.samplers.adaptive.controller import next_step
from sdescore.samplers.adaptive.pairs import NOISY
from sdescore.samplers.adaptive.path import NoisePath
from sdescore.samplers.adaptive.sampler import AdaptiveResult, AdaptiveSampler
from tests.helpers.adaptive import BIMODAL, F64, VP, Watched, column
from tests.helpers.strategies import REPRESENTATIVES

ALPHA = 1e-6  # false-positive rate of each statistical test here


# Distributions.


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_the_flow_is_met_to_the_tolerance(name: str) -> None:
    """η = 0 on Gaussian data against the closed form, whatever the SDE; tighter is better."""
    sde = REPRESENTATIVES[name]
    mean, variance = column(0.5, -1.0), 0.4
    score = ss.GaussianScore(mean, variance, sde)
    (alpha_T, alpha_0), (sigma_T, sigma_0) = sde.marginal(column(sde.T, sde.t_min))
    init = sigma_T * torch.randn(500, 2, dtype=F64, generator=torch.Generator().manual_seed(2))
    ratio = ((variance * alpha_0**2 + sigma_0**2) / (variance * alpha_T**2 + sigma_T**2)).sqrt()
    exact = alpha_0 * mean + ratio * (init - alpha_T * mean)
    errors = []
    for tol in (1e-2, 1e-4):
        sampler = AdaptiveSampler(sde, eta=0.0, rtol=tol, atol=tol, denoise=False, max_steps=3000)
        errors.append((sampler.sample(score, init=init, dtype=F64) - exact).abs().max().item())
        assert errors[-1] < 20 * tol, (tol, errors)
    assert errors[1] < errors[0] / 5


@pytest.mark.parametrize(
    ("name", "eta"),
    [("vp", 0.5), ("vp", 1.0), ("ve", 1.0), ("edm", 0.7), ("flow", 1.0), ("discrete-vp", 0.3)],
)
def test_the_distribution_on_gaussian_data(name: str, eta: float) -> None:
    """From the right distribution at T the standardised end is chi-squared; false-positive rate
    1e-6."""
    sde, n = REPRESENTATIVES[name], 1000
    score = ss.GaussianScore([0.6, 0.6], 0.25, sde)
    (alpha_T, alpha_0), (sigma_T, sigma_0) = sde.marginal(column(sde.T, sde.t_min))
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(4))
    init = 0.6 * alpha_T + (0.25 * alpha_T**2 + sigma_T**2).sqrt() * noise
    sampler = AdaptiveSampler(sde, eta=eta, rtol=0.05, atol=0.02, denoise=False)
    end = sampler.sample(score, init=init, seed=5)
    z = (end - 0.6 * alpha_0) / (0.25 * alpha_0**2 + sigma_0**2).sqrt()
    total = z.double().square().sum().item()
    assert ALPHA / 2 < stats.chi2.sf(total, 2 * n) < 1 - ALPHA / 2
    assert abs(z.mean().item()) < stats.norm.isf(ALPHA / 2) / math.sqrt(2 * n)


WEIGHTS, MEANS, VARIANCES = [0.5, 0.5], [[0.0], [0.0]], [1.0, 0.001]


def distance_of_distribution(tol: float, n: int, eta: float = 1.0) -> tuple[float, AdaptiveResult]:
    """√n times Kolmogorov's distance to a wide and a narrow mode in one place, at t_min."""
    score = ss.MixtureScore(WEIGHTS, MEANS, VARIANCES, VP)
    alpha, sigma = (v.item() for v in VP.marginal(VP.t_min))
    stds = [math.sqrt(alpha**2 * v + sigma**2) for v in VARIANCES]

    def cdf(x):
        return sum(w * stats.norm.cdf(x, 0.0, std) for w, std in zip(WEIGHTS, stds, strict=True))

    # Standard normal to 1e-5 at T: the prior is right.
    sampler = AdaptiveSampler(VP, eta=eta, rtol=0.0, atol=tol, denoise=False)
    result = sampler.solve(score, (n, 1), seed=4)
    return math.sqrt(n) * stats.kstest(result.x[:, 0].numpy(), cdf).statistic, result


BOUND = stats.kstwobign.isf(ALPHA)  # 2.7


def test_rejected_steps_leave_no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step is refused for its noise, noise drawn anew prefers what is not refused.

    False-positive rate 1e-6. The tolerance is tight enough for the path that remembers; on one
    that forgets at each trial what it had drawn beyond the step's start, 3 in 20 trials are
    refused and the wide mode loses half of its samples.
    """
    right, result = distance_of_distribution(0.03, 6000)
    assert (result.rejected.sum() / (result.accepted + result.rejected).sum()).item() > 0.1
    assert right < BOUND
    honest, calls = NoisePath.normal, [0]

    def forgetful(self: NoisePath, t: Tensor, s: Tensor) -> Tensor:
        if calls[0] % len(NOISY.nodes) == 0:  # the first of a trial
            self.lam[self.lam > t[:, None]] = torch.nan
        calls[0] += 1
        return honest(self, t, s)

    monkeypatch.setattr(NoisePath, "normal", forgetful)
    wrong, other = distance_of_distribution(0.03, 6000)
    assert wrong > 1.3 * BOUND
    # 0.505 is right, of standard error 0.012.
    assert result.x.var().item() > 0.4 > 0.35 > other.x.var().item()


def test_the_end_is_that_of_a_fixed_flow() -> None:
    """η = 0 starts where the other samplers start and ends where the flow ends, denoised."""
    score = ss.MixtureScore([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], [0.1, 0.2], VP)
    ours = AdaptiveSampler(VP, eta=0.0, rtol=1e-5, atol=1e-5, data_std=0.7)
    theirs = ss.ProbabilityFlow(VP, rtol=1e-6, atol=1e-6, data_std=0.7)
    torch.testing.assert_close(
        ours.sample(score, (6, 2), seed=11, dtype=F64),
        theirs.sample(score, (6, 2), seed=11, dtype=F64),
        rtol=1e-4,
        atol=1e-4,
    )
    assert not torch.equal(ours.sample(score, (2, 2), seed=11), ours.sample(score, (2, 2), seed=12))


@pytest.mark.parametrize(
    ("eta", "denoise", "max_batch"), [(0.0, True, 40), (0.0, False, None), (1.0, True, 30)]
)
def test_the_counts_are_the_calls(eta: float, denoise: bool, max_batch: int | None) -> None:
    """Sample by sample; a step taken costs the stages, one refused all but the first.

    One sample in five has a step refused; of 100, none has one with a probability below 1e-9.
    """
    score, n = Watched(BIMODAL), 100
    sampler = AdaptiveSampler(VP, eta=eta, rtol=0.02, atol=0.01, denoise=denoise)
    result = sampler.solve(score, (n, 2), seed=1, label=torch.arange(n), max_batch=max_batch)
    seen = torch.cat([label for _, label in score.calls]).bincount(minlength=n)
    part = max_batch or n  # whose first two samples show whether the score sees the batch
    door = torch.tensor([1, 2] + [0] * (part - 2)).repeat(-(-n // part))[:n]
    assert torch.equal(seen, result.evaluations + door)
    stages = 2 if eta else 3
    expected = stages * result.accepted + (stages - 1) * result.rejected + denoise
    assert torch.equal(result.evaluations, expected)
    assert result.rejected.sum() > 0 and len(set(result.accepted.tolist())) > 1
    assert max(len(label) for _, label in score.calls) <= (max_batch or n)
    # Each sample has a time of its own, starts at T, never goes back up by more than a step's
    # nodes, and is denoised at t_min.
    assert any(len(set(t.tolist())) > 1 for t, _ in score.calls)
    times = torch.cat([t for t, _ in score.calls])
    assert times.max() == VP.T and (times.min() == torch.tensor(VP.t_min)).item() == denoise


def test_a_first_evaluation_is_used_again_after_a_rejection() -> None:
    """The first trial is refused, so that the next is shorter, but T is evaluated once."""
    sde = REPRESENTATIVES["ve-small"]
    score = Watched(ss.MixtureScore([0.5, 0.5], [[-1.0], [1.0]], [0.01, 0.01], sde))
    sampler = AdaptiveSampler(sde, rtol=0.0, atol=0.01)
    sampler.solve(score, (1, 1), seed=1, label=torch.zeros(1, dtype=torch.int64))
    first, second, third = (t.item() for t, _ in score.calls[:3])
    assert first == sde.T > third > second


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_a_sample_depends_neither_on_companions_nor_on_chunks(eta: float) -> None:
    sampler = AdaptiveSampler(VP, eta=eta, rtol=0.05, atol=0.02)
    whole = sampler.solve(BIMODAL, (4, 2), seed=3)
    for size in (1, 3):
        parts = sampler.solve(BIMODAL, (4, 2), seed=3, max_batch=size)
        for a, b in zip(vars(whole).values(), vars(parts).values(), strict=True):
            assert torch.equal(a, b)
    first = sampler.solve(BIMODAL, (3, 2), seed=3)
    assert torch.equal(first.x, whole.x[:3])
    assert torch.equal(first.accepted, whole.accepted[:3])


def test_rounding_rarely_changes_a_step() -> None:
    """A score that is off by 1e-6, as float32 rounds: most samples take the steps they took.

    Step sizes that followed the estimate of the error exactly would move three samples in four.
    """

    def rounded(x: Tensor, t: Tensor) -> Tensor:
        return BIMODAL(x, t) * (1 + 1e-6 * (1e3 * x).sin())

    one, other = (AdaptiveSampler(VP).sample(s, (2000, 2), seed=3) for s in (BIMODAL, rounded))
    moved = (one - other).abs().amax(1) > 1e-4
    assert moved.double().mean() < 0.2


def test_harder_samples_take_more_steps() -> None:
    """Two modes far apart and narrow beside one wide mode, by label, in one batch."""
    easy = ss.GaussianScore(torch.zeros(2), 1.0, VP)

    def score(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return torch.where(label[:, None] == 1, BIMODAL(x, t), easy(x, t))

    label = torch.arange(40) % 2
    sampler = AdaptiveSampler(VP, eta=0.0, rtol=1e-3, atol=1e-3)
    result = sampler.solve(score, (40, 2), seed=0, label=label)
    by_label = result.accepted.double()
    assert by_label[label == 1].mean() > 1.2 * by_label[label == 0].mean()
    assert torch.equal(sampler.sample(easy, (40, 2), seed=0)[::2], result.x[::2])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_no_step_is_longer_than_asked_or_a_sliver(
    eta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing to estimate steps grow to the longest; the last two share the rest."""
    lengths: list[float] = []

    def spy(h: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        lengths.append(h.item())
        return next_step(h, *rest)

    monkeypatch.setattr(run_module, "next_step", spy)
    sampler = AdaptiveSampler(VP, eta=eta, atol=1e6, max_step_size=1.2, denoise=False)
    sampler.sample(lambda x, t: -x, (1, 1))
    first, last = VP.half_log_snr(column(VP.T, VP.t_min)).tolist()
    assert sum(lengths) == pytest.approx(last - first, rel=1e-12)
    assert lengths[0] == pytest.approx(0.1 * (last - first)) and max(lengths) == 1.2
    assert lengths[-1] == pytest.approx(lengths[-2], rel=1e-9) and min(lengths[:-2]) > 0.6
    short = AdaptiveSampler(VP, eta=eta, atol=1e6, max_step_size=0.5, denoise=False)
    lengths.clear()
    short.sample(lambda x, t: -x, (1, 1))
    assert lengths[0] == 0.5
