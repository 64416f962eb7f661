"""Tables of β that end in pure noise: Lin et al. 2024, arXiv:2305.08891."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss

N = 40
PLAIN = ss.DiscreteVPSDE.linear(levels=N, beta_start=2e-3, beta_end=0.2)
TABLE = ss.sde.rescale_zero_terminal_snr(PLAIN.betas)
SDE = ss.DiscreteVPSDE(betas=TABLE)
MEAN, VARIANCE = 2.0, 0.25


class Gaussian(torch.nn.Module):
    """The exact prediction of a kind for data N(2, ¼), by the normal regression of x₀ on x_t."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        time = (level.double() + 1) / N
        alpha, sigma = (v.reshape(-1, *(1,) * (x.ndim - 1)) for v in SDE.marginal(time))
        variance = alpha**2 * VARIANCE + sigma**2
        x0 = MEAN + alpha * VARIANCE / variance * (x - alpha * MEAN)
        epsilon = sigma / variance * (x - alpha * MEAN)
        kinds = {"v": alpha * epsilon - sigma * x0, "x0": x0, "epsilon": epsilon}
        kinds["score"] = -(x - alpha * MEAN) / variance
        return kinds[self.kind].to(x)


def model(kind: str = "v") -> ss.ScoreModel:
    return ss.ScoreModel(Gaussian(kind), SDE, kind, "continuous_level")


def test_the_table_is_algorithm_1() -> None:
    """√ᾱ is moved and scaled so that the first stays and the last is 0."""
    old, new = ((1 - torch.tensor(b)).double().cumprod(0).sqrt() for b in (PLAIN.betas, SDE.betas))
    slope = (new[1:] - new[:-1]) / (old[1:] - old[:-1])
    assert torch.allclose(slope, torch.full_like(slope, slope[0].item()), rtol=1e-4)
    assert new[0] == pytest.approx(old[0].item()) and new[-1] == 0 and TABLE[-1] == 1


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_the_table_is_that_of_diffusers(schedule: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    rescale = diffusers.schedulers.scheduling_ddim.rescale_zero_terminal_snr
    betas = diffusers.DDIMScheduler(beta_schedule=schedule).betas.double()
    assert torch.allclose(ss.sde.rescale_zero_terminal_snr(betas), rescale(betas), atol=1e-12)


@pytest.mark.parametrize("betas", [[0.1], [0.1, 1.0], [0.0, 0.1], [], [math.nan, 0.2]])
def test_tables_that_cannot_be_moved(betas: list[float]) -> None:
    with pytest.raises(ss.errors.ScheduleError):
        ss.sde.rescale_zero_terminal_snr(betas)


def test_only_the_last_beta_may_be_one() -> None:
    assert ss.DiscreteVPSDE(betas=(0.5, 1.0)).marginal(1.0)[0] == 0
    assert ss.DiscreteVPSDE(betas=(1.0,)).marginal(1.0)[1] == 1
    for betas in ((1.0, 0.5), (0.5, 1.0, 1.0), (0.5, 1.1)):
        with pytest.raises(ss.errors.ScheduleError, match="of which the last may be 1"):
            ss.DiscreteVPSDE(betas=betas)


def test_the_levels_are_the_products() -> None:
    alpha, sigma = SDE.marginal(SDE.level_times())
    bar = (1 - TABLE).cumprod(0)
    assert torch.allclose(alpha, bar.sqrt(), atol=1e-15)
    assert torch.allclose(sigma, (1 - bar).sqrt())
    assert SDE.log_snr(1.0) == -math.inf and SDE.time_at_log_snr(-math.inf) == 1
    with pytest.raises(ss.errors.TimeError):
        ss.DiscreteVPSDE(betas=(0.5, 0.9)).time_at_log_snr(-math.inf)


def test_the_last_cell_is_smooth_and_consistent() -> None:
    """α falls to 0, its logarithm's derivative is f, also across t_{N−1}, and kernels compose."""
    t = torch.linspace(1 - 2 / N, 1 - 1e-6, 4001, dtype=torch.float64)
    alpha = SDE.marginal(t)[0]
    assert (alpha.diff() < 0).all() and alpha[-1] < 1e-5
    middle = 0.5 * (t[1:] + t[:-1])
    f, g2 = SDE.rates(middle)
    inside = middle < 1 - 1e-3
    slope = (alpha.log().diff() / t.diff())[inside]
    assert torch.allclose(slope, f[inside], rtol=1e-3)
    assert torch.allclose(g2, -2 * f)
    gap = (f[1:] - f[:-1])[(middle[1:] - (1 - 1 / N)).abs() < 1e-4].abs().max()
    assert gap < 0.05 * f.abs()[inside].min()
    r, s = 1 - 1.3 / N, torch.tensor([1 - 0.8 / N, 1 - 1e-7, 1.0], dtype=torch.float64)
    first, second, whole = SDE.transition(r, s), SDE.transition(s, 1.0), SDE.transition(r, 1.0)
    assert torch.allclose(first.scale * second.scale, whole.scale.expand(3), atol=1e-12)
    variance = second.scale.square() * first.variance + second.variance
    assert torch.allclose(variance, torch.ones(3, dtype=torch.float64))
    assert second.scale[-1] == 1 and second.variance[-1] == 0


PREDICTORS = [
    ss.DDIM(),
    ss.DDIM(eta=0.6),
    ss.Ancestral(),
    *(ss.ExponentialAdams(points=p) for p in (1, 2, 3)),
    ss.ExponentialAdams(midpoint=True),
    ss.ExponentialAdams(corrector_points=3),
    ss.ExponentialAdams(eta=0.6),
]


@pytest.mark.parametrize("predictor", PREDICTORS, ids=repr)
def test_the_first_step_starts_from_noise_alone(predictor: ss.Predictor) -> None:
    r"""x_s = α_s x̂₀ + σ_s (√(1 − η²) ε + η z) at α_t = 0, for every method: x_T says nothing."""
    times = torch.tensor([1.0, 0.7], dtype=torch.float64)
    table = predictor.tableau(SDE, times)
    alpha, sigma = SDE.marginal(0.7)
    eta = predictor.eta
    # The exact solution's noise at η: DDIM's share η of the bridge, or all of it after λ = −∞.
    bridge = isinstance(predictor, (ss.DDIM, ss.Ancestral))
    noise = eta if bridge else float(eta > 0)
    assert table.output == "x0"
    assert table.a[0, 0] == pytest.approx(sigma.item() * math.sqrt(1 - noise**2), abs=1e-12)
    assert table.b[0, 0, 0] == pytest.approx(alpha.item())
    assert table.c[0, 0].sum() == pytest.approx(sigma.item() * noise)


@pytest.mark.parametrize("predictor", PREDICTORS, ids=repr)
@pytest.mark.parametrize("kind", ["v", "x0"])
def test_samples_have_the_datas_mean_and_variance(predictor: ss.Predictor, kind: str) -> None:
    """20,000 samples: five standard errors are 0.02 of the mean (1 in 10⁶) and 0.01 of the
    variance, to which the N = 40 steps of a method of first order add at most 0.05."""
    sampler = ss.PredictorCorrector(SDE, predictor)
    assert sampler.times[0] == 1 and sampler.start_std == 1
    x = sampler.sample(model(kind), (20_000, 1))
    assert abs(x.mean() - MEAN) < 0.02 + 0.01
    assert abs(x.var() - VARIANCE) < 0.06


def test_the_steps_after_the_first_are_as_on_any_table() -> None:
    """An output at λ = −∞ has no weight in a line through two, and DDIM's forms agree."""
    times = SDE.level_times().flip(0)[:4]
    table = ss.ExponentialAdams(points=2).tableau(SDE, times)
    first_order = ss.ExponentialAdams(points=1).tableau(SDE, times)
    assert torch.allclose(table.b[1, 0, 0], first_order.b[1, 0, 0], rtol=1e-6)
    assert abs(table.b[1, 0, 1]) < 1e-8 < abs(table.b[2, 0, 1])
    on_score = ss.DDIM(0.4).tableau(SDE, times[1:])
    on_x0 = ss.DDIM(0.4).tableau(SDE, times)
    alpha, sigma = SDE.marginal(times[1:-1])
    # s = (α x̂₀ − x)/σ².
    weight = on_score.b[:, 0, 0] / sigma.square()
    assert torch.allclose(on_x0.b[1:, 0, 0], weight * alpha)
    assert torch.allclose(on_x0.a[1:, 0], on_score.a[:, 0] - weight)
    ancestral = ss.Ancestral().tableau(SDE, times), ss.DDIM(1.0).tableau(SDE, times)
    assert torch.allclose(ancestral[0].b, ancestral[1].b)
    assert torch.allclose(ancestral[0].a, ancestral[1].a, atol=1e-12)


@pytest.mark.parametrize("score", [model("epsilon"), model("score"), None])
def test_a_score_does_not_say_the_data_at_the_last_level(score: Any) -> None:
    """Refused before the first call; the levels below it work."""
    exact = ss.GaussianScore(torch.full((1,), MEAN), VARIANCE, SDE) if score is None else score
    with pytest.raises(ss.errors.TimeError, match=r"alpha_t > 0 for a model.*t = 1"):
        ss.PredictorCorrector(SDE, ss.DDIM(), steps=5).sample(exact, (2, 1))
    below = ss.PredictorCorrector(SDE, ss.DDIM(), grid=SDE.level_times().flip(0)[1:])
    assert abs(below.sample(exact, (5000, 1)).mean() - MEAN) < 0.1
    if isinstance(score, ss.ScoreModel):
        with pytest.raises(ss.errors.TimeError, match="alpha_t, sigma_t > 0 to get x0"):
            score.denoise(torch.zeros(1, 1), 1.0)


@pytest.mark.parametrize(
    "predictor",
    [
        ss.Heun(),
        ss.predictors.RungeKutta4(),
        ss.EulerMaruyama(),
        ss.StochasticHeun(),
        ss.ExponentialAdams(output="epsilon"),
        ss.ExponentialRungeKutta(),
        ss.ExponentialRungeKutta(stages=3, output="epsilon"),
    ],
    ids=repr,
)
def test_methods_without_a_limit_are_refused(predictor: ss.Predictor) -> None:
    with pytest.raises(ss.errors.ScheduleError, match=r"alpha_t"):
        ss.PredictorCorrector(SDE, predictor, steps=5)


def test_what_needs_a_finite_log_snr_says_so() -> None:
    for prediction, time_input in (("F", None), ("v", "log_snr")):
        with pytest.raises(ss.errors.IncompatibleError, match="alpha_T > 0 for time_input"):
            ss.ScoreModel(ss.MLP(2), SDE, prediction, time_input)
    score = ss.ScoreModel(ss.MLP(2, hidden=8), SDE, "F", "t")
    assert score(torch.zeros(2, 2), 1.0).isfinite().all()
    with pytest.raises(ss.errors.ScheduleError, match=r"alpha_T = 0 use LevelGrid\(\)"):
        ss.PredictorCorrector(SDE, grid=ss.LogSNRGrid(), steps=5)


def test_the_loss_teaches_the_last_level() -> None:
    """½‖y − v‖² with v = αε − σx₀, −x₀ at T; and ½‖y − ε‖² of ε, both by hand."""
    x0, noise = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1.0, 1.0, 0.5, 0.975, 0.1, 1.0], dtype=torch.float64)
    alpha, sigma = (v.float()[:, None] for v in SDE.marginal(t))
    y = 0.3 * torch.ones(6, 3)
    targets = {"v": alpha * noise - sigma * x0, "epsilon": noise}
    for kind, target in targets.items():
        net = ss.ScoreModel(lambda x, c: torch.full_like(x, 0.3), SDE, kind, "continuous_level")
        loss = ss.denoising_loss(net, x0, t=t, noise=noise).per_sample
        assert torch.allclose(loss, 0.5 * (y - target).square().sum(1), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:expected data of mean near 0")
def test_training_finds_the_mean_of_the_data_at_the_last_level() -> None:
    """A table that ends in noise asks x̂₀ = E[x₀] there, and the network learns it."""
    data = 2 + 0.5 * torch.randn(512, 2, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    net = ss.ScoreModel(ss.MLP(2, hidden=32), SDE, "v", "t")
    ss.train(net, data, steps=400, standardize=False, progress=False)
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(2))
    assert (net.denoise(x, 1.0).mean(0) - data.mean(0)).abs().max() < 0.3


def test_the_likelihood_is_finite() -> None:
    """The log density of x_{t_min}, Gaussian, by the flow from T itself, where x is noise."""
    flow = ss.ProbabilityFlow(SDE, rtol=1e-6, atol=1e-6)
    alpha, sigma = SDE.marginal(SDE.t_min)
    x = torch.tensor([[1.5], [2.0], [3.1]], dtype=torch.float64)
    expected = torch.distributions.Normal(
        alpha * MEAN, (alpha**2 * VARIANCE + sigma**2).sqrt()
    ).log_prob(x[:, 0])
    assert flow.interval[1] == 1
    assert torch.allclose(flow.log_likelihood(model(), x).log_prob, expected, atol=1e-3)
    assert torch.allclose(flow.decode(model(), flow.encode(model(), x)), x, atol=1e-4)
    exact = ss.GaussianScore(torch.full((1,), MEAN), VARIANCE, SDE)
    for score, kind in ((model("epsilon"), "epsilon"), (model("score"), "score"), (exact, "score")):
        with pytest.raises(ss.errors.TimeError, match=f"alpha_t = 0 at t = 1; got .* {kind}"):
            flow.log_likelihood(score, x)
    below = ss.ProbabilityFlow(SDE, method="rk4", grid=SDE.level_times().flip(0)[1:])
    assert (below.log_likelihood(exact, x).log_prob - expected).abs().max() < 0.1


def test_a_checkpoint_and_a_repr(tmp_path: Any) -> None:
    net = ss.ScoreModel(ss.MLP(2, hidden=8), SDE, "v", "t")
    ss.save(tmp_path / "m.safetensors", net)
    assert ss.load(tmp_path / "m.safetensors").sde == SDE
    assert eval(repr(SDE), {"DiscreteVPSDE": ss.DiscreteVPSDE}) == SDE
