"""Adaptive steps: the path that remembers, the pairs' orders, the controller, distributions and
counts.

Oracles: the covariance of an Ornstein–Uhlenbeck process, the closed-form flow of Gaussian data,
its exact distribution carried through a step on a basis of states, and the data's own distribution
function.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

import sdescore as ss
from sdescore.samplers.adaptive import run as run_module
from sdescore.samplers.adaptive.controller import next_step, scaled_error
from sdescore.samplers.adaptive.pairs import NOISY, SMOOTH, EmbeddedPair, attempt
from sdescore.samplers.adaptive.path import NoisePath
from sdescore.samplers.adaptive.sampler import AdaptiveResult, AdaptiveSampler
from sdescore.tableau.exponential import exponential_step
from tests.helpers.affine import slope
from tests.helpers.strategies import REPRESENTATIVES

ALPHA = 1e-6  # false-positive rate of each statistical test here
F64 = torch.float64
VP = ss.VPSDE()
PAIRS = [NOISY, SMOOTH]


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def basis(count: int, batch: int = 1) -> Iterator[Tensor]:
    """Draws that are the unit vectors of ``count`` elements: a value's elements are its weights."""
    return (row.expand(batch, count) for row in torch.eye(count, dtype=F64))


# The path.


@given(
    st.permutations([0.0, 0.1, 0.35, 1.0, 1.7, 3.0]),
    st.permutations([0.02, 0.5, 0.6, 0.9, 4.0, 4.5]),
    st.floats(0.05, 1.0),
)
def test_a_path_has_its_covariance_in_any_order_of_visits(
    first: list[float], second: list[float], eta: float
) -> None:
    """Two samples visit their own points; W_τ starts at 0 where λ = −1."""
    start, n = -1.0, len(first)
    path = NoisePath(column(start, start), torch.zeros(2, n, dtype=F64), eta, iter(()))
    draws = basis(n, batch=2)
    visits = torch.tensor([first, second], dtype=F64)
    weights = torch.stack([path.visit(lam, z) for lam, z in zip(visits.T, draws, strict=True)], 1)
    early = torch.minimum(visits[:, :, None], visits[:, None])
    late = torch.maximum(visits[:, :, None], visits[:, None])
    clock = torch.exp(2 * eta**2 * early) - math.exp(2 * eta**2 * start)
    expected = torch.exp(-(eta**2) * (early + late)) * clock
    torch.testing.assert_close(weights @ weights.mT, expected, rtol=1e-10, atol=1e-12)


def test_a_path_remembers_what_lies_ahead_and_no_more() -> None:
    like = torch.zeros(2, 3)
    path = NoisePath(column(0.0, 0.0), like, 1.0, iter(()))
    z = torch.randn(4, 2, 3)
    far = path.visit(column(2.0, 2.0), z[0])
    near = path.visit(column(1.0, 0.5), z[1])
    assert torch.equal(path.visit(column(2.0, 2.0), z[2]), far)
    path.forget(column(1.0, 1.0))
    assert torch.equal(path.visit(column(1.0, 2.0), z[3])[0], near[0])
    assert torch.equal(path.visit(column(2.0, 2.0), z[3]), far)
    assert path.lam.shape == (2, 3) and path.values.shape == (2, 3, 3)
    assert path.values.dtype == torch.float32
    path.keep(torch.tensor([False, True]))
    assert torch.equal(path.visit(column(2.0), z[3, :1]), far[1:])


def test_a_path_takes_no_more_room_than_it_needs() -> None:
    """What was passed makes room for what comes."""
    path = NoisePath(column(0.0), torch.zeros(1, 1), 1.0, iter(torch.randn(100, 1, 1)))
    for k in range(50):
        path.normal(column(0.1 * k), column(0.1 * k + 0.05))
        path.normal(column(0.1 * k), column(0.1 * (k + 1)))
        path.forget(column(0.1 * (k + 1)))
    assert path.lam.shape == (1, 3)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_the_parts_of_a_step_add_up_to_it(name: str, eta: float) -> None:
    """Over t → m → s the noises of the exact solution are that of t → s: c and z agree."""
    sde = REPRESENTATIVES[name]
    lam = torch.lerp(*sde.half_log_snr(column(sde.T, sde.t_min)), column(0.1, 0.35, 0.8))
    t, m, s = sde.time_at_half_log_snr(lam)[:, None]
    path = NoisePath(sde.half_log_snr(t), torch.zeros(1, 3, dtype=F64), eta, basis(3))
    moves = [exponential_step(sde, *ends, "x0", eta) for ends in ((t, s), (t, m), (m, s))]
    ends = [(t, s), (t, m), (m, s)]
    normals = [path.normal(*(sde.half_log_snr(u) for u in pair)) for pair in ends]
    whole, early, late = (move.c * z[0] for move, z in zip(moves, normals, strict=True))
    torch.testing.assert_close(whole, moves[2].a * early + late, rtol=1e-7, atol=1e-10)
    for z in normals:
        assert z.square().sum().item() == pytest.approx(1.0, rel=1e-7)


# One step.


def ends(sde: ss.LinearSDE, lam: float, h: float) -> tuple[Tensor, Tensor]:
    t, s = sde.time_at_half_log_snr(column(lam, lam + h))
    return t[None], s[None]


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
    h = [0.4, 0.2, 0.1, 0.05]
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
    assert -slope(h, high) == pytest.approx(4.0, abs=0.3)
    assert -slope(h, low) == pytest.approx(SMOOTH.order, abs=0.3)


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


def error_of_law(node: float, sde: ss.LinearSDE, eta: float, steps: int) -> float:
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
    steps = [200, 400, 800] if node == 0.4 else [50, 100, 200]
    errors = [error_of_law(node, VP, eta, n) for n in steps]
    assert slope(steps, errors) == pytest.approx(2.0, abs=0.25), errors


@pytest.mark.parametrize("sde", [VP, ss.VESDE(), ss.RectifiedFlowSDE()], ids=["vp", "ve", "flow"])
def test_the_node_of_the_noisy_pair_makes_the_distribution_right(sde: ss.LinearSDE) -> None:
    """At η = 1, far below what the nodes 1/2 and 1 leave."""
    for steps in (12, 20, 30):
        ours, half, end = (error_of_law(c, sde, 1.0, steps) for c in (0.4, 0.5, 1 - 1e-9))
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


def test_the_noisy_pair_is_of_order_one_along_a_path() -> None:
    """Equal steps on one path, mixture data: how far half the step size moves the end.

    From seed to seed the mean over 2000 paths moves the slope by 0.005. A root mean square moves
    it more.
    """
    score = ss.MixtureScore([0.4, 0.6], [[-1.0], [0.8]], [0.05, 0.3], VP)
    denoise, n = denoiser(score, VP), 2000
    generator = torch.Generator().manual_seed(0)
    draws = (torch.randn(n, 1, dtype=F64, generator=generator) for _ in range(10**6))
    start = torch.full((n,), -1.0, dtype=F64)
    path = NoisePath(start, torch.zeros(n, 1, dtype=F64), 1.0, draws)
    x0 = torch.randn(n, 1, dtype=F64, generator=generator)
    ends_at: dict[int, Tensor] = {}
    for steps in (64, 32, 16, 8):
        lam = torch.linspace(-1, 1, steps + 1, dtype=F64)
        times, x = VP.time_at_half_log_snr(lam)[:, None].expand(-1, n), x0
        for t, s in itertools.pairwise(times):

            def noise(to: Tensor, t: Tensor = t) -> Tensor:
                return path.normal(VP.half_log_snr(t), to)

            x, _ = attempt(NOISY, VP, 1.0, x, t, s, denoise(x, t), denoise, noise)
        ends_at[steps] = x
    steps = [8, 16, 32]
    errors = [(ends_at[k] - ends_at[2 * k]).abs().mean().item() for k in steps]
    assert slope(steps, errors) == pytest.approx(1.0, abs=0.1), errors


# The controller.


def test_the_error_is_in_units_of_the_tolerance() -> None:
    """Root mean square of E / (a + r max(|x|, |x′|)), one for each sample."""
    difference = column(0.3, -0.4, 0.0, 0.0).reshape(2, 2)
    before, after = column(-2.0, 0.0, 1.0, 1.0).reshape(2, 2), column(1.0, 3.0, 0.0, 0.0)
    error = scaled_error(difference, before, after.reshape(2, 2), rtol=0.5, atol=1.0)
    assert error.dtype == F64
    first = math.sqrt(((0.3 / (1 + 0.5 * 2)) ** 2 + (0.4 / (1 + 0.5 * 3)) ** 2) / 2)
    assert error.tolist() == pytest.approx([first, 0.0])
    nothing = torch.zeros(3, 0)
    assert scaled_error(nothing, nothing, nothing, 0.1, 0.1).tolist() == [0.0] * 3
    scalar = scaled_error(column(3.0), column(0.0), column(0.0), 0.1, 2.0)
    assert scalar.tolist() == [1.5]


@given(st.floats(1e-3, 1e3), st.floats(1.0, 4.0), st.floats(0.01, 10.0))
def test_the_controller_settles_just_below_the_tolerance(
    constant: float, order: float, h: float
) -> None:
    """With an error of C h^p exactly, from any first step."""
    length, last, grows = column(h), column(1.0), torch.tensor([True])
    for _ in range(60):
        error = constant * length**order
        length, last = next_step(length, error, last, order, grows)
        grows = error <= 1
    error = (constant * length**order).item()
    # S e^{−0.3/p} = 1 at rest.
    assert error == pytest.approx(0.9 ** (order / 0.3), rel=1e-3)


def test_the_controller_by_cases() -> None:
    h, one = column(1.0), column(1.0)
    yes, no = torch.tensor([True]), torch.tensor([False])

    def factor(error: float, last: float, order: float, grows: Tensor) -> float:
        return next_step(h, column(error), column(last), order, grows)[0].item()

    assert factor(8.0, 0.5, 1.5, yes) == pytest.approx(0.9 * 8 ** (-1 / 1.5))  # tried again
    assert factor(0.5, 0.8, 2.0, yes) == pytest.approx(0.9 * 0.5**-0.35 * 0.8**0.2)
    assert factor(1e9, 1.0, 3.0, yes) == 0.2 and factor(0.0, 1.0, 3.0, yes) == 5.0
    assert factor(1e-3, 1.0, 3.0, no) == 1.0  # right after a rejection
    assert factor(8.0, 1.0, 1.5, no) == pytest.approx(0.9 * 8 ** (-1 / 1.5))
    longer, last = next_step(h, column(0.0), one, 2.0, yes)
    assert next_step(longer, column(0.0), last, 2.0, yes)[0].item() == 25.0
    assert next_step(h, column(2.0), column(0.3), 2.0, yes)[1].item() == 0.3
    assert next_step(h, column(0.7), one, 2.0, yes)[1].item() == 0.7


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


def distance_of_law(tol: float, n: int, eta: float = 1.0) -> tuple[float, AdaptiveResult]:
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
    right, result = distance_of_law(0.03, 6000)
    assert (result.rejected.sum() / (result.accepted + result.rejected).sum()).item() > 0.1
    assert right < BOUND
    honest, calls = NoisePath.normal, [0]

    def forgetful(self: NoisePath, t: Tensor, s: Tensor) -> Tensor:
        if calls[0] % len(NOISY.nodes) == 0:  # the first of a trial
            self.lam[self.lam > t[:, None]] = torch.nan
        calls[0] += 1
        return honest(self, t, s)

    monkeypatch.setattr(NoisePath, "normal", forgetful)
    wrong, other = distance_of_law(0.03, 6000)
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


# What a sample costs, and what it does not depend on.

BIMODAL = ss.MixtureScore([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [0.01, 0.01], VP)


class Watched:
    """A score that keeps the times it is given, and the samples by their unchanging label."""

    def __init__(self, score) -> None:
        self.score, self.calls = score, []

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        assert t.shape == label.shape == x.shape[:1] and t.dtype == x.dtype
        self.calls.append((t.clone(), label.clone()))
        return self.score(x, t)


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
    assert torch.equal(seen, result.evaluations)
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
    sampler = AdaptiveSampler(VP, eta=eta, atol=1e6, longest=1.2, denoise=False)
    sampler.sample(lambda x, t: -x, (1, 1))
    first, last = VP.half_log_snr(column(VP.T, VP.t_min)).tolist()
    assert sum(lengths) == pytest.approx(last - first, rel=1e-12)
    assert lengths[0] == pytest.approx(0.1 * (last - first)) and max(lengths) == 1.2
    assert lengths[-1] == pytest.approx(lengths[-2], rel=1e-9) and min(lengths[:-2]) > 0.6
    short = AdaptiveSampler(VP, eta=eta, atol=1e6, longest=0.5, denoise=False)
    lengths.clear()
    short.sample(lambda x, t: -x, (1, 1))
    assert lengths[0] == 0.5


# Models, dtypes, shapes.


@pytest.mark.parametrize("prediction", ["score", "epsilon", "x0", "v"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_any_prediction_is_the_same_score(prediction: str, eta: float) -> None:
    def net(x: Tensor, c: Tensor) -> Tensor:
        assert c.shape == x.shape[:1]
        t = VP.time_at_log_snr(c.double())
        alpha, sigma = VP.marginal(t)
        return ss.convert(BIMODAL(x, t), x, alpha, sigma, "score", prediction)

    class Net(nn.Module):
        """In float64, so that nothing is rounded on the way."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones((), dtype=F64))
            self.modes: list[bool] = []

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            self.modes.append(self.training)
            return net(x, c)

    model = ss.ScoreModel(Net(), VP, prediction=prediction, time_input="log_snr")
    sampler = AdaptiveSampler(VP, eta=eta)
    ours = sampler.solve(model, (5, 2), seed=2)
    plain = sampler.solve(BIMODAL, (5, 2), seed=2, dtype=F64)
    torch.testing.assert_close(ours.x, plain.x, rtol=1e-6, atol=1e-8)
    assert torch.equal(ours.evaluations, plain.evaluations)
    assert ours.x.dtype == F64 and not ours.x.requires_grad
    assert not any(model.net.modes) and model.training


@pytest.mark.parametrize("shape", [(0, 3), (2,), (3, 0), (2, 1, 2, 2)])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_any_shape(shape: tuple[int, ...], eta: float) -> None:
    result = AdaptiveSampler(VP, eta=eta).solve(lambda x, t: -x, shape, progress=False)
    assert result.x.shape == shape and result.x.dtype == torch.float32
    for counts in (result.accepted, result.rejected, result.evaluations):
        assert counts.shape == shape[:1] and counts.dtype == torch.int64
    assert bool((result.evaluations > 0).all())


def test_an_init_is_where_it_starts_and_stays_as_it_is() -> None:
    init = VP.prior_std() * ss.noise.standard_normal(5, range(3), range(1), (2,))[0]
    kept = init.clone()
    sampler = AdaptiveSampler(VP)
    # The noise of a run from init is another; without noise the start is all there is.
    flow = AdaptiveSampler(VP, eta=0.0)
    assert torch.equal(flow.sample(BIMODAL, init=init), flow.sample(BIMODAL, (3, 2), seed=5))
    drawn = sampler.sample(BIMODAL, (3, 2), seed=5)
    assert not (sampler.sample(BIMODAL, init=init, seed=5) == drawn).any()
    chunks = sampler.sample(BIMODAL, init=init, seed=5, max_batch=2)
    assert torch.equal(chunks, sampler.sample(BIMODAL, init=init, seed=5))
    assert torch.equal(init, kept)
    other = sampler.sample(BIMODAL, init=init, seed=6)
    assert not torch.equal(other, sampler.sample(BIMODAL, init=init, seed=5))
    assert sampler.sample(BIMODAL, init=init, dtype=F64).dtype == F64


def test_progress_counts_samples_and_draws_are_used_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Draw 0 is the start's; each trial has two of its own."""
    drawn: list[list[int]] = []
    run = run_module.run

    class Recorded:
        def __init__(self, stream) -> None:
            self.stream = stream

        def draw(self, k: int) -> Tensor:
            drawn[-1].append(k)
            return self.stream.draw(k)

    def spy(rules, at, stream, evaluate, samples):
        drawn.append([])
        return run(rules, at, Recorded(stream), evaluate, samples)

    monkeypatch.setattr("sdescore.samplers.adaptive.sampler.run", spy)
    result = AdaptiveSampler(VP).solve(BIMODAL, (5, 2), progress=True, max_batch=2)
    assert "5/5" in capsys.readouterr().err
    trials = (result.accepted + result.rejected).split(2)
    assert drawn == [list(range(1, 1 + 2 * int(chunk.max()))) for chunk in trials]


def test_what_was_passed_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many steps take no more memory than few."""
    slots: list[int] = []
    honest = NoisePath.normal

    def spy(self: NoisePath, t: Tensor, s: Tensor) -> Tensor:
        slots.append(self.lam.shape[1])
        return honest(self, t, s)

    monkeypatch.setattr(NoisePath, "normal", spy)
    result = AdaptiveSampler(VP, longest=0.1).solve(lambda x, t: -x, (2, 2))
    assert result.accepted.min() > 80 and max(slots) < 12


def test_a_sampler_is_a_value() -> None:
    sampler = AdaptiveSampler(VP, eta=0.5, rtol=0.1)
    assert eval(repr(sampler), {name: getattr(ss, name) for name in ss.__all__}) == sampler
    assert hash(sampler) == hash(AdaptiveSampler(ss.VPSDE(), eta=0.5, rtol=0.1))


# Refusals.


class NonLinear(ss.SDE):
    T = 1.0

    def drift(self, x: Tensor, t: ss.typing.Time) -> Tensor:
        return -(x**3)

    def diffusion(self, t: ss.typing.Time) -> Tensor:
        return torch.as_tensor(1.0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"eta": -0.1}, "eta"),
        ({"eta": 1.1}, "eta"),
        ({"eta": math.nan}, "eta"),
        ({"rtol": -1e-3}, "rtol"),
        ({"rtol": math.inf}, "rtol"),
        ({"atol": 0.0}, "atol"),
        ({"atol": math.nan}, "atol"),
        ({"longest": 0.0}, "longest"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": True}, "max_steps"),
        ({"max_steps": 5.0}, "max_steps"),
        ({"data_std": -1.0}, "data_std"),
    ],
)
def test_parameters_out_of_range(options: dict[str, float], match: str) -> None:
    with pytest.raises(ss.errors.ParameterError, match=match):
        AdaptiveSampler(VP, **options)


@pytest.mark.parametrize("sde", [NonLinear(), ss.VPSDE, None, VP.reverse(BIMODAL)])
def test_other_sdes(sde: object) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="LinearSDE"):
        AdaptiveSampler(sde)


@pytest.mark.parametrize("denoise", ["flow", 1, None])
def test_an_ending_it_does_not_have(denoise: object) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="expected denoise to be True or False"):
        AdaptiveSampler(VP, denoise=denoise)


def test_an_infinite_log_snr() -> None:
    sde = ss.LinearSDE.from_marginal(torch.ones_like, lambda t: t.clone(), t_min=0.0)
    with pytest.raises(ss.errors.ScheduleError, match="finite log-SNR"):
        AdaptiveSampler(sde)


def untouched(x: Tensor, t: Tensor) -> Tensor:
    pytest.fail("the model was called before the request was refused")


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ss.errors.ShapeError, {"shape": None}),
        (ss.errors.ShapeError, {"shape": (2, -1)}),
        (ss.errors.ShapeError, {"shape": (2, 2), "dtype": torch.float16}),
        (ss.errors.ShapeError, {"shape": (2, 2), "init": torch.zeros(3, 2)}),
        (ss.errors.ParameterError, {"shape": (2, 2), "seed": 1.0}),
        (ss.errors.ParameterError, {"shape": (2, 2), "max_batch": 0}),
        (ss.errors.ParameterError, {"init": torch.tensor([[math.nan]])}),
        (ss.errors.IncompatibleError, {"shape": (2, 2), "label": torch.zeros(2)}),
    ],
)
@pytest.mark.parametrize("way", ["sample", "solve"])
def test_bad_requests(way: str, error: type[Exception], options: dict[str, object]) -> None:
    with pytest.raises(error):
        getattr(AdaptiveSampler(VP), way)(untouched, **options)


def test_models_that_do_not_fit_are_refused_uncalled() -> None:
    table = ss.DiscreteVPSDE.linear(9)  # with a level in the middle of its times
    levels = ss.ScoreModel(untouched, table, time_input="level")
    with pytest.raises(ss.errors.TimeError, match="level"):
        AdaptiveSampler(table).sample(levels, (2, 2))
    narrow = ss.VESDE(sigma_min=0.1, sigma_max=1.0)
    elsewhere = ss.under(untouched, VP, own=narrow)
    with pytest.raises(ss.errors.TimeError):
        AdaptiveSampler(VP).sample(elsewhere, (2, 1))
    with pytest.raises(ss.errors.IncompatibleError, match="SDE"):
        AdaptiveSampler(VP).sample(ss.GaussianScore([0.0], 1.0, ss.VESDE()), (2, 1))


def in_place(x: Tensor, t: Tensor) -> Tensor:
    return x.mul_(-1)


@pytest.mark.parametrize("score", [in_place, lambda x, t: x[:, :1], lambda x, t: 0.0])
def test_scores_that_misbehave(score) -> None:
    refused = (ss.errors.IncompatibleError, ss.errors.ShapeError)
    with pytest.raises(refused, match="expected the score"):
        AdaptiveSampler(VP).sample(score, (2, 2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_not_finite(value: float) -> None:
    """Which samples and when; the chunks before are kept."""
    label = torch.arange(6)

    def score(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        broken = (label[:, None] == 4) & (t[:, None] < 0.3)
        return torch.where(broken, value, BIMODAL(x, t))

    sampler = AdaptiveSampler(VP)
    with pytest.raises(ss.errors.DivergenceError, match=r"1 samples: 4 \(t = 0\.") as caught:
        sampler.sample(score, (6, 2), label=label, max_batch=3)
    error = caught.value
    assert error.samples == [4] and error.t < 0.3 and error.step > 1
    assert torch.equal(error.finished, sampler.sample(BIMODAL, (3, 2)))
    with pytest.raises(ss.errors.DivergenceError) as caught:
        sampler.sample(score, (6, 2), label=label)
    assert caught.value.finished is None


def test_a_tolerance_out_of_reach_ends() -> None:
    sampler = AdaptiveSampler(VP, rtol=0.0, atol=1e-9, max_steps=7)
    score = Watched(BIMODAL)
    with pytest.raises(ss.errors.DivergenceError, match=r"max_steps=7.*Raise rtol") as caught:
        sampler.sample(score, (2, 2), label=torch.arange(2))
    assert caught.value.samples == [0, 1] and caught.value.step == 7
    assert len(score.calls) <= 2 * 7
    # A sample that is done with its last allowed trial is done.
    easy = AdaptiveSampler(VP, denoise=False).solve(lambda x, t: -x, (3, 1))
    most = int((easy.accepted + easy.rejected).max())
    exact = AdaptiveSampler(VP, max_steps=most, denoise=False).sample(lambda x, t: -x, (3, 1))
    assert torch.equal(exact, easy.x)
    with pytest.raises(ss.errors.DivergenceError):
        AdaptiveSampler(VP, max_steps=most - 1).sample(lambda x, t: -x, (3, 1))


def test_a_score_that_no_step_is_short_enough_for() -> None:
    """It jumps by 1e20 from call to call: given up when steps vanish, not when trials run out."""
    calls = [0]

    def score(x: Tensor, t: Tensor) -> Tensor:
        calls[0] += 1
        return torch.full_like(x, 1e20 * (-1) ** calls[0])

    with pytest.raises(ss.errors.DivergenceError, match="longer than") as caught:
        AdaptiveSampler(VP, rtol=0.0).sample(score, (1, 1))
    assert caught.value.step < 20 and caught.value.t == VP.T


def test_a_progress_bar_counts_samples(capsys: pytest.CaptureFixture[str]) -> None:
    """Also those that arrive together."""
    pytest.importorskip("tqdm")
    AdaptiveSampler(VP, eta=0.0).sample(BIMODAL, init=torch.ones(5, 2), max_batch=3, progress=True)
    assert "5/5" in capsys.readouterr().err
