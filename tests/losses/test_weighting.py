"""Weightings in the papers' own variables, and the distributions of the training times.

Statistical tests have fixed seeds and a false-positive rate of 1e-6 each.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sdescore as ss
from sdescore.losses import (
    EDMWeighting,
    ImportanceTimes,
    LogNormalTimes,
    LogSNRTimes,
    MinSNR,
)
from sdescore.losses.denoising import TimeDistribution
from sdescore.losses.weighting import Weighting, likelihood, sigma2
from tests.helpers import ROOT
from tests.helpers.strategies import (
    REPRESENTATIVES,
    continuous_sdes,
    log_uniform,
    ordered_times,
    paper_marginal,
)

Z = scipy.stats.norm.isf(0.5e-6)  # two-sided, alpha = 1e-6
SDES = pytest.mark.parametrize("sde", REPRESENTATIVES.values(), ids=REPRESENTATIVES.keys())


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rate(sde: ss.LinearSDE, t: Tensor) -> Tensor:
    """g²/σ², the weight of the ε error under the likelihood."""
    return sde.rates(t)[1] / sde.marginal(t)[1].square()


def integral(f: Callable[[Tensor], Tensor], low: float, high: float, sde: ss.LinearSDE) -> float:
    """Gauss–Legendre of order 24 in pieces that shrink towards 0 and T, cut at the levels."""
    shrink = [sde.T * 2.0**-k for k in range(12)]
    cuts = {*shrink, *(sde.T - c for c in shrink)}
    if hasattr(sde, "level_times"):
        cuts |= set(sde.level_times().tolist())
    ends = [low, *sorted(c for c in cuts if low < c < high), high]
    return sum(
        scipy.integrate.fixed_quad(lambda t: f(torch.from_numpy(t)).numpy(), a, b, n=24)[0]
        for a, b in itertools.pairwise(ends)
    )


# Weightings, in the variables of their papers.


class Returns(nn.Module):
    """A network whose output is known."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.register_buffer("output", output)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.output


BATCH = 7
TIMES = torch.linspace(0.02, 1.0, BATCH, dtype=torch.float64)
X0, NOISE, OUTPUT = draw(BATCH, 2, 3), draw(BATCH, 2, 3, seed=1), draw(BATCH, 2, 3, seed=2)


def twice_loss(sde: ss.LinearSDE, prediction: str, weighting: object, t: Tensor = TIMES) -> Tensor:
    model = ss.ScoreModel(Returns(OUTPUT), sde, prediction)
    loss = ss.denoising_loss(model, X0, weighting=weighting, t=t, noise=NOISE)
    return 2 * loss.per_sample


def squared(error: Tensor) -> Tensor:
    return error.square().flatten(1).sum(1)


@pytest.mark.parametrize("gamma", [0.5, 5.0, 20.0])
def test_min_snr_in_the_variables_of_hang(gamma: float) -> None:
    """On x₀ min(SNR, γ), on ε min(SNR, γ)/SNR, on v min(SNR, γ)/(SNR + 1)."""
    alpha_bar = torch.exp(-0.1 * TIMES - 0.5 * 19.9 * TIMES**2)
    a, s = (v.sqrt()[:, None, None] for v in (alpha_bar, 1 - alpha_bar))
    snr = alpha_bar / (1 - alpha_bar)
    clipped = torch.minimum(snr, torch.tensor(gamma))
    assert (snr > gamma).any() and (snr < gamma).any()
    by_kind = {
        "x0": clipped * squared(OUTPUT - X0),
        "epsilon": clipped / snr * squared(OUTPUT - NOISE),
        "v": clipped / (snr + 1) * squared(OUTPUT - (a * NOISE - s * X0)),
    }
    for kind, expected in by_kind.items():
        loss = twice_loss(ss.VPSDE(), kind, MinSNR(gamma=gamma))
        torch.testing.assert_close(loss, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_edm_in_the_variables_of_karras(sigma_data: float) -> None:
    """λ(σ)‖D(y + n; σ) − y‖², table 1, as eq. 8 has it: ‖F − (y − c_skip(y + n))/c_out‖²."""
    sde, sigma = ss.EDMSDE(), 80.0 * TIMES**4
    s = sigma[:, None, None]
    total = s**2 + sigma_data**2
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    loss = twice_loss(sde, "x0", EDMWeighting(sigma_data), t=sigma)
    torch.testing.assert_close(loss, weight * squared(OUTPUT - X0), rtol=1e-11, atol=0)

    skip, out = sigma_data**2 / total, s * sigma_data / total.sqrt()
    target = (X0 - skip * (X0 + s * NOISE)) / out
    model = ss.ScoreModel(Returns(OUTPUT), sde, "F", sigma_data=sigma_data)
    loss = ss.denoising_loss(
        model, X0, weighting=EDMWeighting(sigma_data), t=sigma, noise=NOISE
    ).per_sample
    torch.testing.assert_close(2 * loss, squared(OUTPUT - target), rtol=1e-8, atol=0)


@settings(max_examples=50)
@given(data=st.data(), sde=continuous_sdes(), parameter=log_uniform(0.05, 50.0))
def test_all_are_functions_of_the_snr(
    data: st.DataObject, sde: ss.LinearSDE, parameter: float
) -> None:
    """As weights of the x₀ error, against the papers' marginals at 50 digits."""
    (t,) = data.draw(ordered_times(sde, 1))
    with mpmath.workdps(50):
        alpha, sigma = paper_marginal(sde)(mpmath.mpf(t))
        snr, level, c = (alpha / sigma) ** 2, sigma / alpha, mpmath.mpf(parameter)
        to_score_error = sigma**2 / snr
        expected = {
            sigma2: snr,
            MinSNR(parameter): min(snr, c),
            EDMWeighting(parameter): (level**2 + c**2) / (level * c) ** 2,
        }
        for weighting, weight in expected.items():
            got = weighting(sde, torch.tensor([t], dtype=torch.float64)).item()
            assert got == pytest.approx(float(weight * to_score_error), rel=1e-9)


def test_parameters_are_named_for_the_checkpoint() -> None:
    assert repr(MinSNR(5)) == repr(MinSNR()) == "MinSNR(gamma=5.0)"
    assert repr(EDMWeighting(np.float64(0.5))) == repr(EDMWeighting())
    assert repr(LogNormalTimes(-1, 2)) == "LogNormalTimes(stratified=False, mean=-1.0, std=2.0)"
    assert (LogNormalTimes().mean, LogNormalTimes().std) == (-1.2, 1.2)  # EDM, table 1
    assert MinSNR(1.0) != MinSNR(2.0) and hash(MinSNR(1.0)) == hash(MinSNR(1.0))


# Distributions.


def quantiles(sde: ss.LinearSDE, t: Tensor) -> list[float]:
    """∫ g²/σ² from t_min up to each of the rising ``t``, over the whole."""
    ends = [sde.t_min, *t.tolist(), sde.T]
    parts = [integral(lambda u: rate(sde, u), a, b, sde) for a, b in itertools.pairwise(ends)]
    rising = np.cumsum(parts)
    return list(rising[:-1] / rising[-1])


@SDES
def test_the_density_is_g2_over_sigma2(sde: ss.LinearSDE) -> None:
    """Stratified times cut the integral of g²/σ² into equal parts: exact, no statistics."""
    n = 12
    t = ImportanceTimes(stratified=True).sample(sde, n, generator())
    assert torch.equal(t, LogSNRTimes(stratified=True).sample(sde, n, generator()))
    assert t.dtype == torch.float64 and t.shape == (n,)
    parts = quantiles(sde, t.sort().values)
    assert 0 <= parts[0] < 1 / n
    np.testing.assert_allclose(np.diff(parts), 1 / n, rtol=1e-9)


@SDES
@pytest.mark.parametrize("law", [LogSNRTimes(), ImportanceTimes()])
def test_log_snr_distributions(law: TimeDistribution, sde: ss.LinearSDE) -> None:
    """Kolmogorov–Smirnov against the integral of g²/σ² on a fine grid, alpha = 1e-6."""
    nodes = torch.linspace(sde.t_min, sde.T, 20_001, dtype=torch.float64)
    if sde.t_min > 0:
        geometric = torch.logspace(
            math.log10(sde.t_min), math.log10(sde.T), 2001, dtype=torch.float64
        ).clamp(sde.t_min, sde.T)
        nodes = torch.cat([nodes, geometric]).unique()
    density = (sde.rates(nodes)[1] / sde.marginal(nodes)[1].square()).numpy()
    cdf = scipy.integrate.cumulative_trapezoid(density, nodes.numpy(), initial=0)
    t = law.sample(sde, 5000, generator(1)).numpy()
    assert sde.t_min <= t.min() and t.max() <= sde.T
    result = scipy.stats.kstest(t, lambda u: np.interp(u, nodes.numpy(), cdf / cdf[-1]))
    assert result.pvalue > 1e-6


def truncated_normal(sde: ss.LinearSDE, law: LogNormalTimes):
    ends = torch.tensor([sde.t_min, sde.T], dtype=torch.float64)
    alpha, sigma = sde.marginal(ends)
    low, high = (((sigma / alpha).log() - law.mean) / law.std).tolist()
    return scipy.stats.truncnorm(low, high, loc=law.mean, scale=law.std)


def log_level(sde: ss.LinearSDE, t: Tensor) -> np.ndarray:
    alpha, sigma = sde.marginal(t)
    return (sigma / alpha).log().numpy()


@SDES
@pytest.mark.parametrize("mean", [-1.2, 0.8])
def test_log_normal_distribution(sde: ss.LinearSDE, mean: float) -> None:
    """Stratified: exact quantiles. Independent: Kolmogorov–Smirnov, alpha = 1e-6."""
    law, n = LogNormalTimes(mean, 1.2, stratified=True), 500
    t = law.sample(sde, n, generator()).sort().values
    parts = truncated_normal(sde, law).cdf(log_level(sde, t))
    assert -1e-9 < parts[0] < 1 / n and sde.t_min <= t.min() and t.max() <= sde.T
    np.testing.assert_allclose(np.diff(parts), 1 / n, rtol=1e-6)
    law = LogNormalTimes(mean, 1.2)
    t = law.sample(sde, 5000, generator(1))
    assert scipy.stats.kstest(log_level(sde, t), truncated_normal(sde, law).cdf).pvalue > 1e-6


@pytest.mark.parametrize("mean", [-36.0, -12.0, 0.1, 12.0, 36.0])
def test_log_normal_far_from_the_range(mean: float) -> None:
    """log σ in [−1, 1]: the tail of the distribution is drawn as such, nothing piles up at an
    end."""
    sde = ss.EDMSDE(sigma_min=math.exp(-1), sigma_max=math.exp(1))
    law, n = LogNormalTimes(mean, 1.0, stratified=True), 1000
    t = law.sample(sde, n, generator()).sort().values
    parts = truncated_normal(sde, law).cdf(log_level(sde, t))
    assert len(t.unique()) == n
    np.testing.assert_allclose(np.diff(parts), 1 / n, rtol=1e-5)


@pytest.mark.parametrize("mean", [-45.0, 45.0])
def test_log_normal_out_of_reach_is_refused(mean: float) -> None:
    sde = ss.EDMSDE(sigma_min=math.exp(-1), sigma_max=math.exp(1))
    with pytest.raises(ss.errors.ParameterError, match="within reach of the distribution"):
        LogNormalTimes(mean, 1.0).sample(sde, 3)


LAWS = (LogSNRTimes, LogNormalTimes, ImportanceTimes)


@SDES
@pytest.mark.parametrize("law", LAWS)
def test_the_ends_are_kept(law: type, sde: ss.LinearSDE) -> None:
    """The first and the last number of [0, 1), which no seed is likely to draw."""
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    first, last = law().quantile(sde, ends).tolist()
    assert sde.t_min <= first <= sde.t_min + 1e-6 * sde.T
    assert first < last <= sde.T


def test_log_normal_reaches_where_the_normal_underflows() -> None:
    sde = ss.VESDE(sigma_min=math.exp(-34), sigma_max=math.exp(34))  # 68 standard deviations off
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    first, last = LogNormalTimes(0.0, 0.5).quantile(sde, ends).tolist()
    assert first == 0 and 0.55 < last <= 1  # Φ(8) is the last that differs from 1


@pytest.mark.parametrize("law", LAWS)
def test_stratified_times_keep_their_distribution(law: type) -> None:
    """The 4th time of a batch of 5 against independent times, two-sample KS, alpha = 1e-6."""
    sde, g = ss.VPSDE(), generator()
    one = law(stratified=True)
    t = torch.stack([one.sample(sde, 5, g)[3] for _ in range(4000)])
    independent = law().sample(sde, 100_000, g)
    assert scipy.stats.ks_2samp(t.numpy(), independent.numpy()).pvalue > 1e-6


@pytest.mark.parametrize("law", LAWS)
def test_stratified_times_reduce_the_variance(law: type) -> None:
    sde, g = ss.VPSDE(), generator()
    spread = [
        torch.stack([law(stratified=s).sample(sde, 32, g).mean() for _ in range(100)]).std()
        for s in (False, True)
    ]
    assert spread[1] < 0.3 * spread[0]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("stratified", [False, True])
def test_a_generator_decides_the_times(law: type, stratified: bool) -> None:
    sde, times = ss.VPSDE(), law(stratified=stratified)
    assert torch.equal(times.sample(sde, 6, generator(1)), times.sample(sde, 6, generator(1)))
    assert not torch.equal(times.sample(sde, 6, generator(1)), times.sample(sde, 6, generator(2)))
    assert times.sample(sde, 0).shape == (0,)


def test_on_a_geometric_ladder_uniform_is_uniform_in_log_snr() -> None:
    """VE's log σ is linear in t, so all three distributions are one and the weight is 1."""
    sde = ss.VESDE()
    t = ss.losses.UniformTimes().sample(sde, 100, generator())
    for law in (LogSNRTimes(), ImportanceTimes()):
        torch.testing.assert_close(law.sample(sde, 100, generator()), t, rtol=1e-9, atol=1e-12)
    weight = ImportanceTimes().importance_weight(sde, t)
    torch.testing.assert_close(weight, torch.ones_like(t), rtol=1e-12, atol=0)


# Importance weights.


@SDES
def test_the_weight_is_uniform_density_over_own(sde: ss.LinearSDE) -> None:
    whole = integral(lambda u: rate(sde, u), sde.t_min, sde.T, sde)
    t = torch.tensor([0.03, 0.31, 0.77, 0.93], dtype=torch.float64)
    t = sde.t_min + (sde.T - sde.t_min) * t
    expected = 1 / (sde.T - sde.t_min) / (rate(sde, t) / whole)
    got = ImportanceTimes().importance_weight(sde, t)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)
    # So the likelihood's weight of the ε error is the same everywhere.
    constant = likelihood(sde, t) * got
    constant = constant / sde.marginal(t)[1].square()
    torch.testing.assert_close(constant, constant[:1].expand(4), rtol=1e-12, atol=0)


STD, BELIEVED = 1.3, 0.4  # of the data, and by a wrong score


def wrong_score(sde: ss.LinearSDE):
    def score(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = sde.marginal(t.double())
        return -x / (alpha**2 * BELIEVED**2 + sigma**2)

    return score


def uniform_mean(sde: ss.LinearSDE, weighting: Weighting) -> float:
    """E ½ λ |s + ε/σ|² over uniform t and x₀ ~ N(0, STD²) in one dimension, s = −x/V."""

    def expected(t: Tensor) -> Tensor:
        return weighting(sde, t) * wrong_error(sde, t)

    return integral(expected, sde.t_min, sde.T, sde) / (sde.T - sde.t_min)


def wrong_error(sde: ss.LinearSDE, t: Tensor) -> Tensor:
    alpha, sigma = sde.marginal(t)
    V = alpha**2 * BELIEVED**2 + sigma**2
    return 0.5 * ((alpha * STD / V) ** 2 + (1 / sigma - sigma / V) ** 2)


@SDES
@pytest.mark.parametrize("stratified", [False, True])
def test_the_likelihood_is_unbiased_under_importance(sde: ss.LinearSDE, stratified: bool) -> None:
    """Monte Carlo against quadrature over uniform t, alpha = 1e-6.

    Stratified times vary less, so the bound from independent draws is safe for them.
    """
    n, expected = 40_000, uniform_mean(sde, lambda sde, t: sde.rates(t)[1])
    loss = ss.denoising_loss(
        wrong_score(sde), STD * draw(n), sde=sde, weighting="likelihood",
        times=ImportanceTimes(stratified=stratified), generator=generator(5),
    )  # fmt: skip
    error = loss.per_sample.std().item() / math.sqrt(n)
    assert abs(loss.mean.item() - expected) < Z * error
    assert error < 0.02 * expected


@pytest.mark.parametrize("weighting", ["sigma2", MinSNR(), EDMWeighting()])
def test_any_weighting_is_unbiased_under_importance(weighting: object) -> None:
    sde, n = ss.SubVPSDE(), 100_000
    expected = uniform_mean(sde, sigma2 if weighting == "sigma2" else weighting)
    loss = ss.denoising_loss(
        wrong_score(sde), STD * draw(n), sde=sde, weighting=weighting,
        times=ImportanceTimes(), generator=generator(6),
    )  # fmt: skip
    error = loss.per_sample.std().item() / math.sqrt(n)
    assert abs(loss.mean.item() - expected) < Z * error
    assert error < 0.05 * loss.mean.item()


@pytest.mark.parametrize("law", [LogSNRTimes(), LogNormalTimes(-0.5, 0.8)])
def test_other_distributions_are_the_objective(law: TimeDistribution) -> None:
    """Their expectation is the mean over their own distribution, by quadrature in log σ/α; no
    weight."""
    sde, n = ss.VPSDE(), 40_000
    ends = torch.tensor([sde.t_min, sde.T], dtype=torch.float64)
    low, high = log_level(sde, ends).tolist()
    own = scipy.stats.uniform(low, high - low)
    if law != LogSNRTimes():
        own = truncated_normal(sde, law)

    def integrand(level: np.ndarray) -> np.ndarray:
        t = sde.time_at_log_snr(torch.from_numpy(-2 * level))
        return own.pdf(level) * (sde.rates(t)[1] * wrong_error(sde, t)).numpy()

    expected = scipy.integrate.fixed_quad(integrand, low, high, n=200)[0]
    loss = ss.denoising_loss(
        wrong_score(sde), STD * draw(n), sde=sde, weighting="likelihood", times=law,
        generator=generator(7),
    )  # fmt: skip
    error = loss.per_sample.std().item() / math.sqrt(n)
    assert abs(loss.mean.item() - expected) < Z * error
    assert law.importance_weight(sde, ends) is None


def test_importance_lowers_the_variance() -> None:
    """For an error of ε that is the same at every t the times add no variance at all."""
    sde, n = ss.VPSDE(), 4000

    def score(x: Tensor, t: Tensor) -> Tensor:  # ε̂ = 0
        return torch.zeros_like(x)

    noise = torch.ones(n, 1, dtype=torch.float64)
    spread = {
        law: ss.denoising_loss(
            score, torch.zeros_like(noise), sde=sde, weighting="likelihood", times=law,
            noise=noise, generator=generator(),
        ).per_sample.std()
        for law in (ss.losses.UniformTimes(), ImportanceTimes())
    }  # fmt: skip
    assert spread[ImportanceTimes()] < 1e-12 < spread[ss.losses.UniformTimes()]


@dataclass(frozen=True)
class Tripled(TimeDistribution):
    """A proposal of a user's own: every time is 0.4 and has the weight asked for."""

    weight: object = 3.0

    def quantile(self, sde: ss.LinearSDE, u: Tensor) -> Tensor:
        return torch.full_like(u, 0.4)

    def importance_weight(self, sde: ss.LinearSDE, t: Tensor) -> object:
        return torch.full_like(t, self.weight) if isinstance(self.weight, float) else self.weight


def test_the_weight_multiplies_lambda() -> None:
    x0, noise, sde = draw(5, 2), draw(5, 2, seed=1), ss.VPSDE()
    score = wrong_score(sde)
    arguments = {"sde": sde, "noise": noise, "weighting": "likelihood"}
    plain = ss.denoising_loss(lambda x, t: score(x, t[:, None]), x0, t=0.4, **arguments)
    weighed = ss.denoising_loss(lambda x, t: score(x, t[:, None]), x0, times=Tripled(), **arguments)
    torch.testing.assert_close(weighed.per_sample, 3 * plain.per_sample, rtol=1e-14, atol=0)
    t = torch.full((5,), 0.4, dtype=torch.float64)
    arguments["weight"] = Tripled().importance_weight(sde, t)
    by_hand = ss.denoising_loss(lambda x, t: score(x, t[:, None]), x0, t=t, **arguments)
    assert torch.equal(by_hand.per_sample, weighed.per_sample)


def test_training_keeps_the_weight() -> None:
    """The loop draws the times itself; the loss of its first step says what it weighed."""

    def first_loss(times: TimeDistribution) -> float:
        torch.manual_seed(0)
        model = ss.ScoreModel(ss.MLP(2, hidden=8), ss.VPSDE())
        result = ss.train(
            model, draw(20, 2).float(), steps=1, times=times, batch_size=16, progress=False
        )
        return result.losses[0]

    assert first_loss(Tripled(3.0)) == pytest.approx(3 * first_loss(Tripled(1.0)), rel=1e-6)


@pytest.mark.parametrize(
    ("first", "then", "agree"),
    [
        ({"weighting": MinSNR(5)}, {"weighting": MinSNR(5.0)}, True),
        ({"weighting": MinSNR(5)}, {"weighting": MinSNR(4)}, False),
        ({"weighting": EDMWeighting(0.5)}, {"weighting": EDMWeighting(0.6)}, False),
        ({"times": LogNormalTimes()}, {"times": LogNormalTimes(std=1.0)}, False),
        ({"times": ImportanceTimes()}, {"times": LogSNRTimes()}, False),
    ],
)
def test_a_resumed_run_keeps_its_parameters(
    tmp_path: Path, first: dict[str, object], then: dict[str, object], agree: bool
) -> None:
    def run(steps: int, options: dict[str, object], resume: bool) -> None:
        model = ss.ScoreModel(ss.MLP(2, hidden=8), ss.VPSDE())
        ss.train(
            model, draw(20, 2).float(), steps=steps, batch_size=4, progress=False,
            path=tmp_path / "run.safetensors", resume=resume, schedule="constant", **options,
        )  # fmt: skip

    run(1, first, resume=False)
    if agree:
        run(2, then, resume=True)
        return
    with pytest.raises(ss.errors.CheckpointError):
        run(2, then, resume=True)


# Refusals.

NO_FLOOR = ss.LinearSDE.from_marginal(lambda t: torch.exp(-t), lambda t: t.clone(), t_min=0.0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MinSNR(0.0), "gamma > 0"),
        (lambda: MinSNR(math.inf), "gamma > 0"),
        (lambda: MinSNR("5"), "gamma > 0"),
        (lambda: EDMWeighting(-0.5), "sigma_data > 0"),
        (lambda: EDMWeighting(math.nan), "sigma_data > 0"),
        (lambda: EDMWeighting(torch.tensor(0.5)), "sigma_data > 0"),
        (lambda: LogNormalTimes(std=0.0), "std > 0"),
        (lambda: LogNormalTimes(mean=math.inf), "finite number mean"),
        (lambda: LogNormalTimes(mean="-1"), "finite number mean"),
        (lambda: ImportanceTimes(stratified="likelihood"), "True or False"),
        (lambda: LogSNRTimes().sample(ss.VPSDE(), True), "integer n >= 0"),
        (lambda: ss.losses.UniformTimes().sample(ss.VPSDE(), -1), "integer n >= 0"),
        (lambda: LogNormalTimes().sample(ss.VPSDE(), 3.0), "integer n >= 0"),
    ],
)
def test_bad_parameters_are_refused(make, match: str) -> None:
    with pytest.raises(ss.errors.ParameterError, match=match):
        make()


@pytest.mark.parametrize("times", [LogSNRTimes(), LogNormalTimes(), ImportanceTimes()])
def test_an_sde_of_infinite_log_snr_is_refused(times: TimeDistribution) -> None:
    with pytest.raises(ss.errors.ScheduleError, match="finite log-SNR"):
        times.sample(NO_FLOOR, 3)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"weighting": MinSNR}, ss.errors.IncompatibleError, r"such as MinSNR\(\)"),
        ({"weighting": "min_snr"}, ss.errors.IncompatibleError, "'likelihood'"),
        ({"times": ImportanceTimes(), "t": 0.4}, ss.errors.IncompatibleError, "both"),
        (
            {"times": ImportanceTimes(), "weighting": "g2"},
            ss.errors.IncompatibleError,
            "'likelihood'",
        ),
        (
            {"times": Tripled(weight=2)},
            ss.errors.ShapeError,
            "one importance weight per time.*got int",
        ),
        (
            {"times": Tripled(weight=torch.ones(1))},
            ss.errors.ShapeError,
            "one importance weight per time",
        ),
        (
            {"times": Tripled(weight=torch.ones(3, 1))},
            ss.errors.ShapeError,
            "one importance weight per time",
        ),
        ({"times": Tripled(weight=-1.0)}, ss.errors.ParameterError, "importance weight"),
        ({"times": Tripled(weight=math.inf)}, ss.errors.ParameterError, "importance weight"),
    ],
)
def test_bad_input_is_refused_before_the_network(
    options: dict[str, object], error: type[Exception], match: str
) -> None:
    calls: list[Tensor] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return x

    with pytest.raises(error, match=match):
        ss.denoising_loss(score, torch.zeros(3, 2), sde=ss.VPSDE(), **options)
    assert not calls


# The page.


def test_the_page_says_what_was_saved(script: Callable[[str], ModuleType]) -> None:
    benchmark = script("weightings")
    report = json.loads((ROOT / "benchmarks" / "results" / "weightings-cpu.json").read_text())
    page = (ROOT / "docs" / "howto" / "weightings.md").read_text(encoding="utf-8")
    assert benchmark.same_objective_table(report) in page
    assert benchmark.noise_table(report) in page
    assert benchmark.machine_sentence(report) in page
    assert f"{report['batches']} minibatches of {report['batch']}" in page
    # What the page concludes: a tenth of the variance on VP, nothing to gain on VE.
    ratios = {
        row["column"]: row["trace_over_uniform"]
        for row in report["rows"]
        if (row["weighting"], row["times"]) == ("likelihood", "importance")
    }
    assert all(r < 0.12 for column, r in ratios.items() if column.startswith("VP"))
    assert all(r == 1.0 for column, r in ratios.items() if column.startswith("VE"))
