"""Clipped estimates of x₀, by closed forms and by the samplers of diffusers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sdescore as ss

SHAPE = (3, 3, 8, 8)


def noise(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


class Network(nn.Module):
    """Wild enough that x̂₀ leaves [−1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor, c: Tensor, label: Tensor | None = None) -> Tensor:
        y: Tensor = torch.tanh(self.layer(x)) * (1 + c[:, None, None, None] / 2000)
        return y if label is None else y + label[:, None, None, None]


@pytest.mark.parametrize("quantile", [None, 0.9])
@pytest.mark.parametrize("sde", [ss.VPSDE(), ss.VESDE(sigma_max=10.0)], ids=["vp", "ve"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_denoised_state_is_clipped(quantile: float | None, sde: Any, scale: float) -> None:
    """In the units of the data: x̂₀ by Tweedie's formula from the score, before and after."""
    model = ss.ScoreModel(Network(), sde, prediction="epsilon", data_mean=0.5, data_std=scale)
    score, x = ss.guidance.clipped(model, 1.5, quantile=quantile), 3 * noise()
    for time in (0.2, 0.9):
        t = torch.tensor(time, dtype=torch.float64)
        alpha, sigma = (v.item() for v in sde.marginal(t))
        with torch.no_grad():
            before, after = (
                0.5 + scale * (x.double() + sigma**2 * s(x, t).double()) / alpha
                for s in (model, score)
            )
        for own, found in zip(before, after, strict=True):
            most = 1.5
            if quantile is not None:
                ordered, place = own.abs().flatten().sort().values, quantile * (own.numel() - 1)
                low = int(place)
                most = max(1.5, (ordered[low] + (place - low) * ordered[low + 1 :][0]
                                 - (place - low) * ordered[low]).item())  # fmt: skip
            expected = own.clamp(-most, most) * (1.5 / most)
            tolerance = 2e-5 * (1 + own.abs().max())
            assert (found - expected).abs().max() < tolerance
        assert before.abs().max() > 1.5


@pytest.mark.parametrize("quantile", [None, 0.9])
def test_the_range_is_the_models_own(quantile: float | None) -> None:
    """[0, 1], about its middle 1/2; also of a guided score, and nothing else by ``limit``."""
    model = ss.ScoreModel(Network(), ss.VPSDE(), "epsilon", data_range=(0.0, 1.0))
    x, t = 3 * noise(), torch.tensor(0.7)
    for score in (model, ss.classifier_free(model, model, 2.0)):
        inside = ss.guidance.clipped(score, quantile=quantile)
        alpha, sigma = (v.float() for v in score.sde.marginal(0.7))
        before, after = ((x + sigma**2 * s(x, t).detach()) / alpha for s in (score, inside))
        assert before.min() < -0.1 and before.max() > 1.1
        if quantile is None:
            expected = before.clamp(0, 1)
        else:
            away = before.numpy().reshape(3, -1) - 0.5
            most = np.maximum(np.quantile(np.abs(away), quantile, axis=1, keepdims=True), 0.5)
            expected = torch.from_numpy(0.5 + np.clip(away, -most, most) / most * 0.5).view_as(x)
        torch.testing.assert_close(after, expected.to(after), rtol=0, atol=1e-4)
    wide = ss.guidance.clipped(model, 7.0)
    assert "range=(-7, 7)" in repr(wide) and "data_range=(0.0, 1.0)" in repr(model)


def test_nothing_changes_where_nothing_is_clipped() -> None:
    model, x = ss.ScoreModel(Network(), ss.VPSDE(), prediction="epsilon"), noise()
    with torch.no_grad():
        assert torch.equal(ss.guidance.clipped(model, 1e6)(x, 0.5), model(x, 0.5))
        assert torch.equal(ss.guidance.clipped(model, 1e6, quantile=0.5)(x, 0.5), model(x, 0.5))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler"])
def test_the_samples_are_those_of_diffusers(kind: str, dynamic: bool) -> None:
    """clip_sample and thresholding, from the same noise; without, the samples differ."""
    diffusers = pytest.importorskip("diffusers")
    options: dict[str, Any] = {"clip_sample": not dynamic, "thresholding": dynamic}
    options |= {"sample_max_value": 1e6}  # by default 1, which is plain clipping
    scheduler = getattr(diffusers, kind)(**options)
    scheduler.set_timesteps(10)
    net, x, generator = Network(), noise(), torch.Generator().manual_seed(5)
    draws = [torch.randn(SHAPE, generator=generator) for _ in range(9)]
    state, again = x.clone(), torch.Generator().manual_seed(5)
    more = {"use_clipped_model_output": True} if kind == "DDIMScheduler" else {}
    with torch.no_grad():
        for level in scheduler.timesteps:
            y = net(state, level.float().expand(len(x)))
            state = scheduler.step(y, level, state, generator=again, **more).prev_sample
    sde = ss.DiscreteVPSDE(betas=scheduler.betas.double().tolist())
    model = ss.ScoreModel(net, sde, prediction="epsilon", time_input="continuous_level")
    predictor = ss.DDIM() if kind == "DDIMScheduler" else ss.Ancestral()
    grid = ss.CustomGrid(sde.level_times()[scheduler.timesteps].tolist())
    sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=grid)
    replayed = ss.noise.ReplayNoise(torch.stack([x, *draws]))
    score = ss.guidance.clipped(model, quantile=0.995 if dynamic else None)
    found = sampler.sample(score, SHAPE, noise=replayed)
    assert (found - state).abs().max() < 2e-3
    assert (sampler.sample(model, SHAPE, noise=replayed) - state).abs().max() > 0.05


def test_labels_and_what_is_refused() -> None:
    model, x = ss.ScoreModel(Network(), ss.VPSDE(), prediction="epsilon"), noise()
    label = torch.tensor([0.0, 5.0, -5.0])[:, None].squeeze(1)
    with torch.no_grad():
        score = ss.guidance.clipped(ss.classifier_free(model, model, 2.0))
        assert not torch.equal(score(x, 0.5, label), score(x, 0.5))
    for arguments, error in (
        ((lambda x, t: -x,), ss.errors.IncompatibleError),
        (("score",), ss.errors.IncompatibleError),
        ((model, 0.0), ss.errors.ParameterError),
    ):
        with pytest.raises(error, match="expected"):
            ss.guidance.clipped(*arguments)
    with pytest.raises(ss.errors.ParameterError, match="quantile"):
        ss.guidance.clipped(model, quantile=1.5)
