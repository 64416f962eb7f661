"""What works on a device that has no float64: the samplers, the model and the denoising loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sdescore as ss
from sdescore import checks
from sdescore.shapes import float64
from tests.helpers.no_float64 import device_without_float64

VP = ss.VPSDE()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    known = torch.amp.is_autocast_available
    monkeypatch.setattr(
        torch.amp, "is_autocast_available", lambda kind: kind != "lazy" and known(kind)
    )
    with device_without_float64() as made:
        yield made


def small(sde: ss.LinearSDE, net: Callable[[], nn.Module] = lambda: ss.MLP(2, hidden=8)):
    torch.manual_seed(0)
    model = ss.ScoreModel(net(), sde)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def same(sampler, model, device: torch.device, shape: tuple[int, ...] = (4, 2)) -> None:
    """The device's samples have the bits of the CPU's, for the CPU makes its numbers."""
    here = sampler.sample(model, shape, seed=1)
    there = sampler.sample(model.to(device), shape, seed=1)
    assert there.device == device and torch.equal(there.cpu(), here)


def test_the_device_refuses_float64(device: torch.device) -> None:
    with pytest.raises(TypeError, match="no float64"):
        torch.zeros(2, dtype=torch.float64, device=device)
    with pytest.raises(TypeError, match="no float64"):
        torch.ones(2, dtype=torch.float64).to(device)
    with pytest.raises(TypeError, match="no float64"):
        torch.ones(2).to(device).double()
    with pytest.raises(AssertionError, match="on the CPU and on the device"):
        torch.ones(2).to(device) + torch.ones(2)


@pytest.mark.parametrize(
    "predictor",
    [
        ss.EulerMaruyama(),
        ss.ReverseDiffusion(),
        ss.Ancestral(),
        ss.DDIM(),
        ss.Heun(),
        ss.StochasticHeun(),
        ss.ExponentialAdams(points=2, corrector_points=3),
        ss.ExponentialRungeKutta(),
    ],
    ids=lambda p: type(p).__name__,
)
def test_predictors(predictor: ss.Predictor, device: torch.device) -> None:
    same(ss.PredictorCorrector(VP, predictor=predictor, steps=50), small(VP), device)


@pytest.mark.parametrize(
    "corrector",
    [
        ss.Langevin(snr=0.1),
        ss.Langevin(snr=0.1, norm="sample"),
        ss.AnnealedLangevin(epsilon=1e-4, steps=2),
    ],
    ids=["expected", "sample", "annealed"],
)
def test_correctors(corrector: ss.Corrector, device: torch.device) -> None:
    same(ss.PredictorCorrector(VP, corrector=corrector, steps=50), small(VP), device)


@pytest.mark.parametrize(
    "sde",
    [ss.VESDE(), ss.CosineVPSDE(), ss.EDMSDE(), ss.RectifiedFlowSDE(), ss.DiscreteVPSDE.linear()],
    ids=lambda sde: type(sde).__name__,
)
def test_sdes(sde: ss.LinearSDE, device: torch.device) -> None:
    same(ss.PredictorCorrector(sde, steps=10), small(sde), device)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_adaptive_sampler(eta: float, device: torch.device) -> None:
    same(ss.AdaptiveSampler(VP, eta=eta), small(VP), device)


def test_images(device: torch.device) -> None:
    model = small(VP, lambda: ss.UNet(1, width=8, multipliers=(1, 2), blocks=1))
    same(ss.PredictorCorrector(VP, steps=10), model, device, (2, 1, 8, 8))


def test_exact_scores(device: torch.device) -> None:
    gaussian = ss.GaussianScore(torch.zeros(2), 0.5, VP)
    mixture = ss.MixtureScore([0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]], [0.1, 0.1], VP)
    sampler = ss.PredictorCorrector(VP, steps=10)
    for score in (gaussian, mixture):
        there = sampler.sample(score, (4, 2), device=device)
        assert there.device == device
        assert torch.equal(there.cpu(), sampler.sample(score, (4, 2)))


def test_a_model_by_hand(device: torch.device) -> None:
    """Times from the device, from the CPU and as a number."""
    model, x, t = small(VP), torch.randn(4, 2), torch.full((4,), 0.25)
    here = [f(x, t) for f in (model, model.denoise, model.epsilon)]
    model.to(device)
    for time in (t, t.to(device), 0.25):
        for f, value in zip((model, model.denoise, model.epsilon), here, strict=True):
            assert torch.equal(f(x.to(device), time).cpu(), value)
    moved = VP.perturb(x.to(device), t.to(device), x.to(device))
    assert torch.equal(moved.cpu(), VP.perturb(x, t, x))


def test_the_loss_and_its_gradient(device: torch.device) -> None:
    model, x = small(VP), torch.randn(8, 2)
    losses, gradients = [], []
    for data in (x, x.to(device)):
        model.to(data.device)
        model.zero_grad()
        generator = torch.Generator().manual_seed(3)
        loss = ss.denoising_loss(model, data, generator=generator).mean
        loss.backward()
        losses.append(loss.detach().cpu())
        gradients.append([p.grad.cpu() for p in model.parameters()])
    assert torch.equal(*losses)
    for here, there in zip(*gradients, strict=True):
        assert torch.allclose(here, there, rtol=1e-4, atol=1e-6)


def test_training(device: torch.device) -> None:
    """The device's own kernels may round otherwise: AdamW's are not fused there."""
    data = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"steps": 5, "batch_size": 16, "progress": False}
    options |= {"validation": data[:20], "validate_every": 2}
    here = ss.train(small(VP), data, **options)
    there = ss.train(small(VP), data, device=device, **options)
    assert there.best is not None
    assert there.model.device == device
    assert there.losses == pytest.approx(here.losses, rel=1e-4)


def test_numpys_float64_data_become_float32(device: torch.device) -> None:
    rows, options = np.linspace(-1, 1, 60).reshape(30, 2), {"steps": 3, "progress": False}
    here = ss.train(small(VP), torch.from_numpy(rows).float(), **options).losses
    there = ss.train(small(VP), rows, validation=rows, device=device, **options).losses
    assert there == pytest.approx(here, rel=1e-6)


def test_distances_are_computed_on_the_cpu(device: torch.device) -> None:
    x, y = torch.linspace(-1, 1, 60).view(30, 2), torch.linspace(0, 3, 50).view(25, 2)
    for name in ("energy_distance", "frechet_distance", "mmd", "sliced_wasserstein"):
        metric = getattr(ss.metrics, name)
        assert metric(x.to(device), y.to(device)) == metric(x, y)


def test_the_flow(device: torch.device) -> None:
    """Angles and errors are in float64 on the CPU."""
    flow, x = ss.ProbabilityFlow(VP), torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    here, there = (flow.encode(small(VP).to(y.device), y) for y in (x, x.to(device)))
    assert torch.allclose(here, there.cpu(), atol=1e-4)


def test_torchdiffeqs_methods_are_refused_in_one_line(device: torch.device) -> None:
    """It keeps its times in float64 beside the state."""
    flow = ss.ProbabilityFlow(VP, method="rk4", steps=2)
    with pytest.raises(ss.errors.ShapeError, match="expected a device with float64") as error:
        flow.sample(small(VP).to(device), (2, 2))
    assert len(str(error.value).splitlines()) == 1


def test_a_device_that_fails_is_not_one_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be out of memory for once, and the answer is remembered."""

    empty = torch.empty

    def out_of_memory(*size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        if dtype == torch.float64:
            raise RuntimeError("out of memory")
        return empty(*size, dtype=dtype, device=device)

    device = "cpu:7"  # which no other test has asked for
    monkeypatch.setattr(torch, "empty", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        checks.with_float64(device)
    monkeypatch.undo()
    assert checks.with_float64(device) == torch.device(device)


def test_a_graph_follows_the_question_without_a_warning() -> None:
    compiled = torch.compile(lambda x: float64(x) + 1, backend="eager", fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiled(torch.ones(2)).tolist() == [2.0, 2.0]
