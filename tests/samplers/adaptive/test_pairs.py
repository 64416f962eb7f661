"""One step of each embedded pair: exactness and orders."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.samplers.adaptive.pairs import NOISY, SMOOTH, EmbeddedPair, attempt
from sdescore.samplers.adaptive.path import NoisePath
from tests.helpers.adaptive import F64, VP, column, ends
from tests.helpers.affine import slope
from tests.helpers.strategies import REPRESENTATIVES

PAIRS = [NOISY, SMOOTH]


def denoiser(score: ss.MixtureScore, sde: ss.LinearSDE):
    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (v[:, None] for v in sde.marginal(t))
        return (x + sigma**2 * score(x, t)) / alpha

    return denoise


@pytest.mark.parametrize("pair", PAIRS, ids=["noisy", "smooth"])
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_constant_output_is_integrated_exactly(name: str, pair: EmbeddedPair) -> None:
    """And nothing is estimated to be wrong: x_s = α_s m + (σ_s/σ_t) e^{−η²h} (x_t − α_t m)."""
    sde, m, x = REPRESENTATIVES[name], 0.7, torch.full((1, 2), 1.3, dtype=F64)
    eta = 0.8 if pair is NOISY else 0.0
    t, s = sde.T * column(0.7), sde.T * column(0.4)
    constant = torch.full_like(x, m)

    def denoise(y: Tensor, u: Tensor) -> Tensor:
        return constant

    y, difference = attempt(pair, sde, eta, x, t, s, constant, denoise, None)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = sde.marginal(t), sde.marginal(s)
    shrink = sigma_s / sigma_t * torch.exp(-(eta**2) * (sde.half_log_snr(s) - sde.half_log_snr(t)))
    torch.testing.assert_close(y, alpha_s * m + shrink * (x - alpha_t * m), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(difference, torch.zeros_like(x), rtol=0.0, atol=1e-9)


def test_the_orders_of_the_smooth_pair() -> None:
    """One step on Gaussian data against the closed form: h⁴ and, of the lower method, h³."""
    score = ss.GaussianScore([0.4], 0.3, VP)
    x, denoise = column(1.1)[None], denoiser(score, VP)
    h = [0.1, 0.05, 0.025, 0.0125]
    high, low = [], []
    for length in h:
        t, s = ends(VP, -0.5, length)
        y, difference = attempt(SMOOTH, VP, 0.0, x, t, s, denoise(x, t), denoise, None)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = VP.marginal(t), VP.marginal(s)
        spread = ((0.3 * alpha_s**2 + sigma_s**2) / (0.3 * alpha_t**2 + sigma_t**2)).sqrt()
        exact = 0.4 * alpha_s + spread * (x - 0.4 * alpha_t)
        high.append((y - exact).abs().item())
        low.append((y - difference - exact).abs().item())
        assert difference.abs().item() == pytest.approx(low[-1], rel=0.3)
    assert -slope(h, high) == pytest.approx(4.0, abs=0.1)
    assert -slope(h, low) == pytest.approx(SMOOTH.order, abs=0.1)


def linear_steps(
    pair: EmbeddedPair, sde: ss.LinearSDE, eta: float, lam: Tensor
) -> tuple[Tensor, Tensor]:
    """``(N, 3)`` weights of (x_t, two independent normals) in steps between neighbours in ``lam``
    and in their estimates, for data N(0, 1/2)."""
    times, n = sde.time_at_half_log_snr(lam), len(lam) - 1
    t, s = times[:-1], times[1:]
    score = ss.GaussianScore(torch.zeros(3), 0.5, sde)
    draws = (torch.tensor([[0.0, *row]], dtype=F64).expand(n, 3) for row in torch.eye(2).tolist())
    path = NoisePath(sde.half_log_snr(t), torch.zeros(n, 3, dtype=F64), eta, draws)
    x, denoise = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64).expand(n, 3), denoiser(score, sde)

    def noise(to: Tensor) -> Tensor:
        return path.normal(sde.half_log_snr(t), to)

    return attempt(pair, sde, eta, x, t, s, denoise(x, t), denoise, noise)


def error_of_distribution(node: float, sde: ss.LinearSDE, eta: float, steps: int) -> float:
    """Relative error of the standard deviation, from the right one at λ = −3 to λ = 3."""
    pair = EmbeddedPair((0.0, node), NOISY.through, NOISY.embedded, NOISY.order)
    lam = torch.linspace(-3, 3, steps + 1, dtype=F64)
    alpha, sigma = sde.marginal(sde.time_at_half_log_snr(lam[[0, -1]]))
    now, exact = (0.5 * alpha**2 + sigma**2).tolist()
    for x, *z in linear_steps(pair, sde, eta, lam)[0].square().tolist():
        now = x * now + sum(z)
    return abs(math.sqrt(now / exact) - 1)


@pytest.mark.parametrize("node", [0.4, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_distribution_is_of_order_two_at_any_node(eta: float, node: float) -> None:
    steps = [800, 1600, 3200] if node == 0.4 else [200, 400, 800]
    errors = [error_of_distribution(node, VP, eta, n) for n in steps]
    assert slope(steps, errors) == pytest.approx(2.0, abs=0.1), errors


@pytest.mark.parametrize("sde", [VP, ss.VESDE(), ss.RectifiedFlowSDE()], ids=["vp", "ve", "flow"])
def test_the_node_of_the_noisy_pair_makes_the_distribution_right(sde: ss.LinearSDE) -> None:
    """At η = 1, far below what the nodes 1/2 and 1 leave."""
    for steps in (12, 20, 30):
        ours, half, end = (error_of_distribution(c, sde, 1.0, steps) for c in (0.4, 0.5, 1 - 1e-9))
        assert ours < half / 5 and ours < end / 15
    assert NOISY.nodes == (0.0, 0.4)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_estimate_of_the_noisy_pair_falls_as_it_says(eta: float) -> None:
    """Its standard deviation over the noise, in closed form, falls as h^{3/2}."""
    h = [0.04, 0.02, 0.01]
    found = [
        linear_steps(NOISY, VP, eta, column(0.0, length))[1][0, 1:].norm().item() for length in h
    ]
    assert -slope(h, found) == pytest.approx(NOISY.order, abs=0.05)


@pytest.mark.slow
def test_the_noisy_pair_is_of_order_one_along_a_path() -> None:
    """Equal steps on one path, mixture data: how far half the step size moves the end.

    At 8 other seeds the slope was 0.968, of standard deviation 0.015: 0.9 is 4.5 of them away. A
    root mean square over the 2000 paths would spread more, and from 8 steps on the slope is 0.935.
    """
    score = ss.MixtureScore([0.4, 0.6], [[-1.0], [0.8]], [0.05, 0.3], VP)
    denoise, n = denoiser(score, VP), 2000
    generator = torch.Generator().manual_seed(0)
    draws = (torch.randn(n, 1, dtype=F64, generator=generator) for _ in range(10**6))
    start = torch.full((n,), -1.0, dtype=F64)
    path = NoisePath(start, torch.zeros(n, 1, dtype=F64), 1.0, draws)
    x0 = torch.randn(n, 1, dtype=F64, generator=generator)
    ends_at: dict[int, Tensor] = {}
    for steps in (128, 64, 32, 16):
        lam = torch.linspace(-1, 1, steps + 1, dtype=F64)
        times, x = VP.time_at_half_log_snr(lam)[:, None].expand(-1, n), x0
        for t, s in itertools.pairwise(times):

            def noise(to: Tensor, t: Tensor = t) -> Tensor:
                return path.normal(VP.half_log_snr(t), to)

            x, _ = attempt(NOISY, VP, 1.0, x, t, s, denoise(x, t), denoise, noise)
        ends_at[steps] = x
    steps = [16, 32, 64]
    errors = [(ends_at[k] - ends_at[2 * k]).abs().mean().item() for k in steps]
    assert slope(steps, errors) == pytest.approx(1.0, abs=0.1), errors
