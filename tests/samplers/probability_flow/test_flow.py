"""The probability flow against closed forms: flow maps, densities, Hutchinson's variances."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import sdescore as ss
from sdescore.samplers.probability_flow.likelihood import t_quantile
from tests.helpers.strategies import REPRESENTATIVES

F64 = torch.float64
NAMES = ["vp", "subvp", "ve", "edm", "flow", "cosine"]
ALPHA = 1e-6

WEIGHTS = [0.5, 0.3, 0.2]
MEANS = [[-1.0, 0.0], [1.0, 1.0], [1.0, -1.5]]
COVARIANCES = [[[0.3, 0.1], [0.1, 0.2]], [[0.05, 0.0], [0.0, 0.4]], [[0.1, -0.05], [-0.05, 0.1]]]


def mixture(sde: ss.LinearSDE) -> ss.MixtureScore:
    return ss.MixtureScore(WEIGHTS, MEANS, COVARIANCES, sde)


def mixture_log_prob(sde: ss.LinearSDE, x: Tensor, t: float) -> np.ndarray:
    """SciPy's log density of the diffused mixture; only (α, σ) come from the library."""
    alpha, sigma = (c.item() for c in sde.marginal(t))
    parts = [
        math.log(w)
        + stats.multivariate_normal.logpdf(
            x.double().numpy(), alpha * np.array(m), alpha**2 * np.array(C) + sigma**2 * np.eye(2)
        )
        for w, m, C in zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    ]
    return np.logaddexp.reduce(parts)


def mixture_states(sde: ss.LinearSDE, n: int, t: float) -> Tensor:
    clean = mixture(sde).sample(n, seed=1, dtype=F64)
    return sde.perturb(clean, t, torch.randn(n, 2, dtype=F64))


@pytest.mark.guards("B07", "B08")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dtype", "tolerance", "bar"), [(F64, 1e-9, 1e-6), (torch.float32, 1e-6, 1e-3)]
)
def test_likelihood_of_a_mixture(
    name: str, dtype: torch.dtype, tolerance: float, bar: float
) -> None:
    """The integrator alone: change of variables from the exact p_T, so no prior enters."""
    sde = REPRESENTATIVES[name]
    score, x = mixture(sde), mixture_states(sde, 60, sde.t_min).to(dtype)
    flow = ss.ProbabilityFlow(sde, rtol=tolerance, atol=tolerance)
    result = flow.log_likelihood(score, x)
    log_prob = mixture_log_prob(sde, result.latent, sde.T) + result.log_det.double().numpy()
    assert np.abs(log_prob - mixture_log_prob(sde, x, sde.t_min)).max() <= bar
    assert result.log_prob.dtype == dtype
    # And what log_prob adds is the prior at T.
    prior = stats.norm.logpdf(result.latent.double().numpy(), scale=sde.prior_std()).sum(1)
    got = (result.log_prob - result.log_det).double().numpy()
    np.testing.assert_allclose(got, prior, atol=1e-5 if dtype == torch.float32 else 1e-10)
    assert result.standard_error.eq(0).all()
    # Encoding and decoding are inverse, and encoding is the likelihood's own path.
    latent = flow.encode(score, x)
    assert (latent - result.latent).abs().max() <= bar * sde.prior_std()
    assert (flow.decode(score, latent) - x).abs().max() <= bar


def gaussian_map(sde: ss.LinearSDE, x: Tensor, m: Tensor, std: Tensor, s: float, t: float):
    """Flow of N(m, std²) from s to t: standardised coordinates stay; and its log determinant."""
    (alpha_s, sigma_s), (alpha_t, sigma_t) = sde.marginal(s), sde.marginal(t)
    ratio = torch.hypot(alpha_t * std, sigma_t) / torch.hypot(alpha_s * std, sigma_s)
    return alpha_t * m + ratio * (x - alpha_s * m), ratio.log().sum()


M, STD = torch.tensor([1.0, -2.0, 0.5], dtype=F64), torch.tensor([0.3, 1.0, 2.0], dtype=F64)


@pytest.mark.parametrize("name", [*NAMES, "discrete-vp", "marginal-power"])
def test_flow_of_gaussian_data_and_the_prior_it_ends_in(name: str) -> None:
    sde = REPRESENTATIVES[name]
    t_min = max(sde.t_min, 0.01 * sde.T)
    score = ss.GaussianScore(M, STD**2, sde)
    x = M + STD * torch.randn(10, 3, dtype=F64)
    flow = ss.ProbabilityFlow(sde, rtol=1e-9, atol=1e-9, t_min=t_min, data_std=0.7)
    result = flow.log_likelihood(score, x)
    latent, log_det = gaussian_map(sde, x, M, STD, t_min, sde.T)
    scale = sde.prior_std()
    torch.testing.assert_close(result.latent, latent, rtol=1e-6, atol=1e-6 * scale)
    torch.testing.assert_close(result.log_det, log_det.expand(10), rtol=0, atol=1e-6)
    alpha_T, sigma_T = (c.item() for c in sde.marginal(sde.T))
    prior = stats.norm.logpdf(latent.numpy(), scale=math.hypot(sigma_T, 0.7 * alpha_T)).sum(1)
    np.testing.assert_allclose(result.log_prob.numpy(), prior + log_det.item(), atol=1e-5)
    back = gaussian_map(sde, latent, M, STD, sde.T, t_min)[0]
    torch.testing.assert_close(flow.decode(score, latent), back, rtol=1e-6, atol=1e-6)


def test_sampling_follows_the_flow_from_the_samplers_own_start() -> None:
    sde, t_min = ss.VPSDE(), 0.02
    score = ss.GaussianScore(M, STD**2, sde)
    flow = ss.ProbabilityFlow(sde, rtol=1e-8, atol=1e-8, t_min=t_min, data_std=1.5)
    start = sde.prior_std(1.5) * ss.noise.standard_normal(11, range(6), range(1), (3,))[0].double()
    end = gaussian_map(sde, start, M, STD, 1.0, t_min)[0]
    got = flow.sample(score, (6, 3), seed=11, dtype=F64, denoise=False)
    torch.testing.assert_close(got, end, rtol=1e-6, atol=1e-6)
    # Tweedie's mean of a Gaussian: m + α v/(α² v + σ²) (x − α m).
    alpha, sigma = sde.marginal(t_min)
    clean = M + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (end - alpha * M)
    denoised = flow.sample(score, (6, 3), seed=11, dtype=F64)
    torch.testing.assert_close(denoised, clean, rtol=1e-6, atol=1e-6)
    # The sampler's chain of this seed starts at the same place.
    sampler = ss.PredictorCorrector(sde, steps=2, data_std=1.5)
    first = []
    sampler.sample(lambda x, t: first.append(x.clone()) or -x, (6, 3), seed=11, dtype=F64)
    torch.testing.assert_close(first[0], start)
    replayed = ss.noise.ReplayNoise(start[None] / sde.prior_std(1.5))
    torch.testing.assert_close(flow.sample(score, (6, 3), noise=replayed, dtype=F64), denoised)
    assert flow.sample(score, (2, 3)).dtype == torch.float32


@pytest.mark.parametrize(
    ("method", "order"), [("euler", 1), ("midpoint", 2), ("heun3", 3), ("rk4", 4)]
)
def test_fixed_step_methods_have_their_order(method: str, order: int) -> None:
    sde = ss.VPSDE(beta_min=1.0, beta_max=3.0)
    score, x = ss.GaussianScore(M, STD**2, sde), torch.randn(4, 3, dtype=F64)
    errors = []
    for steps in (32, 64):
        flow = ss.ProbabilityFlow(sde, method=method, steps=steps, t_min=0.2)
        stages = flow.log_likelihood(score, x).evaluations / steps
        assert stages == {"heun3": 3}.get(method, order)
        exact = gaussian_map(sde, x, M, STD, 0.2, 1.0)[0]
        errors.append((flow.encode(score, x) - exact).abs().max().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("method", ["dopri8", "bosh3", "adaptive_heun"])
def test_other_adaptive_methods_meet_the_tolerance(method: str) -> None:
    sde = ss.VPSDE()
    score, x = ss.GaussianScore(M, STD**2, sde), torch.randn(4, 3, dtype=F64)
    flow = ss.ProbabilityFlow(sde, method=method, rtol=1e-5, atol=1e-5, t_min=0.1)
    exact = gaussian_map(sde, x, M, STD, 0.1, 1.0)[0]
    assert (flow.encode(score, x) - exact).abs().max() < 1e-3


class Recorded:
    """A score that writes down its times."""

    def __init__(self, score: ss.typing.Score) -> None:
        self.score, self.times = score, []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.times.append(t.item())
        return self.score(x, t)


@pytest.mark.guards("M11")
@pytest.mark.parametrize("name", NAMES)
def test_the_solver_stays_in_range_and_lands_on_the_end(name: str) -> None:
    """No call lies outside, and after the first step's probe (call 1) none is brought back."""
    sde = REPRESENTATIVES[name]
    score = Recorded(mixture(sde))
    flow = ss.ProbabilityFlow(sde, rtol=1e-3, atol=1e-3)
    x = mixture_states(sde, 4, sde.t_min)
    for run, start, end in (
        (lambda: flow.encode(score, x), sde.t_min, sde.T),
        (lambda: flow.sample(score, (4, 2), denoise=False, dtype=F64), sde.T, sde.t_min),
    ):
        score.times.clear()
        run()
        assert all(sde.t_min <= t <= sde.T for t in score.times)
        assert score.times.count(start) == 1
        assert end not in score.times[2:]  # the last stage is evaluated one float before it
        assert math.isclose(score.times[-1], end, abs_tol=1e-300)


@pytest.mark.guards("M11")
def test_a_wild_first_probe_is_safe() -> None:
    """A nearly flat flow makes torchdiffeq probe the drift at t ≈ −2e5."""
    sde = ss.VPSDE()
    score = Recorded(ss.GaussianScore([0.0], 1.0001, sde))
    flow = ss.ProbabilityFlow(sde, rtol=1e-9, atol=1e-9)
    x = flow.decode(score, torch.ones(1, 1, dtype=F64))
    assert sde.t_min in score.times
    assert min(score.times) >= sde.t_min
    expected = gaussian_map(
        sde, torch.ones_like(x), x.new_zeros(1), x.new_full((1,), 1.0001**0.5), 1.0, sde.t_min
    )[0]
    torch.testing.assert_close(x, expected, rtol=1e-7, atol=1e-7)


def broken(x: Tensor, t: Tensor) -> Tensor:
    return torch.where((t < 0.5) & (x > 3.0), math.nan, -x)


def test_a_nan_stops_the_solve_and_names_the_samples() -> None:
    start = torch.zeros(7, 2, dtype=F64)
    start[5, 1] = 4.0
    flow = ss.ProbabilityFlow(ss.VPSDE())
    with pytest.raises(ss.errors.DivergenceError, match="not finite") as caught:
        flow.decode(broken, start, max_batch=3)
    assert caught.value.samples == [5]
    assert caught.value.t < 0.5
    assert caught.value.finished.shape == (3, 2)
    with pytest.raises(ss.errors.DivergenceError) as caught:
        flow.decode(broken, start)
    assert caught.value.finished is None
    infinite = ss.ProbabilityFlow(ss.VPSDE(), method="euler", steps=4)
    with pytest.raises(ss.errors.DivergenceError):
        infinite.encode(lambda x, t: x / 0.0, torch.ones(2, 2))


@pytest.mark.guards("T14")
def test_no_hang_where_asserts_are_off() -> None:
    """python -O: a NaN, and a flow too rough for the solver."""
    code = """
        import torch, sdescore as ss
        flow = ss.ProbabilityFlow(ss.VPSDE(), max_evaluations=300)
        rough = lambda x, t: x.abs().pow(-3) * 1e6 * (40 * x).sin()
        for score in (lambda x, t: x * float("nan"), rough):
            try:
                flow.decode(score, torch.ones(2, 2))
            except ss.errors.DivergenceError:
                print("stopped")
    """
    done = subprocess.run(
        [sys.executable, "-O", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["stopped", "stopped"]


def test_a_solver_that_cannot_go_on_says_so() -> None:
    sde = ss.VPSDE()
    flow = ss.ProbabilityFlow(sde, max_evaluations=25)
    with pytest.raises(ss.errors.DivergenceError, match="25 times") as caught:
        flow.encode(mixture(sde), torch.randn(3, 2))
    assert caught.value.samples == []
    assert caught.value.step == 25
    # A drift that jumps everywhere: no step is small enough, in float32 least of all.
    rough = ss.ProbabilityFlow(sde, rtol=1e-12, atol=1e-12)
    with pytest.raises(ss.errors.DivergenceError, match="gave up"):
        rough.encode(lambda x, t: 1e4 * torch.sign(torch.sin(1e9 * t + x)), torch.randn(2, 2))

    def asserts(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        flow.encode(asserts, torch.randn(2, 2))


def test_the_worst_sample_sets_the_step() -> None:
    """One hard sample among 500 easy ones keeps its accuracy, state and density both."""
    sde, tolerance = ss.VPSDE(), 1e-5
    score = ss.MixtureScore([0.5, 0.5], [[-1.0], [1.0]], [1e-3, 1e-3], sde)
    hard = torch.tensor([[0.02]], dtype=F64)
    easy = torch.ones(500, 1, dtype=F64)
    fine = ss.ProbabilityFlow(sde, rtol=1e-10, atol=1e-10).log_likelihood(score, hard)
    flow = ss.ProbabilityFlow(sde, rtol=tolerance, atol=tolerance)
    alone = flow.log_likelihood(score, hard)
    crowd = flow.log_likelihood(score, torch.cat([hard, easy]))
    for key in ("latent", "log_det"):
        own = (getattr(alone, key)[0] - getattr(fine, key)[0]).abs().item()
        among = (getattr(crowd, key)[0] - getattr(fine, key)[0]).abs().item()
        assert among <= 2 * own + 2 * tolerance
    assert crowd.evaluations >= 0.8 * alone.evaluations


@pytest.mark.guards("T14")
def test_single_samples_do_not_know_their_batch() -> None:
    sde = ss.VPSDE()
    score, x = mixture(sde), mixture_states(sde, 7, 0.05)
    flow = ss.ProbabilityFlow(sde)
    options = {"divergence": "hutchinson", "probes": 3, "seed": 4}
    whole = flow.log_likelihood(score, x, max_batch=1, **options)
    part = flow.log_likelihood(score, x[:3], max_batch=1, **options)
    assert torch.equal(whole.log_prob[:3], part.log_prob)
    assert torch.equal(whole.standard_error[:3], part.standard_error)
    single = sum(
        flow.log_likelihood(score, x[i : i + 1], **{**options, "divergence": "exact"}).evaluations
        for i in range(7)
    )
    assert flow.log_likelihood(score, x, max_batch=1).evaluations == single
    together = flow.log_likelihood(score, x, **options)
    torch.testing.assert_close(together.log_prob, whole.log_prob, rtol=0, atol=1e-3)
    fixed = ss.ProbabilityFlow(sde, method="rk4", steps=20)
    first, second = (fixed.sample(score, (7, 2), max_batch=n) for n in (None, 2))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


# Hutchinson's estimator, on a score whose Jacobian A is constant: every estimate of the integral
# is c vᵀAv, and the exact one c tr A, with the same c.

A = torch.tensor([[-1.0, 0.5, 0.0], [0.1, -2.0, 0.7], [-0.4, 0.3, 0.5]], dtype=F64)
S = (A + A.T) / 2
OFF = S - S.diag().diag()
VARIANCE = {
    "rademacher": 2 * OFF.square().sum().item(),
    "gaussian": 2 * S.square().sum().item(),
}


def traces(n: int, probes: int, law: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """``n`` estimates of tr A and their reported standard errors."""
    flow = ss.ProbabilityFlow(ss.VESDE(), method="euler", steps=1)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return x @ A.T

    exact = flow.log_likelihood(score, torch.zeros(1, 3, dtype=F64)).log_det.item()
    scale = A.trace().item() / exact
    got = flow.log_likelihood(
        score,
        torch.zeros(n, 3, dtype=F64),
        divergence="hutchinson",
        probes=probes,
        probe_distribution=law,
        seed=seed,
    )
    return (got.log_det * scale).numpy(), (got.standard_error * abs(scale)).numpy()


@pytest.mark.guards("T12")
@pytest.mark.parametrize("law", VARIANCE)
@pytest.mark.parametrize("probes", [1, 4])
def test_hutchinson_variance(law: str, probes: int) -> None:
    """Mean and variance of 40,000 estimates, two-sided at alpha = 1e-6 each (CLT; the variance's
    standard error from the fourth moment)."""
    n = 40_000
    estimates, _ = traces(n, probes, law)
    z, variance = stats.norm.isf(ALPHA / 2), VARIANCE[law] / probes
    assert abs(estimates.mean() - A.trace().item()) < z * math.sqrt(variance / n)
    fourth = ((estimates - estimates.mean()) ** 4).mean()
    error = math.sqrt((fourth - estimates.var() ** 2) / n)
    assert abs(estimates.var() - variance) < z * error
    assert error < 0.03 * variance  # sharp enough to tell the two distributions and K apart


@pytest.mark.guards("T12")
@pytest.mark.parametrize("law", VARIANCE)
def test_the_standard_error_is_that_of_the_mean(law: str) -> None:
    """E[se²] is the variance of the mean over K probes; alpha = 1e-6 by the CLT."""
    _, errors = traces(20_000, 5, law)
    squares = np.nan_to_num(errors) ** 2  # NaN where all five coincide: their spread is 0
    slack = stats.norm.isf(ALPHA / 2) * squares.std() / math.sqrt(len(squares))
    assert abs(squares.mean() - VARIANCE[law] / 5) < slack
    assert slack < 0.1 * VARIANCE[law] / 5
    assert np.isnan(traces(2, 1, law)[1]).all()


def test_probes_follow_the_seed() -> None:
    assert np.array_equal(traces(5, 2, "gaussian", 1)[0], traces(9, 2, "gaussian", 1)[0][:5])
    assert not np.array_equal(traces(5, 2, "gaussian", 1)[0], traces(5, 2, "gaussian", 2)[0])
    x = torch.full((3, 2), 0.3, dtype=F64)  # equal samples, probes of their own
    flow = ss.ProbabilityFlow(ss.VPSDE(), rtol=1e-7, atol=1e-7)
    got = flow.log_likelihood(mixture(ss.VPSDE()), x, divergence="hutchinson", probes=4)
    assert len(got.log_prob.unique()) > 1


def test_probes_are_not_the_samplers_noise() -> None:
    """With ∇s = e₀e₀ᵀ an estimate is c v₀²; it must not be the start of the seed's own chain."""
    sde = ss.VESDE()
    flow = ss.ProbabilityFlow(sde, method="euler", steps=1)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return x * torch.eye(2)[0].to(x)

    zeros = torch.zeros(50, 2, dtype=F64)
    c = flow.log_likelihood(score, zeros).log_det
    options = {"divergence": "hutchinson", "probe_distribution": "gaussian", "seed": 8}
    estimate = flow.log_likelihood(score, zeros, **options).log_det / c
    noise = ss.noise.standard_normal(8, range(50), range(1), (2,))[0, :, 0].double()
    assert not torch.isclose(estimate, noise.square()).any()


def test_rademacher_is_exact_on_a_diagonal_jacobian() -> None:
    sde = ss.SubVPSDE()
    score, x = ss.GaussianScore(M, STD**2, sde), M + torch.randn(4, 3, dtype=F64)
    flow = ss.ProbabilityFlow(sde, rtol=1e-8, atol=1e-8, t_min=0.05)
    exact = flow.log_likelihood(score, x)
    for probes in (3, 21):
        guess = flow.log_likelihood(score, x, divergence="hutchinson", probes=probes)
        torch.testing.assert_close(guess.log_prob, exact.log_prob, rtol=0, atol=1e-6)
        # Three that coincide do not know whether they always do.
        unknown = guess.standard_error.isnan() & guess.margin.isnan()
        assert bool(unknown.all()) if probes == 3 else guess.margin.max() < 1e-10
    wide = flow.log_likelihood(
        score, x, divergence="hutchinson", probes=3, probe_distribution="gaussian"
    )
    assert wide.standard_error.min() > 1e-2


def test_hutchinson_estimates_the_likelihood_of_a_mixture() -> None:
    """Estimates of 200 points with 16 probes: their z scores' mean at alpha = 1e-6."""
    sde = ss.VPSDE()
    score, x = mixture(sde), mixture_states(sde, 200, sde.t_min)
    flow = ss.ProbabilityFlow(sde)
    exact = flow.log_likelihood(score, x)
    guess = flow.log_likelihood(score, x, divergence="hutchinson", probes=16)
    error = (guess.log_prob - exact.log_prob).mean()
    slack = stats.norm.isf(ALPHA / 2) * guess.standard_error.square().mean().sqrt() / 200**0.5
    assert error.abs() < slack + 1e-4


# Networks, shapes, labels, and what is refused.


class Net(nn.Module):
    """Small, smooth, conditional, with dropout that must be off."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 2))
        self.table = nn.Embedding(3, 2)
        self.double()

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        shift = 0 if label is None else self.table(label)
        return self.layers(torch.cat([x + shift, c[:, None]], 1))


def test_a_network_with_labels() -> None:
    model = ss.ScoreModel(Net(), ss.VPSDE())
    flow = ss.ProbabilityFlow(ss.VPSDE(), rtol=1e-9, atol=1e-9, t_min=0.1)
    x, label = torch.randn(5, 2, dtype=F64), torch.tensor([0, 1, 2, 1, 0])
    latent = flow.encode(model, x, label=label, max_batch=2)
    torch.testing.assert_close(flow.decode(model, latent, label=label), x, rtol=0, atol=1e-6)
    result = flow.log_likelihood(model, x, label=label, max_batch=2)
    for i in range(5):  # log |det| of the whole flow map, by finite differences
        rows = torch.cat([torch.eye(2), -torch.eye(2)]).to(F64) * 1e-4 + x[i]
        ends = flow.encode(model, rows, label=label[i].expand(4))
        log_det = torch.linalg.slogdet((ends[:2] - ends[2:]) / 2e-4).logabsdet
        torch.testing.assert_close(result.log_det[i], log_det, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        flow.sample(model, (5, 2), label=label, max_batch=2),
        flow.sample(model, (5, 2), label=label),
        rtol=0,
        atol=1e-6,
    )
    assert not torch.equal(flow.sample(model, (5, 2)), flow.sample(model, (5, 2), label=label))
    assert model.training
    assert model.net.layers[2].training
    with torch.inference_mode():
        inside = flow.log_likelihood(model, x.clone(), label=label.clone(), max_batch=2)
        guess = flow.log_likelihood(model, x.clone(), label=label.clone(), divergence="hutchinson")
    torch.testing.assert_close(inside.log_prob, result.log_prob)
    outside = flow.log_likelihood(model, x, label=label, divergence="hutchinson")
    assert torch.equal(guess.log_prob, outside.log_prob)


@pytest.mark.parametrize("shape", [(3,), (2, 1, 2, 2), (0, 2), (2, 0)])
def test_any_event_shape(shape: tuple[int, ...]) -> None:
    sde = ss.VPSDE()
    flow = ss.ProbabilityFlow(sde, t_min=0.1)
    x = torch.randn(shape)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x  # standard normal data, for which the flow stands still

    assert flow.sample(score, shape).shape == shape
    torch.testing.assert_close(flow.encode(score, x), x, atol=1e-5, rtol=1e-5)
    for divergence in ("exact", "hutchinson"):
        result = flow.log_likelihood(score, x, divergence=divergence)
        expected = ss.sde.Gaussian(torch.zeros(shape), torch.tensor(sde.prior_std() ** 2)).log_prob(
            x
        )
        torch.testing.assert_close(result.log_prob, expected, atol=1e-3, rtol=1e-4)
        assert result.standard_error.shape == shape[:1]


@pytest.mark.parametrize(
    "score", [lambda x, t: -x.detach(), lambda x, t: torch.ones(2, 2, requires_grad=True) * 1]
)
@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_score_without_a_derivative_has_no_likelihood(score, divergence: str) -> None:
    flow = ss.ProbabilityFlow(ss.VPSDE())
    with pytest.raises(ss.errors.IncompatibleError, match="differentiate"):
        flow.log_likelihood(score, torch.zeros(2, 2), divergence=divergence)


class Wiener(ss.SDE):
    T = 1.0

    def drift(self, x: Tensor, t: ss.typing.Time) -> Tensor:
        return torch.zeros_like(x)

    def diffusion(self, t: ss.typing.Time) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("error", "given"),
    [
        (ss.errors.IncompatibleError, {"sde": Wiener()}),
        (ss.errors.IncompatibleError, {"method": "tsit5"}),
        (ss.errors.ParameterError, {"method": "rk4"}),
        (ss.errors.ParameterError, {"method": "rk4", "steps": 0}),
        (ss.errors.ParameterError, {"steps": 10}),
        (ss.errors.ParameterError, {"rtol": 0.0}),
        (ss.errors.ParameterError, {"atol": -1e-3}),
        (ss.errors.ParameterError, {"atol": math.nan}),
        (ss.errors.ParameterError, {"max_evaluations": 0}),
        (ss.errors.ParameterError, {"max_evaluations": 1.5}),
        (ss.errors.ParameterError, {"t_min": -0.1}),
        (ss.errors.ParameterError, {"t_min": 1.0}),
        (ss.errors.ParameterError, {"t_min": math.nan}),
        (ss.errors.ParameterError, {"data_std": -1.0}),
        (ss.errors.ParameterError, {"data_std": math.inf}),
    ],
)
def test_bad_settings_are_refused(error: type[Exception], given: dict[str, object]) -> None:
    with pytest.raises(error, match="expected"):
        ss.ProbabilityFlow(given.pop("sde", ss.VPSDE()), **given)


def untouched(x: Tensor, t: Tensor) -> Tensor:
    raise RuntimeError("the model was called")


@pytest.mark.parametrize(
    ("error", "given"),
    [
        (ss.errors.ShapeError, {"x": torch.zeros(2, 2).half()}),
        (ss.errors.ShapeError, {"x": torch.zeros(2, 2).long()}),
        (ss.errors.ShapeError, {"x": torch.tensor(1.0)}),
        (ss.errors.ShapeError, {"x": [1.0]}),
        (ss.errors.ShapeError, {"model": nn.Linear(2, 2, device="meta")}),
        (ss.errors.ShapeError, {"label": torch.zeros(3).long()}),
        (ss.errors.ParameterError, {"max_batch": 0}),
        (ss.errors.ParameterError, {"probes": 0}),
        (ss.errors.ParameterError, {"probes": 2.5}),
        (ss.errors.ParameterError, {"seed": 0.5}),
        (ss.errors.IncompatibleError, {"divergence": "approximate"}),
        (ss.errors.IncompatibleError, {"probe_distribution": "cauchy"}),
        (ss.errors.IncompatibleError, {"model": 3}),
        (ss.errors.IncompatibleError, {"model": mixture(ss.VESDE())}),
    ],
)
def test_bad_requests_are_refused(error: type[Exception], given: dict[str, object]) -> None:
    model, x = given.pop("model", untouched), given.pop("x", torch.zeros(2, 2))
    with pytest.raises(error, match="expected"):
        ss.ProbabilityFlow(ss.VPSDE()).log_likelihood(model, x, **given)


@pytest.mark.parametrize("denoise", ["flow", 1, None])
def test_an_ending_it_does_not_have(denoise: object) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="expected denoise to be True or False"):
        ss.ProbabilityFlow(ss.VPSDE()).sample(untouched, (2, 2), denoise=denoise)


def test_a_score_of_another_shape_is_refused() -> None:
    with pytest.raises(ss.errors.ShapeError, match="shape"):
        ss.ProbabilityFlow(ss.VPSDE()).encode(lambda x, t: x[:1], torch.zeros(2, 2))


@pytest.mark.guards("T13")
def test_bits_per_dim() -> None:
    """A discretised normal: the mass of a level is density times the level's width."""
    levels, width = 1024, 8.0
    edges = np.linspace(-width / 2, width / 2, levels + 1)
    mass = np.diff(stats.norm.cdf(edges))
    middle = torch.tensor((edges[1:] + edges[:-1]) / 2)
    log_prob = torch.tensor(stats.norm.logpdf(middle.numpy()))
    bits = ss.bits_per_dim(log_prob, 1, levels=levels, width=width)
    np.testing.assert_allclose(bits.numpy(), -np.log2(mass), atol=1e-4)
    both = ss.bits_per_dim(2 * log_prob, 2, levels=levels, width=width)
    torch.testing.assert_close(both, bits)
    for bad in ({"numel": 0}, {"levels": 0}, {"levels": 2.5}, {"width": 0.0}, {"width": math.nan}):
        with pytest.raises(ss.errors.ParameterError, match="expected"):
            ss.bits_per_dim(log_prob, **{"numel": 1, "levels": 256, "width": 2.0, **bad})


# How sure a likelihood is.


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 20, 61])
def test_students_quantiles_are_scipys(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-12)


@pytest.mark.parametrize("probes", [2, 5])
def test_the_margin_covers_what_it_says(probes: int) -> None:
    """95 % of 4,000 intervals hold the exact value, within 2 % (binomial, alpha = 1e-8).

    Gaussian probes in d = 24 give estimates that are nearly normal.
    """
    sde, n, d = ss.VESDE(), 4000, 24
    flow = ss.ProbabilityFlow(sde, method="euler", steps=1)
    weights = torch.linspace(0.5, 1.0, d, dtype=F64)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -weights * x

    x = torch.zeros(n, d, dtype=F64)
    exact = flow.log_likelihood(score, x[:1]).log_prob
    got = flow.log_likelihood(
        score, x, divergence="hutchinson", probes=probes, probe_distribution="gaussian", seed=3
    )
    inside = ((got.log_prob - exact).abs() <= got.margin).double().mean().item()
    assert inside == pytest.approx(0.95, abs=0.02)


def test_two_probes_that_coincide_know_nothing() -> None:
    """In d = 2 Rademacher probes are equal, up to their sign, in half of the samples."""
    sde = ss.VPSDE()
    flow = ss.ProbabilityFlow(sde, method="euler", steps=3)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return x @ torch.tensor([[-1.0, 0.9], [0.9, -1.0]], dtype=F64)

    x = torch.zeros(400, 2, dtype=F64)
    got = flow.log_likelihood(score, x, divergence="hutchinson", probes=2)
    off = (got.log_prob - flow.log_likelihood(score, x).log_prob).abs()
    unknown = got.standard_error.isnan()
    assert 0.3 < unknown.double().mean() < 0.7
    assert bool((off[unknown] > 0.1).all())  # a standard error of 0 would have been wrong
    assert bool((off[~unknown] <= got.margin[~unknown]).all())


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_a_likelihood_under_autocast(divergence: str) -> None:
    """The network rounds to bfloat16, 8 bits; the flow's own arithmetic does not."""
    torch.manual_seed(0)
    sde = ss.VPSDE()
    model, x = ss.ScoreModel(ss.MLP(2), sde), torch.randn(5, 2)
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    flow = ss.ProbabilityFlow(sde, method="rk4", steps=20)
    plain = flow.log_likelihood(model, x, divergence=divergence, probes=3)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = flow.log_likelihood(model, x, divergence=divergence, probes=3)
        exact = flow.log_likelihood(ss.GaussianScore([0.0, 0.0], 1.0, sde), torch.zeros(1, 2))
    assert mixed.log_prob.dtype == torch.float32
    torch.testing.assert_close(mixed.log_prob, plain.log_prob, rtol=0, atol=0.1)
    assert exact.log_prob.item() == pytest.approx(-math.log(2 * math.pi), abs=1e-3)
