"""DDPM's variances: fixed small, fixed large, and learned by the network."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.noise.sources import ReplayNoise
from sdescore.score.mixture import GaussianScore
from sdescore.score.variance import with_variance

diffusers = pytest.importorskip("diffusers")

DOUBLE = torch.float64
N, SHAPE = 30, (3, 2, 4, 4)
NAMES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "learned_range": "learned_range",
}


class Both(nn.Module):
    """Smooth functions of state, level and label: a prediction, and v beyond [−1, 1] at times."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, 0.8, -0.4], dtype=DOUBLE))

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        a, b, d = self.weight
        c = c.reshape(-1, *(1,) * (x.ndim - 1)) / N
        shift = 0 if label is None else label.reshape(c.shape) - 1.0
        v = 1.2 * torch.cos(2 * x - c + shift)
        return torch.cat([torch.sin(a * x + b * c + d * shift), v], 1)


def model_of(scheduler, prediction: str = "epsilon") -> ss.ScoreModel:
    sde = ss.DiscreteVPSDE(betas=scheduler.betas.double())
    return ss.ScoreModel(ss.nets.LearnedVariance(Both()), sde, prediction, "continuous_level")


def sampler_of(sde: ss.LinearSDE, variance: str, steps: int | None = None, **options):
    return ss.PredictorCorrector(sde, predictor=ss.Ancestral(variance), steps=steps, **options)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("variance_type", NAMES)
def test_chains_of_diffusers(variance_type: str, prediction: str, clip: bool) -> None:
    """The same noise, ≤ 1e-5."""
    scheduler = diffusers.DDPMScheduler(
        N, 1e-3, 0.2, variance_type=variance_type, clip_sample=clip, prediction_type=prediction
    )
    model = model_of(scheduler, {"epsilon": "epsilon", "v_prediction": "v"}[prediction])
    z = torch.randn(N, *SHAPE, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    x, draws = z[0].clone(), torch.Generator().manual_seed(0)
    torch.randn(SHAPE, dtype=DOUBLE, generator=draws)  # the start
    scheduler.set_timesteps(N)
    for i in scheduler.timesteps:
        with torch.no_grad():
            output = model.net.net(x, i.expand(len(x)))
        if variance_type != "learned_range":
            output = output[:, : SHAPE[1]]
        x = scheduler.step(output, i, x, generator=draws).prev_sample
    score = ss.guidance.clipped(model) if clip else model
    sampler = sampler_of(model.sde, NAMES[variance_type])
    got = sampler.sample(score, init=z[0], noise=ReplayNoise(z), dtype=DOUBLE)
    assert (got - x).abs().max() < 1e-5


@pytest.mark.parametrize("steps", [None, 7])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.filterwarnings("ignore::sdescore.errors.StepsWarning")
def test_the_papers_loop(variance: str, steps: int | None) -> None:
    """Ho et al. 2020, algorithm 2, with σ² of section 3.2; Nichol & Dhariwal 2021, eqs. 15, 19."""
    beta = torch.linspace(1e-3, 0.2, N, dtype=DOUBLE)
    model = model_of(diffusers.DDPMScheduler(trained_betas=beta.numpy()))
    model = ss.ScoreModel(model.net, ss.DiscreteVPSDE(betas=beta), "epsilon", "continuous_level")
    sampler = sampler_of(model.sde, variance, steps)
    levels = [round(model.sde.level(t).item()) for t in sampler.times]
    z = torch.randn(len(levels), *SHAPE, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    bar = (1 - beta).cumprod(0)
    x = z[0]
    for n, i in enumerate(levels):
        with torch.no_grad():
            epsilon, v = model.net.net(x, torch.full((3,), float(i), dtype=DOUBLE)).chunk(2, 1)
        before = bar[levels[n + 1]] if n + 1 < len(levels) else torch.ones((), dtype=DOUBLE)
        b = 1 - bar[i] / before
        x = (x - b / (1 - bar[i]).sqrt() * epsilon) / (1 - b).sqrt()
        if n + 1 < len(levels):
            small = (1 - before) / (1 - bar[i]) * b
            share = (v + 1) / 2
            log = {
                "fixed_small": small.log(),
                "fixed_large": b.log(),
                "learned_range": share * b.log() + (1 - share) * small.log(),
            }[variance]
            x = x + (0.5 * log).exp() * z[n + 1]
    got = sampler.sample(model, init=z[0], noise=ReplayNoise(z), dtype=DOUBLE)
    torch.testing.assert_close(got, x, rtol=1e-10, atol=1e-11)


def test_score_sdes_ancestral_step_is_the_large_one() -> None:
    """x ← (x + β s)/√(1 − β) + √β z."""
    sde = ss.DiscreteVPSDE.linear(N, 1e-3, 0.2)
    score = GaussianScore([0.3, -0.2], 0.5, sde)
    x, z = torch.randn(2, 4, 2, dtype=DOUBLE)
    t, s = sde.level_times()[[12, 11]].tolist()
    b = sde.betas[12]
    want = (x + b * score(x, t)) / math.sqrt(1 - b) + math.sqrt(b) * z
    got = ss.Ancestral("fixed_large").step(sde, x, lambda y: score(y, t), t, s, z)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["fixed_small", "fixed_large"])
def test_a_learned_variance_at_its_ends_is_a_fixed_one(name: str) -> None:
    """v = −1 is the small variance, v = 1 the large one; on VE too, where σ_s is 0 at the end."""
    end = -1.0 if name == "fixed_small" else 1.0
    for sde in (ss.VESDE(sigma_min=0.02, sigma_max=5.0), ss.VPSDE()):
        score = GaussianScore([0.3, -0.2], 0.5, sde)

        class AtOne(nn.Module):
            score = GaussianScore([0.3, -0.2], 0.5, sde)

            def forward(self, x: Tensor, t: Tensor) -> Tensor:
                return self.score(x, t)

            def with_variance(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
                return self.score(x, t), torch.full_like(x, end)

        options = {"steps": 40, "grid": ss.LogSNRGrid()}
        learned = sampler_of(sde, "learned_range", **options).sample(AtOne(), (5, 2), dtype=DOUBLE)
        fixed = sampler_of(sde, name, **options).sample(score, (5, 2), dtype=DOUBLE)
        torch.testing.assert_close(learned, fixed, rtol=1e-9, atol=1e-10)


def test_no_noise_at_the_data() -> None:
    """σ_s = 0: the small variance is 0, and so is the learned one for every v < 1."""
    sde, x = ss.VPSDE(), torch.randn(4, 2, dtype=DOUBLE)

    class Score:
        def __call__(self, y: Tensor) -> Tensor:
            return -y

        def with_variance(self, y: Tensor) -> tuple[Tensor, Tensor]:
            return -y, torch.zeros_like(y)

    step = ss.Ancestral("learned_range").step
    ends = [step(sde, x, Score(), 0.1, 0.0, f * torch.ones_like(x)) for f in (0.0, 1.0)]
    assert torch.equal(*ends) and ends[0].isfinite().all()


def test_guidance_keeps_the_variance() -> None:
    """Clipping changes the mean alone; classifier-free guidance takes v of the conditional one."""
    model = model_of(diffusers.DDPMScheduler(N, 1e-3, 0.2))
    x, t = torch.randn(SHAPE, dtype=DOUBLE), torch.tensor(0.5, dtype=DOUBLE)
    label = torch.tensor([0, 1, 2])
    s, v = with_variance(model, x, t, label)
    torch.testing.assert_close(s, model(x, t, label), rtol=1e-12, atol=0)
    raw = model.net.net(x, torch.full((3,), N * 0.5 - 1.0, dtype=DOUBLE), label)
    torch.testing.assert_close(v, raw[:, 2:], rtol=1e-12, atol=0)
    for score in (
        ss.guidance.clipped(model),
        ss.classifier_free(model, model, 2.0),
        ss.guidance.clipped(ss.classifier_free(model, model, 2.0)),
    ):
        guided, same = with_variance(score, x, t, label)
        assert torch.equal(same, v) and torch.equal(guided, score(x, t, label))
    one = ss.guidance.condition(model, 2)
    guided, same = with_variance(one, x, t)
    assert torch.equal(guided, one(x, t))
    assert torch.equal(same[2], v[2]) and not torch.equal(same[0], v[0])
    sampler = sampler_of(model.sde, "learned_range", steps=5)
    assert (
        sampler.sample(ss.classifier_free(model, model, 2.0), SHAPE, label=label).isfinite().all()
    )


def test_networks_of_the_field() -> None:
    """ADM's and diffusers' networks with twice the channels have a variance, others have none."""
    options = {"size": 8, "width": 32, "multipliers": (1,), "blocks": 1, "attention": ()}
    c = torch.tensor([3.0, 7.0])
    x = torch.randn(2, 3, 8, 8)
    adm = ss.nets.ADM(**options, learned_variance=True)
    for parameter in adm.parameters():
        nn.init.normal_(parameter, std=0.1)
    unets = [
        diffusers.UNet2DModel(
            sample_size=8, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1,
            out_channels=channels, down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
        )
        for channels in (6, 3)
    ]  # fmt: skip
    scheduler = diffusers.DDPMScheduler(N, 1e-3, 0.2)
    learned, plain = (ss.load_diffusers(unet, scheduler) for unet in unets)
    with torch.no_grad():
        for net, whole in ((adm, adm.full(x, c)), (learned.net, unets[0](x, c).sample)):
            y, v = net.with_variance(x, c)
            assert torch.equal(y, whole[:, :3]) and torch.equal(v, whole[:, 3:])
            assert torch.equal(y, net(x, c))
    sampler = sampler_of(learned.sde, "learned_range", steps=4)
    assert sampler.sample(learned, (2, 3, 8, 8)).isfinite().all()
    small = ss.ScoreModel(ss.nets.ADM(**options), learned.sde, "epsilon", "continuous_level")
    for model in (plain, small):
        with pytest.raises(
            IncompatibleError, match="learned variance for variance='learned_range'"
        ):
            sampler.sample(model, (2, 3, 8, 8))


def test_samples_do_not_depend_on_chunks_and_iterate_agrees() -> None:
    model = model_of(diffusers.DDPMScheduler(N, 1e-3, 0.2))
    sampler = sampler_of(model.sde, "learned_range", corrector=ss.Langevin(snr=0.05), steps=6)
    whole = sampler.sample(model, SHAPE, seed=4)
    assert torch.equal(sampler.sample(model, SHAPE, seed=4, max_batch=1), whole)
    *_, before, last = sampler.iterate(model, SHAPE, seed=4)
    assert torch.equal(last.x, whole)
    torch.testing.assert_close(before.denoised.shape, whole.shape)
    again = copy.deepcopy(sampler)
    assert again == sampler and torch.equal(again.sample(model, SHAPE, seed=4), whole)
    assert sampler.predictor.evaluations == sampler.predictor.noises == 1
    assert sampler.evaluations == 6 + 5  # no correction after the last denoise


def test_refusals() -> None:
    model = model_of(diffusers.DDPMScheduler(N, 1e-3, 0.2))
    with pytest.raises(IncompatibleError, match="variance among fixed_small, fixed_large, learned"):
        ss.Ancestral("learned")
    sampler = sampler_of(model.sde, "learned_range", steps=4)
    calls = []
    plain = ss.ScoreModel(
        lambda x, c: calls.append(x) or x, model.sde, "epsilon", "continuous_level"
    )
    for score in (plain, GaussianScore([0.0], 1.0, model.sde), ss.guidance.clipped(plain)):
        with pytest.raises(IncompatibleError, match=r"ss.nets.LearnedVariance\(net\)"):
            sampler.sample(score, (2, 1))
    assert not calls
    with pytest.raises(IncompatibleError, match=r"a score with with_variance\(x\)"):
        sampler.predictor.step(model.sde, torch.ones(1, 1), lambda x: x, 0.5, 0.4, torch.ones(1, 1))
    with pytest.raises(IncompatibleError, match="affine"):
        ss.samplers.pure_function(sampler, model, SHAPE)
    wrong = ss.nets.LearnedVariance(lambda x, c: x)
    with pytest.raises(ShapeError, match=r"twice the channels of an input \(2, 3\), \(2, 6\)"):
        wrong(torch.ones(2, 3), torch.ones(2))
    with pytest.raises(ShapeError, match="twice the channels"):
        wrong(torch.ones(2), torch.ones(2))
    with pytest.raises(IncompatibleError, match="returns a tensor; got NoneType"):
        ss.nets.LearnedVariance(lambda x, c: None)(torch.ones(2, 3), torch.ones(2))

    class Odd(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            return x

        def with_variance(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            return x, x[:, :1]

    odd = ss.ScoreModel(Odd(), model.sde, "epsilon", "continuous_level")
    with pytest.raises(ShapeError, match="the learned variance to return its input's shape"):
        sampler.sample(odd, (2, 3))


def test_a_predictor_that_does_not_say_that_it_needs_a_variance() -> None:
    class Forgetful(ss.Predictor):
        order = 1

        def step(self, sde, x, score, t, s, z):
            return score.with_variance(x)[0]

    model = model_of(diffusers.DDPMScheduler(N, 1e-3, 0.2))
    sampler = ss.PredictorCorrector(model.sde, predictor=Forgetful(), steps=3)
    with pytest.raises(IncompatibleError, match="needs_variance = True of a predictor"):
        sampler.sample(model, SHAPE)


def test_both_fixed_variances_have_order_one_and_one_limit() -> None:
    """Against the reverse SDE's exact marginal: the error halves with the step."""
    sde, spectrum = ss.VPSDE(beta_min=0.5, beta_max=5.0), torch.tensor([0.3], dtype=DOUBLE)
    for variance in ("fixed_small", "fixed_large"):
        order = ss.analysis.order(ss.Ancestral(variance), sde, steps=512)
        assert abs(order - 1) < 0.1
        sampler = sampler_of(sde, variance, 2000, grid=ss.UniformGrid())
        error = ss.analysis.gaussian_error(sampler, spectrum)
        assert abs(error.variance / error.exact_variance - 1) < 0.02
