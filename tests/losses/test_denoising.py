"""The denoising loss: definition, minimum, numerics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sdescore as ss
from sdescore.losses import likelihood, sigma2
from tests.helpers.denoising import Affine
from tests.helpers.strategies import linear_sdes

Z = scipy.stats.norm.isf(0.5e-6)  # two-sided, alpha = 1e-6


def ones(sde: ss.LinearSDE, t: Tensor) -> Tensor:
    return torch.ones_like(t)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# The definition.


@pytest.mark.parametrize("prediction", ["score", "epsilon", "x0", "v", "velocity", "F"])
@pytest.mark.parametrize("weighting", ["sigma2", "likelihood", ones])
def test_is_half_lambda_times_squared_score_error(prediction: str, weighting: object) -> None:
    sde = ss.VPSDE()
    model = ss.ScoreModel(Affine(3, torch.float64), sde, prediction, sigma_data=0.7)
    x0, noise = draw(5, 3), draw(5, 3, seed=1)
    t = torch.tensor([0.02, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)
    loss = ss.denoising_loss(model, x0, weighting=weighting, t=t, noise=noise)

    B = 0.1 * t + 0.5 * 19.9 * t**2
    alpha, variance = (-B / 2).exp(), -torch.expm1(-B)
    x_t = alpha[:, None] * x0 + variance.sqrt()[:, None] * noise
    target = -(x_t - alpha[:, None] * x0) / variance[:, None]
    squared = (model(x_t, t) - target).square().sum(1)
    weight = {"sigma2": variance, "likelihood": 0.1 + 19.9 * t, ones: torch.ones_like(t)}[weighting]
    expected = 0.5 * weight * squared
    torch.testing.assert_close(loss.per_sample, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(loss.mean, expected.mean(), rtol=1e-10, atol=0)


def test_sums_over_every_event_dimension() -> None:
    x0 = draw(2, 3, 4, 5)
    score = lambda x, t: torch.zeros_like(x)  # noqa: E731
    noise = draw(2, 3, 4, 5, seed=1)
    loss = ss.denoising_loss(score, x0, sde=ss.VESDE(), noise=noise)
    expected = 0.5 * noise.square().flatten(1).sum(1)
    torch.testing.assert_close(loss.per_sample, expected, rtol=1e-12, atol=0)


def test_vincent_at_one_level() -> None:
    """½ E‖s(x + σz) + z/σ‖²."""
    sde, sigma = ss.VESDE(sigma_min=0.01, sigma_max=1.0), 0.1
    x0, z = draw(4, 2), draw(4, 2, seed=1)
    score = lambda x, t: -3.0 * x  # noqa: E731
    loss = ss.denoising_loss(score, x0, sde=sde, t=0.5, noise=z, weighting=ones)
    expected = 0.5 * (score(x0 + sigma * z, None) + z / sigma).square().sum(1)
    torch.testing.assert_close(loss.per_sample, expected, rtol=1e-12, atol=0)


def test_ncsn_ladder() -> None:
    """(1/L) Σ λ(σᵢ) ℓ(θ; σᵢ), λ = σ² (Song & Ermon 2019, eqs. 5–6), all levels in one batch."""
    sigmas = np.geomspace(10.0, 0.05, 7)
    sde = ss.DiscreteVESDE(sigmas=tuple(sigmas))
    net = Affine(2, torch.float64)
    model = ss.ScoreModel(net, sde, prediction="score", time_input="sigma")
    x0, z = draw(7, 2), draw(7, 2, seed=1)
    loss = ss.denoising_loss(model, x0, t=sde.level_times(), noise=z)
    total = 0.0
    for i, sigma in enumerate(sigmas):
        x = x0[i] + sigma * z[i]
        s = (net.layer(x) * math.cos(sigma)).detach()
        total += sigma**2 * 0.5 * (s + (x - x0[i]) / sigma**2).square().sum().item()
    assert loss.mean.item() == pytest.approx(total / 7, rel=1e-12)


def test_ddpm_simple_loss() -> None:
    """‖ε − ε_θ(√ᾱ x₀ + √(1−ᾱ) ε, i)‖² (Ho et al. 2020, eq. 14) is twice ours."""
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - betas)
    sde = ss.DiscreteVPSDE.linear()
    seen: list[Tensor] = []

    class Net(nn.Module):
        def forward(self, x: Tensor, i: Tensor) -> Tensor:
            seen.append(i)
            return x * (1 + i[:, None].double() / 1000).sin()

    model = ss.ScoreModel(Net(), sde, time_input="level", prediction="epsilon")
    index = torch.tensor([0, 1, 17, 500, 998, 999])
    x0, epsilon = draw(6, 3), draw(6, 3, seed=1)
    t = sde.level_times()[index]
    model.register_buffer("dtype_of_the_net", torch.zeros((), dtype=torch.float64))
    loss = ss.denoising_loss(model, x0, t=t, noise=epsilon)
    x_t = torch.from_numpy(np.sqrt(alpha_bar[index]))[:, None] * x0
    x_t = x_t + torch.from_numpy(np.sqrt(1 - alpha_bar[index]))[:, None] * epsilon
    out = x_t.float().double() * (1 + index[:, None].double() / 1000).sin()
    expected = (epsilon - out).square().sum(1)
    torch.testing.assert_close(2 * loss.per_sample, expected, rtol=1e-5, atol=0)
    assert seen[0].dtype == torch.int64 and torch.equal(seen[0], index)


# The minimum.


def gaussian_optimum(sde: ss.LinearSDE, t: float, variance: float) -> float:
    """½ σ² E‖s* − ∇log p(x_t|x_0)‖² per dimension = ½ α²c²/(α²c² + σ²)."""
    alpha, sigma = (v.item() for v in sde.marginal(t))
    return 0.5 * alpha**2 * variance / (alpha**2 * variance + sigma**2)


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize(
    "sde", [ss.VPSDE(), ss.VESDE(sigma_max=20.0), ss.SubVPSDE(), ss.DiscreteVPSDE.linear(50)]
)
def test_value_at_the_gaussian_optimum(sde: ss.LinearSDE, stratified: bool) -> None:
    """Monte Carlo against quadrature over t, alpha = 1e-6 (the normal limit of 100,000 draws).

    Stratified times correlate negatively here, so the bound from independent draws is safe.
    """
    d, mean, std = 3, 1.5, 0.8
    n = 100_000
    x0 = mean + std * draw(n, d)
    exact = ss.GaussianScore(torch.full((d,), mean), std**2 * torch.eye(d), sde)
    discrete = hasattr(sde, "level_times")
    times = (
        ss.losses.LevelTimes(stratified=stratified)
        if discrete
        else ss.losses.UniformTimes(stratified=stratified)
    )
    generator = torch.Generator().manual_seed(3)
    loss = ss.denoising_loss(exact, x0, times=times, generator=generator)
    if discrete:
        expected = np.mean([gaussian_optimum(sde, t, std**2) for t in sde.level_times().tolist()])
    else:
        value = scipy.integrate.quad(
            lambda t: gaussian_optimum(sde, t, std**2), sde.t_min, sde.T, epsabs=1e-10
        )[0]
        expected = value / (sde.T - sde.t_min)
    error = loss.per_sample.std().item() / math.sqrt(n)
    assert abs(loss.mean.item() - d * expected) < Z * error


@pytest.mark.parametrize("weighting", ["sigma2", "likelihood", ones])
@pytest.mark.parametrize("t", [0.05, 0.4, 1.0])
def test_gradient_vanishes_at_the_truth(weighting: object, t: float) -> None:
    """Gauss–Hermite quadrature of x₀ and ε is exact for this quadratic loss; no sampling."""
    sde, mean, std = ss.VPSDE(), 0.7, 1.3
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    weights = torch.from_numpy(weights / weights.sum())
    z0, z = torch.meshgrid(torch.from_numpy(nodes), torch.from_numpy(nodes), indexing="ij")
    joint = (weights[:, None] * weights[None, :]).flatten()
    alpha, sigma = (v.item() for v in sde.marginal(t))
    total = alpha**2 * std**2 + sigma**2

    def gradient(slope: float, shift: float) -> Tensor:
        theta = torch.tensor([slope, shift], dtype=torch.float64, requires_grad=True)
        loss = ss.denoising_loss(
            lambda x, t: theta[0] * x + theta[1],
            mean + std * z0.reshape(-1, 1),
            sde=sde, t=t, noise=z.reshape(-1, 1), weighting=weighting,
        )  # fmt: skip
        return torch.autograd.grad((joint * loss.per_sample).sum(), theta)[0]

    scale = gradient(0.0, 0.0).norm()
    assert gradient(-1 / total, alpha * mean / total).norm() < 1e-12 * scale
    assert gradient(-1.1 / total, alpha * mean / total).norm() > 1e-3 * scale
    assert gradient(-1 / total, alpha * mean / total + 0.1).norm() > 1e-3 * scale


# Weightings, times, samples.


def test_weightings_are_exact_ratios() -> None:
    sde = ss.SubVPSDE()
    model = ss.ScoreModel(Affine(2, torch.float64), sde, prediction="epsilon")
    t = torch.linspace(0.01, 1.0, 9, dtype=torch.float64)
    x0, noise = draw(9, 2), draw(9, 2, seed=1)
    base = ss.denoising_loss(model, x0, t=t, noise=noise).per_sample
    by_likelihood = ss.denoising_loss(
        model, x0, t=t, noise=noise, weighting="likelihood"
    ).per_sample
    tripled = ss.denoising_loss(
        model, x0, t=t, noise=noise, weighting=lambda sde, t: 3 * sigma2(sde, t)
    ).per_sample
    ratio = likelihood(sde, t) / sigma2(sde, t)
    torch.testing.assert_close(by_likelihood, ratio * base, rtol=1e-13, atol=0)
    torch.testing.assert_close(tripled, 3 * base, rtol=1e-14, atol=0)
    # Closed forms: σ = 1 − e^{−B}, g² = β(1 − e^{−2B}).
    B = 0.1 * t + 0.5 * 19.9 * t**2
    expected = (0.1 + 19.9 * t) * -torch.expm1(-2 * B) / torch.expm1(-B).square()
    torch.testing.assert_close(ratio, expected, rtol=1e-12, atol=0)


@given(linear_sdes(), st.integers(0, 10**6))
def test_the_exact_score_of_one_datum_has_no_loss(sde: ss.LinearSDE, seed: int) -> None:
    """Data that never vary: the score is −ε/σ itself, at any time of any SDE."""
    x0 = torch.full((4, 2), 0.6, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return sde.kernel(t)(x0).score(x)

    loss = ss.denoising_loss(score, x0, sde=sde, generator=generator)
    assert loss.per_sample.max() < 1e-9


def test_samples_are_independent() -> None:
    model = ss.ScoreModel(Affine(3, torch.float64), ss.VPSDE(), "v")
    x0, noise, t = draw(6, 3), draw(6, 3, seed=1), torch.linspace(0.1, 1, 6, dtype=torch.float64)
    together = ss.denoising_loss(model, x0, t=t, noise=noise).per_sample
    for i in range(6):
        alone = ss.denoising_loss(
            model, x0[i : i + 1], t=t[i : i + 1], noise=noise[i : i + 1]
        ).per_sample
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-12, atol=0)


def test_a_generator_decides_everything() -> None:
    model = ss.ScoreModel(Affine(3), ss.VPSDE(), prediction="epsilon")
    x0 = draw(8, 3).float()

    def loss(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return ss.denoising_loss(model, x0, generator=generator).per_sample

    assert torch.equal(loss(1), loss(1))
    assert not torch.equal(loss(1), loss(2))


def test_labels_reach_network_and_score() -> None:
    x0, noise, label = draw(3, 2), draw(3, 2, seed=1), torch.tensor([0, 1, 2])
    sde = ss.VESDE()
    net = Affine(2, torch.float64)
    model = ss.ScoreModel(net, sde, prediction="epsilon")
    given_label = ss.denoising_loss(model, x0, t=0.5, noise=noise, label=label)
    x_t = x0 + 0.01 * math.sqrt(5000) * noise
    output = net(x_t, torch.full((3,), 0.5, dtype=torch.float64), label)
    expected = 0.5 * (output - noise).square().sum(1)
    torch.testing.assert_close(given_label.per_sample, expected, rtol=1e-10, atol=0)
    as_score = ss.denoising_loss(
        lambda x, t, y: y[:, None] + 0 * x, x0, sde=sde, t=0.5, noise=noise, label=label
    )
    error = 0.01 * math.sqrt(5000) * label.double()[:, None] + noise
    torch.testing.assert_close(as_score.per_sample, 0.5 * error.square().sum(1), rtol=1e-10, atol=0)


# Numerics.


@pytest.mark.parametrize("sigma", [1e-7, 1e-5, 1e-2])
def test_a_perfect_denoiser_has_no_loss_at_any_sigma(sigma: float) -> None:
    """In float32 ``(x_t − x̂₀)/σ`` is off by 1 at σ = 1e-7; the residual must not come from x_t."""
    x0, noise = draw(4, 8).float(), draw(4, 8, seed=1).float()
    model = ss.ScoreModel(lambda x, c: x0, ss.EDMSDE(), "x0")
    assert ss.denoising_loss(model, x0, t=sigma, noise=noise).mean == 0.0


@pytest.mark.parametrize("prediction", ["score", "epsilon", "x0", "v", "velocity", "F"])
def test_small_sigma_in_float32(prediction: str) -> None:
    """The network returns its target with a known error, so the loss is known to rounding."""
    sde = ss.EDMSDE(sigma_min=1e-5)
    x0, noise, miss = (draw(4, 8, seed=s).float() for s in range(3))
    t = torch.tensor([1e-5, 1e-4, 1e-2, 1.0], dtype=torch.float64)
    probe = ss.ScoreModel(Affine(8), sde, prediction)
    numbers = probe.convention.at(t)
    (p, q), (_, w) = numbers.pair, numbers.to("epsilon")
    target = p[:, None] * x0.double() + q[:, None] * noise.double()
    output = (target + miss.double() / w[:, None]).float()  # ε̂ is off by `miss`
    model = ss.ScoreModel(lambda x, c: output, sde, prediction)
    loss = ss.denoising_loss(model, x0, t=t, noise=noise, weighting="sigma2").per_sample
    # A float32 output itself is known to eps |y|, that is eps |w y| in ε.
    rounding = (w[:, None] * target).abs().max(1).values * torch.finfo(torch.float32).eps
    expected = 0.5 * miss.double().square().sum(1)
    slack = 3 * rounding * miss.double().abs().sum(1) + 1e-5 * expected + 8 * rounding**2
    assert ((loss.double() - expected).abs() <= slack).all()


def test_v_and_epsilon_need_no_slack_at_small_sigma() -> None:
    """With p x₀ + q ε of order 1 and w of order 1, 1e-5 of the loss is kept at σ = 1e-5."""
    sde = ss.RectifiedFlowSDE()
    x0, noise, miss = (draw(4, 8, seed=s).float() for s in range(3))
    model = ss.ScoreModel(lambda x, c: noise - x0 + miss, sde, "velocity")
    loss = ss.denoising_loss(model, x0, t=1e-5, noise=noise).per_sample
    torch.testing.assert_close(loss, 0.5 * miss.square().sum(1), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_at_least_float32(dtype: torch.dtype) -> None:
    model = ss.ScoreModel(Affine(3).to(torch.float32), ss.VPSDE(), prediction="epsilon")
    x0, noise = draw(4, 3).to(dtype), draw(4, 3, seed=1).to(dtype)
    loss = ss.denoising_loss(model, x0, t=0.3, noise=noise)
    wanted = torch.promote_types(dtype, torch.float32)
    assert loss.per_sample.dtype == loss.mean.dtype == wanted
    reference = ss.denoising_loss(model, x0.double(), t=0.3, noise=noise.double())
    torch.testing.assert_close(loss.mean.double(), reference.mean, rtol=1e-6, atol=0)


def test_a_half_precision_network_is_judged_in_float32() -> None:
    """4096² overflows float16; the loss does not."""
    net = lambda x, c: torch.full_like(x, 4096.0)  # noqa: E731
    model = ss.ScoreModel(net, ss.VPSDE(), prediction="epsilon")
    model.register_buffer("half_precision", torch.zeros((), dtype=torch.float16))
    loss = ss.denoising_loss(model, torch.zeros(1, 2, dtype=torch.float16))
    assert loss.mean.item() == pytest.approx(4096.0**2, rel=1e-2)
