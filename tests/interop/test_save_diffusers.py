"""Models written for diffusers: its pipelines open them, and make the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sdescore as ss
from tests.helpers.diffusers import SHAPE, noise, unet

diffusers = pytest.importorskip("diffusers")


def images(pipeline: Any, generator: torch.Generator) -> torch.Tensor:
    """Of a pipeline with its own loop, in [0, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"output_type": "np", "num_inference_steps": 10}
    found = pipeline(batch_size=SHAPE[0], generator=generator, **options).images
    return torch.from_numpy(found).permute(0, 3, 1, 2)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_pipelines_of_diffusers_make_the_same_images(kind: str, tmp_path: Path) -> None:
    """DDPM's ancestral loop and DDIM's, each from a folder, with the noises that they draw."""
    options = {"prediction_type": kind, "beta_schedule": "scaled_linear"}
    model = ss.load_diffusers(unet(), diffusers.DDPMScheduler(**options))
    ss.interop.save_diffusers(tmp_path, model)
    draws = torch.Generator().manual_seed(3)
    x = torch.stack([torch.randn(SHAPE, generator=draws) for _ in range(10)])
    runs = {"DDIMPipeline": ss.DDIM(), "DDPMPipeline": ss.Ancestral()}
    for name, predictor in runs.items():
        pipeline = getattr(diffusers, name).from_pretrained(tmp_path)
        assert not pipeline.scheduler.config.clip_sample
        expected = images(pipeline, torch.Generator().manual_seed(3))
        times = model.sde.level_times()[pipeline.scheduler.timesteps]
        sampler = ss.PredictorCorrector(model.sde, predictor, grid=times)
        # diffusers starts with variance 1 at every level.
        found = sampler.sample(model, SHAPE, init=x[0], noise=ss.noise.ReplayNoise(x)) / 2 + 0.5
        assert (found.clamp(0, 1) - expected).abs().max() < 1e-4
        assert expected.std() > 0.1


def test_the_same_model_comes_back_after_training(tmp_path: Path) -> None:
    options = {"beta_schedule": "squaredcos_cap_v2", "clip_sample_range": 2.0}
    scheduler, x = diffusers.DDPMScheduler(**options), noise()
    model = ss.load_diffusers(unet(), scheduler)
    before = model(x, 0.5).detach()
    ss.train(model, x, steps=2, batch_size=2, standardize=False, progress=False)
    ss.interop.save_diffusers(tmp_path / "new" / "folder", model)
    again = ss.load_diffusers(tmp_path / "new" / "folder")
    # A folder of diffusers does not say that no label was trained.
    assert again.sde == model.sde and model.options == {**again.options, "label_required": None}
    assert again.data_range == (-2.0, 2.0)
    assert torch.equal(again(x, 0.5), model(x, 0.5)) and not torch.equal(again(x, 0.5), before)


def test_a_network_of_diffusers_in_a_model_made_by_hand(tmp_path: Path) -> None:
    """Its output is an object with ``sample``, which every user of a network takes."""
    net, x, t = unet(), noise(), torch.tensor([0.3, 0.8])
    sde = ss.DiscreteVPSDE.linear()
    model = ss.ScoreModel(net, sde, "epsilon", "continuous_level")
    ss.interop.save_diffusers(tmp_path, model)
    again = ss.load_diffusers(tmp_path)
    # The table is rounded to float32.
    assert torch.allclose(again(x, t), model(x, t), rtol=1e-5)
    with torch.no_grad():
        y = net(x, sde.level(t).float()).sample
    assert torch.allclose(model.epsilon(x, t), y, atol=1e-5)
    sampler = ss.PredictorCorrector(sde, ss.DDIM(), steps=4)
    assert sampler.sample(model, SHAPE).isfinite().all()
    ss.denoising_loss(model, x).mean.backward()


def test_a_learned_variance(tmp_path: Path) -> None:
    """Its channels come along, and the scheduler says what they are."""
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    model, x = ss.load_diffusers(unet(out_channels=6), scheduler), noise()
    ss.interop.save_diffusers(tmp_path, model)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert pipeline.scheduler.config.variance_type == "learned_range"
    sampler = ss.interop.from_scheduler(pipeline.scheduler, 5)
    assert sampler.predictor == ss.Ancestral("learned_range")
    again = ss.load_diffusers(tmp_path)
    assert torch.equal(sampler.sample(again, SHAPE), sampler.sample(model, SHAPE))
    assert torch.equal(again(x, 0.5), model(x, 0.5))


def test_a_variance_exploding_model(tmp_path: Path) -> None:
    model = ss.load_diffusers(unet(), diffusers.ScoreSdeVeScheduler(sigma_min=0.02, sigma_max=40))
    ss.interop.save_diffusers(tmp_path, model)
    pipeline = diffusers.ScoreSdeVePipeline.from_pretrained(tmp_path)
    assert pipeline.scheduler.config.sigma_max == 40
    assert ss.load_diffusers(tmp_path).sde == model.sde == ss.VESDE(sigma_min=0.02, sigma_max=40.0)
    assert ss.load_diffusers(tmp_path).data_range == (0.0, 1.0)


class Own(ss.ScoreModel):
    def forward(self, x: torch.Tensor, t: Any, label: Any = None) -> torch.Tensor:
        return -x


VP = ss.DiscreteVPSDE.linear()


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: ss.ScoreModel(ss.MLP(2), VP, "v", "level"), r"a network of diffusers.*ss\.save"),
        (lambda: ss.ScoreModel(unet(), ss.VPSDE(), "v"), "a scheduler of diffusers describes"),
        (lambda: ss.ScoreModel(unet(), VP, "score", "level"), "prediction='score'"),
        (lambda: ss.ScoreModel(unet(), VP, "v", "t"), "time_input='t'"),
        (lambda: ss.ScoreModel(unet(), VP, "v", "level", data_std=2.0), "without data_mean"),
        (lambda: ss.ScoreModel(unet(), VP, "v", "level", input_scaling="unit"), "or scaling"),
        (lambda: ss.ScoreModel(unet(), VP, "v", "level", data_range=(0, 1)), "around 0"),
        (lambda: ss.ScoreModel(unet(), ss.EDMSDE(), "score", "sigma"), "EDMSDE"),
        (lambda: Own(unet(), VP, "v", "level"), "a scheduler of diffusers describes"),
        (lambda: ss.ScoreModel(unet(out_channels=5), VP, "v", "level"), "output channels"),
        (lambda: ss.load_diffusers(unet(), diffusers.DDPMScheduler()).under(VP), "trained on"),
    ],
)
def test_what_diffusers_cannot_say_is_refused(model: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(ss.errors.IncompatibleError, match=match):
        ss.interop.save_diffusers(tmp_path / "x", model())
    assert not (tmp_path / "x").exists()
