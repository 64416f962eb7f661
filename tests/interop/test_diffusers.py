"""Networks of diffusers: scores by the original's formulas, samples by its own loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sdescore as ss
from tests.helpers.diffusers import SHAPE, noise, unet

diffusers = pytest.importorskip("diffusers")


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_score_at_every_level_is_the_originals(kind: str, schedule: str) -> None:
    """−ε̂/√(1 − ᾱ), with ε̂ from the output by the definition of each prediction."""
    options = {"prediction_type": kind, "beta_schedule": schedule}
    scheduler, net, x = diffusers.DDPMScheduler(**options), unet(), noise()
    model = ss.load_diffusers(net, scheduler)
    for level in (0, 1, 17, 500, 999):
        with torch.no_grad():
            y = net(x, level).sample.double()
        cumulative = scheduler.alphas_cumprod[level].double()
        alpha, sigma = cumulative.sqrt(), (1 - cumulative).sqrt()
        epsilon = {
            "epsilon": y,
            "sample": (x - alpha * y) / sigma,
            "v_prediction": alpha * y + sigma * x,
        }[kind]
        t = model.sde.level_times()[level]
        with torch.no_grad():
            found = model(x, t).double()
        scale = (epsilon / sigma).abs().max()
        # diffusers' table is float32: near level 0 its 1 − ᾱ has four digits.
        assert (found + epsilon / sigma).abs().max() < (2e-3 if level < 2 else 1e-4) * scale


def test_a_network_in_bfloat16_gets_levels_that_bfloat16_cannot_hold() -> None:
    """997 would become 996, whose ε̂ is another: the original embeds its level in float32."""
    net, x = unet().bfloat16(), noise().bfloat16()
    model = ss.load_diffusers(net, diffusers.DDPMScheduler())
    with torch.no_grad():
        for level in (997, 501, 333):
            theirs, other = (net(x, n).sample.float() for n in (level, level - 1))
            found = model.epsilon(x, model.sde.level_times()[level]).float()
            assert torch.equal(found, theirs) and not torch.equal(found, other)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler"])
def test_samples_are_those_of_the_originals_loop(kind: str) -> None:
    """From the same noise; the DDPM's own noises are handed on, and its last step has none."""
    scheduler, net = getattr(diffusers, kind)(clip_sample=False), unet()
    model, steps = ss.load_diffusers(net, scheduler), 10
    scheduler.set_timesteps(steps)
    levels = scheduler.timesteps
    x, generator = noise(), torch.Generator().manual_seed(5)
    draws = [torch.randn(SHAPE, generator=generator) for _ in range(steps - 1)]
    state, again = x.clone(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for level in levels:
            y = net(state, level).sample
            state = scheduler.step(y, level, state, generator=again).prev_sample
    predictor = ss.DDIM() if kind == "DDIMScheduler" else ss.Ancestral()
    grid = ss.CustomGrid(model.sde.level_times()[levels].tolist())
    sampler = ss.PredictorCorrector(model.sde, predictor=predictor, grid=grid)

    replayed = ss.noise.ReplayNoise(torch.stack([x, *draws]))
    options = {"noise": replayed} if kind == "DDPMScheduler" else {"init": x}
    found = sampler.sample(model, SHAPE, **options)
    assert (found - state).abs().max() < 2e-3 * state.abs().max()


def test_a_folder_and_a_pipeline(tmp_path: Path) -> None:
    scheduler, net, x = diffusers.DDPMScheduler(num_train_timesteps=50), unet(), noise()
    pipeline = diffusers.DDPMPipeline(net, scheduler)
    pipeline.save_pretrained(tmp_path)
    expected = ss.load_diffusers(net, scheduler)(x, 0.5)
    for source in (pipeline, tmp_path, str(tmp_path)):
        model = ss.load_diffusers(source)
        assert model.sde == ss.DiscreteVPSDE(betas=scheduler.betas.double().tolist())
        assert torch.equal(model(x, 0.5), expected) and not model.training
    index = tmp_path / "model_index.json"
    entries = json.loads(index.read_text())
    index.write_text(json.dumps({**entries, "unet": ["os", "system"]}))
    with pytest.raises(ss.errors.CheckpointError, match="a unet of diffusers"):
        ss.load_diffusers(tmp_path)
    with pytest.raises(FileNotFoundError, match="a folder of diffusers"):
        ss.load_diffusers(tmp_path / "nothing")


def test_the_score_of_a_variance_exploding_network() -> None:
    """ScoreSdeVePipeline calls its network with σ, and takes the output for the score."""
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.02, sigma_max=40.0)
    net, x, sigma = unet(), noise(), torch.tensor([3.0, 0.5])
    model = ss.load_diffusers(net, scheduler)
    assert model.sde == ss.VESDE(sigma_min=0.02, sigma_max=40.0)
    t = model.sde.time_at_log_snr(-2 * sigma.double().log())
    with torch.no_grad():
        assert torch.allclose(model(x, t), net(x, sigma).sample, atol=1e-5)


def test_a_network_of_edm() -> None:
    """x̂₀ by the scheduler's own preconditioning (Karras et al. 2022, table 1)."""
    scheduler, net, x = diffusers.EDMEulerScheduler(sigma_min=0.01, sigma_max=50.0), unet(), noise()
    model = ss.load_diffusers(net, scheduler)
    assert model.sde == ss.EDMSDE(sigma_min=0.01, sigma_max=50.0) and model.sigma_data == 0.5
    for sigma in (0.02, 0.7, 40.0):
        at = torch.tensor(sigma)
        with torch.no_grad():
            y = net(scheduler.precondition_inputs(x, at), scheduler.precondition_noise(at)).sample
            found = model.denoise(x, model.sde.time_at_log_snr(-2 * at.double().log()))
        expected = scheduler.precondition_outputs(x, y, at)
        assert torch.allclose(found, expected, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["Euler", "Heun"])
def test_a_network_of_flow_matching(name: str) -> None:
    """x̂₀ and ε̂ of x = (1 − σ)x₀ + σε, with the velocity ε − x₀ at the time Nσ."""
    kind = getattr(diffusers, f"FlowMatch{name}DiscreteScheduler")
    scheduler, net, x = kind(num_train_timesteps=500, shift=3.0), unet(), noise()
    model = ss.load_diffusers(net, scheduler)
    assert model.prediction == "velocity" and model.data_range is None
    for sigma in (0.001, 0.3, 0.9, 1 - 1e-8):
        with torch.no_grad():
            v = net(x, torch.tensor(500 * sigma)).sample
            found = model.denoise(x, sigma), model.epsilon(x, sigma)
        for ours, expected in zip(found, (x - sigma * v, x + (1 - sigma) * v), strict=True):
            assert torch.allclose(ours, expected, atol=2e-6)


def test_a_table_that_is_not_the_product_of_its_betas() -> None:
    """CogVideoX shifts the signal-to-noise ratio of a table, and leaves its β as they were."""
    scheduler = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=3.0)
    sde = ss.load_diffusers(unet(), scheduler).sde
    alpha, sigma = sde.marginal(sde.level_times())
    plain = diffusers.CogVideoXDDIMScheduler(snr_shift_scale=1.0).alphas_cumprod.double()
    ratio = (alpha / sigma).square() / (plain / (1 - plain))
    assert torch.allclose(ratio, torch.full_like(ratio, 1 / 3), rtol=2e-3)


def test_labels_reach_the_network() -> None:
    net, x = unet(num_class_embeds=5), noise()
    model, label = ss.load_diffusers(net, diffusers.DDPMScheduler()), torch.tensor([4, 1])
    t = model.sde.level_times()[300]
    with torch.no_grad():
        y = net(x, 300, class_labels=label).sample
        found = model.epsilon(x, t, label)
    assert torch.allclose(found, y, atol=1e-5)
    assert not torch.allclose(found, model.epsilon(x, t, label.flip(0)), atol=1e-3)
    with torch.no_grad():
        named = model.epsilon(x, t, {"class_labels": label})
    assert torch.equal(named, found)


def test_a_learned_variance_is_left_out() -> None:
    net, x = unet(out_channels=6), noise()
    model = ss.load_diffusers(net, diffusers.DDPMScheduler(variance_type="learned_range"))
    with torch.no_grad():
        y = net(x, 20).sample[:, :3]
        assert torch.allclose(model.epsilon(x, model.sde.level_times()[20]), y, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (lambda: (unet(),), "a scheduler; got none"),
        (lambda: (3, diffusers.DDPMScheduler()), "a folder, a pipeline with a unet"),
        (lambda: (unet(), diffusers.FlowMatchLCMScheduler()), "a table of β"),
        (
            lambda: (unet(), diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)),
            "invert_sigmas=False; got invert_sigmas=True",
        ),
        (lambda: (unet(), {"_class_name": "DDPM"}), "such as DDPMScheduler, Score.*got 'DDPM'"),
        (lambda: (unet(), diffusers.EDMEulerScheduler(prediction_type="v_prediction")), "a table"),
    ],
)
def test_what_is_refused(arguments: Any, match: str) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match=match):
        ss.load_diffusers(*arguments())
