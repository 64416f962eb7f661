"""DDPM's variational bound: term by term, and as a bound."""

from __future__ import annotations

import math
from statistics import NormalDist

import mpmath
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import sdescore as ss
from sdescore.errors import DivergenceError, IncompatibleError, ParameterError, ShapeError
from sdescore.noise.counter import Domain
from sdescore.noise.sources import ReplayNoise
from sdescore.samplers.variational_bound import variational_bound
from sdescore.score.mixture import GaussianScore

DOUBLE = torch.float64
VARIANCES = ("fixed_small", "fixed_large", "learned_range")
N = 8
TABLE = ss.DiscreteVPSDE.linear(N, 1e-3, 0.6)


class Net(nn.Module):
    """ε and v, smooth functions of state, level and label."""

    def __init__(self, dtype: torch.dtype = DOUBLE) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 0.5, dtype=dtype), requires_grad=False)

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        c = c.to(x)[:, None] / N + (0 if label is None else label[:, None])
        return torch.cat([torch.sin(x + c) + self.weight * x, 0.9 * torch.cos(2 * x - c)], 1)


def model_of(sde: ss.LinearSDE, dtype: torch.dtype = DOUBLE, **options) -> ss.ScoreModel:
    net = ss.nets.LearnedVariance(Net(dtype))
    return ss.ScoreModel(net, sde, "epsilon", "continuous_level", **options)


def pixels(shape: tuple[int, ...], levels: int, seed: int = 0) -> Tensor:
    """Integers 0 … levels − 1 scaled to [−1, 1], both ends among them."""
    k = torch.randint(levels, shape, generator=torch.Generator().manual_seed(seed))
    k[0, 0], k[-1, -1] = 0, levels - 1
    return 2 * k.double() / (levels - 1) - 1


def nats_of_bin(x: float, mean: float, std: float, levels: int) -> float:
    """−log of the mass of N(mean, std²) in the bin of ``x``, by mpmath with 30 digits."""
    with mpmath.workdps(30):
        half = 1 / mpmath.mpf(levels - 1)
        lower = -mpmath.inf if x <= -1 + half else x - half
        upper = mpmath.inf if x >= 1 - half else x + half
        low, high = ((edge - mean) / (std * mpmath.sqrt(2)) for edge in (lower, upper))
        if low + high > 0:
            low, high = -high, -low
        return float(-mpmath.log((mpmath.erfc(-high) - mpmath.erfc(-low)) / 2))


@pytest.mark.parametrize("variance", VARIANCES)
def test_each_term_is_the_papers(variance: str) -> None:
    """Ho et al. 2020, eqs. 5–7, 11 and 13; Nichol & Dhariwal 2021, eq. 15. Closed forms by torch,
    the decoder by mpmath."""
    levels, shape = 16, (4, 3)
    model, x0 = model_of(TABLE), pixels(shape, levels)
    z = torch.randn(N, *shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    got = variational_bound(model, x0, levels=levels, variance=variance, noise=ReplayNoise(z))
    beta = torch.tensor(TABLE.betas, dtype=DOUBLE)
    bar = (1 - beta).cumprod(0)
    small = beta[1:] * (1 - bar[:-1]) / (1 - bar[1:])
    small = torch.cat([small[:1], small])  # as both released codes do at the lowest level
    for i in range(N):
        x = bar[i].sqrt() * x0 + (1 - bar[i]).sqrt() * z[i]
        epsilon, v = Net()(x, torch.full((4,), i)).chunk(2, 1)
        large = beta[i] if i or variance == "learned_range" else small[0]
        share = {"fixed_small": 0.0, "fixed_large": 1.0, "learned_range": (v + 1) / 2}[variance]
        std = (0.5 * (share * large.log() + (1 - share) * small[i].log())).exp() + 0 * x
        mean = (x - beta[i] / (1 - bar[i]).sqrt() * epsilon) / (1 - beta[i]).sqrt()
        if i:
            posterior = (
                bar[i - 1].sqrt() * beta[i] * x0 + (1 - beta[i]).sqrt() * (1 - bar[i - 1]) * x
            ) / (1 - bar[i])
            nats = kl_divergence(Normal(posterior, small[i].sqrt()), Normal(mean, std))
        else:
            rows = zip(*(v.flatten().tolist() for v in (x0, mean, std)), strict=True)
            logs = [nats_of_bin(*row, levels) for row in rows]
            nats = torch.tensor(logs, dtype=DOUBLE).view(shape)
        want = nats.sum(1) / (3 * math.log(2))
        torch.testing.assert_close(got.terms[:, i], want, rtol=1e-9, atol=1e-11)
    prior = kl_divergence(
        Normal(bar[-1].sqrt() * x0, (1 - bar[-1]).sqrt()), Normal(torch.zeros_like(x0), 1.0)
    )
    torch.testing.assert_close(got.prior, prior.sum(1) / (3 * math.log(2)), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(got.bits_per_dim, got.prior + got.terms.sum(1), rtol=1e-14, atol=0)


def test_a_decoder_far_from_its_datum_keeps_its_digits() -> None:
    """At 8 bits and a mean hundreds of deviations away, where both tails are 0 in float64."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor(-0.35, dtype=DOUBLE))

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return self.value.expand_as(x)

    sde = ss.DiscreteVPSDE(betas=(1e-6, 1e-3))
    model = ss.ScoreModel(Constant(), sde, "x0", "continuous_level")
    x0 = torch.tensor([[-1.0], [1.0], [-0.2]], dtype=DOUBLE)  # 0, 255 and 102
    std = math.sqrt(1e-3 * 1e-6 / (1e-6 + 1e-3 - 1e-9))
    want = [nats_of_bin(x, -0.35, std, 256) / math.log(2) for x in x0.flatten().tolist()]
    assert min(want) > 10_000
    got = variational_bound(model, x0, levels=256).terms[:, 0]
    torch.testing.assert_close(got, torch.tensor(want, dtype=DOUBLE), rtol=1e-9, atol=0)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_it_bounds_the_exact_likelihood_of_a_gaussian_chain(variance: str) -> None:
    """With a linear score the chain's distribution of an integer is known in closed form.

    The expected bound of each of 9 integers is above it, and less than 0.8 bits. Five standard
    errors of 4,000 noises: a correct bound fails with a probability below 3e-6.
    """
    levels, steps, mean, c = 65, 300, 0.2, 0.15
    sde = ss.DiscreteVPSDE.linear(steps, 2.5e-3, 0.03)
    bars = [math.prod(1 - b for b in sde.betas[: i + 1]) for i in range(steps)]
    model = GaussianScore([mean], c, sde)
    at, var = 0.0, 1.0  # of the state, from N(0, 1) down
    for i in range(steps - 1, 0, -1):
        b, a, wide = sde.betas[i], math.sqrt(1 - sde.betas[i]), bars[i] * c + 1 - bars[i]
        slope, shift = (1 - b / wide) / a, b * math.sqrt(bars[i]) * mean / wide / a
        small = b * (1 - bars[i - 1]) / (1 - bars[i])
        at, var = slope * at + shift, slope**2 * var + (b if variance == "fixed_large" else small)
    b, a, wide = sde.betas[0], math.sqrt(bars[0]), bars[0] * c + 1 - bars[0]
    slope, shift = (1 - b / wide) / a, b * a * mean / wide / a
    decoder = sde.betas[1] * (1 - bars[0]) / (1 - bars[1])
    output = NormalDist(slope * at + shift, math.sqrt(slope**2 * var + decoder))
    gaps = []
    for k in range(0, levels, 8):
        x = 2 * k / (levels - 1) - 1
        low = output.cdf(x - 1 / (levels - 1)) if k else 0.0
        high = output.cdf(x + 1 / (levels - 1)) if k < levels - 1 else 1.0
        x0 = torch.full((4000, 1), x)
        found = variational_bound(model, x0, levels=levels, variance=variance, seed=k).bits_per_dim
        gap = found.double() + math.log2(high - low)
        assert gap.mean() > -5 * gap.std() / math.sqrt(4000)
        gaps.append(gap.mean().item())
    assert max(gaps[1:-1]) < 0.8  # the bins of the ends reach to infinity


def test_a_fair_coin_costs_one_bit() -> None:
    """The ideal denoiser of two values: at least their entropy, and close to it at 1,000 levels.

    Five standard errors; a correct bound fails with a probability below 1e-6.
    """
    model = ss.EmpiricalScore(torch.tensor([[-1.0], [1.0]]), ss.DiscreteVPSDE.linear(1000))
    x0 = torch.tensor([[-1.0], [1.0]]).repeat(2000, 1)
    bits = variational_bound(model, x0, levels=2).bits_per_dim.double()
    error = 5 * bits.std() / math.sqrt(4000)
    assert 1 - error < bits.mean() < 1.02 + error


@pytest.mark.parametrize("variance", VARIANCES)
def test_a_sample_does_not_depend_on_its_batch(variance: str) -> None:
    model, x0 = model_of(TABLE), pixels((5, 3), 256).float()
    label = torch.tensor([0, 1, 2, 3, 4])
    options = {"levels": 256, "variance": variance, "seed": 3}
    whole = variational_bound(model, x0, label=label, **options)
    parts = variational_bound(model, x0, label=label, max_batch=2, **options)
    for name in ("bits_per_dim", "terms", "prior"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    first = variational_bound(model, x0[:2], label=label[:2], **options)
    assert torch.equal(first.terms, whole.terms[:2])
    assert not torch.equal(variational_bound(model, x0, **options).terms, whole.terms)
    other = variational_bound(model, x0, label=label, **{**options, "seed": 4})
    assert not torch.equal(other.terms, whole.terms)
    assert whole.terms.dtype == torch.float32 and whole.terms.shape == (5, N)


def test_the_noise_is_the_seeds_own_for_bounds() -> None:
    """Not the numbers that a sampler draws from the same seed."""
    model, x0 = model_of(TABLE), pixels((5, 3), 256)
    where = {"dtype": DOUBLE, "device": torch.device("cpu"), "domain": Domain.BOUND}
    stream = ss.noise.SeededNoise(3).open(range(5), (3,), [None] * N, **where)
    z = torch.stack([stream.draw(i).clone() for i in range(N)])
    replayed = variational_bound(model, x0, levels=256, noise=ReplayNoise(z))
    assert torch.equal(replayed.terms, variational_bound(model, x0, levels=256, seed=3).terms)


def test_float32_agrees_with_float64() -> None:
    model, x0 = model_of(TABLE), pixels((5, 3), 256)
    single, double = (variational_bound(model, x, levels=256) for x in (x0.float(), x0))
    torch.testing.assert_close(single.terms.double(), double.terms, rtol=2e-5, atol=2e-5)
    sixteen = pixels((5, 3), 65536)
    single, double = (variational_bound(model, x, levels=65536) for x in (sixteen.float(), sixteen))
    torch.testing.assert_close(single.terms.double(), double.terms, rtol=2e-5, atol=2e-5)


def test_standardised_data_have_the_bound_of_their_states() -> None:
    """The same states, described as data of mean 5 and standard deviation 2: the same number."""
    model, z0 = model_of(TABLE), pixels((4, 3), 16)
    scaled = model_of(TABLE, data_mean=5.0, data_std=2.0)
    plain = variational_bound(model, z0, levels=16)
    got = variational_bound(scaled, 2 * z0 + 5, levels=16, data_range=(3.0, 7.0))
    torch.testing.assert_close(got.terms, plain.terms, rtol=1e-9, atol=1e-12)
    each = model_of(TABLE, data_mean=[5.0, 5.0, 5.0], data_std=[2.0, 2.0, 2.0])
    got = variational_bound(each, 2 * z0 + 5, levels=16, data_range=(3.0, 7.0))
    torch.testing.assert_close(got.terms, plain.terms, rtol=1e-9, atol=1e-12)


def test_a_clipped_score_lowers_the_bound() -> None:
    """Its x̂₀ is nearer to data in [−1, 1], element by element; the prior does not change."""
    model, x0 = model_of(TABLE), pixels((20, 3), 256)
    for variance in ("fixed_small", "fixed_large"):
        plain, clipped = (
            variational_bound(m, x0, levels=256, variance=variance)
            for m in (model, ss.guidance.clipped(model))
        )
        assert (clipped.terms <= plain.terms + 1e-9).all()
        assert clipped.terms[:, -1].mean() < 0.7 * plain.terms[:, -1].mean()
        assert torch.equal(clipped.prior, plain.prior)


def test_refusals() -> None:
    model, x0 = model_of(TABLE), pixels((2, 3), 256)

    class Plain(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            pytest.fail("called before it refused")

    quiet = ss.ScoreModel(Plain(), TABLE, "epsilon", "continuous_level")
    single = GaussianScore([0.0] * 3, 1.0, ss.DiscreteVPSDE(betas=(0.5,)))
    for score in (
        GaussianScore([0.0] * 3, 1.0, ss.VPSDE()),
        GaussianScore([0.0] * 3, 1.0, ss.DiscreteVESDE(sigmas=(3.0, 1.0))),
        lambda x, t: x,
        single,
    ):
        with pytest.raises(IncompatibleError, match="DiscreteVPSDE with two levels or more; got"):
            variational_bound(score, x0, levels=256)
    for options, error, match in [
        ({"variance": "learned"}, IncompatibleError, "variance among fixed_small"),
        ({"variance": "learned_range"}, IncompatibleError, "a learned variance"),
        ({"levels": 1}, ParameterError, "levels >= 2"),
        ({"levels": 200}, ParameterError, r"200 integers scaled to \[-1, 1\].*own levels="),
        ({"data_range": (0.0, 1.0)}, ParameterError, r"scaled to \[0, 1\]"),
        ({"data_range": (1.0, -1.0)}, ParameterError, "low < high"),
        ({"data_range": (0.0, 0.5, 1.0)}, ParameterError, "low < high"),
        ({"data_range": 1.0}, ParameterError, "data_range"),
        ({"noise": ReplayNoise(torch.zeros(N - 1, 2, 3))}, ShapeError, "replayed noise"),
    ]:
        with pytest.raises(error, match=match):
            variational_bound(quiet, x0, **{"levels": 256, **options})
    with pytest.raises(ShapeError, match="x0 in floating point"):
        variational_bound(quiet, x0.long(), levels=256)
    with pytest.raises(TypeError, match="levels"):
        variational_bound(quiet, x0)  # type: ignore[call-arg]
    broken = ss.ScoreModel(
        lambda x, c: torch.where(c[:, None] == 3, math.nan, x), TABLE, "epsilon", "continuous_level"
    )
    with pytest.raises(DivergenceError, match="term at level 3 is not finite, in 2 of 2") as caught:
        variational_bound(broken, x0, levels=256)
    assert (caught.value.step, caught.value.samples) == (3, [0, 1])
    assert variational_bound(model, x0[:0], levels=256).terms.shape == (0, N)
