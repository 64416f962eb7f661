"""Checkpoints of NCSN and NCSNv2: what a file holds, and the papers' sampler, written out here."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import CheckpointError, IncompatibleError, ParameterError
from sdescore.nets import NCSN, NCSNv2
from sdescore.noise import ReplayNoise
from tests.helpers.nets import perturbed

LEVELS, WIDTH = 6, 4
SIGMA_0, SIGMA_L = 4.0, 0.05
RATIO = (SIGMA_0 / SIGMA_L) ** (1 / (LEVELS - 1))
SIGMAS = [SIGMA_0 * RATIO**-i for i in range(LEVELS)]


def config(data: dict[str, Any] | None = None, **model: Any) -> dict[str, Any]:
    """A configuration as the official YAML files have it."""
    return {
        "training": {"batch_size": 128},
        "data": {"channels": 2, "logit_transform": False, "rescaled": False, **(data or {})},
        "model": {
            "sigma_begin": SIGMA_0,
            "sigma_end": SIGMA_L,
            "num_classes": LEVELS,
            "sigma_dist": "geometric",
            "normalization": "InstanceNorm++",
            "nonlinearity": "elu",
            "ngf": WIDTH,
            **model,
        },
    }


def official_file(net: nn.Module, path: Path, average: nn.Module | None = None) -> Path:
    """A file as the official code writes it: of a DataParallel, with the optimiser's state."""
    parallel = nn.DataParallel(net)
    optimizer = torch.optim.Adam(parallel.parameters())
    with torch.enable_grad():
        net(torch.rand(1, 2, 16, 16), torch.tensor([1])).sum().backward()
    optimizer.step()
    states: list[Any] = [parallel.state_dict(), optimizer.state_dict(), 3, 300000]
    if average is not None:
        states.append({name: value.data for name, value in average.named_parameters()})
    torch.save(states, path)
    return path


NETS: dict[str, Callable[[], NCSNv2 | NCSN]] = {
    "NCSNv2": lambda: NCSNv2(2, SIGMAS, WIDTH),
    "NCSNv2Deeper": lambda: NCSNv2(2, SIGMAS, WIDTH, 5),
    "NCSNv2Deepest": lambda: NCSNv2(2, SIGMAS, WIDTH, 6),
    "NCSN": lambda: NCSN(2, LEVELS, WIDTH),
    "NCSNdeeper": lambda: NCSN(2, LEVELS, WIDTH, depth=5),
    "CondRefineNetDeeperDilated": lambda: NCSN(
        2, LEVELS, WIDTH, depth=5, normalization="InstanceNorm"
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_the_averaged_weights_are_taken(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    raw, average = (perturbed(NETS[name]()) for _ in range(2))
    path = official_file(raw, tmp_path / "checkpoint.pth", average)
    x, i = torch.rand(2, 2, 16, 16), torch.tensor([0, LEVELS - 1])
    for weights, net in (("ema", average), ("raw", raw)):
        model = ss.load_ncsnv2(path, config(), weights=weights)
        assert not model.training
        t = model.sde.level_times()[i]
        assert torch.equal(model(x, t), net(x, i))
    with pytest.raises(ParameterError, match="weights among ema, raw"):
        ss.load_ncsnv2(path, config(), weights="best")
    path = official_file(raw, tmp_path / "checkpoint.pth")  # trained without an average
    assert torch.equal(ss.load_ncsnv2(path, config())(x, t), raw(x, i))


def test_the_average_of_a_parallel_network_and_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    raw, average = (perturbed(NETS["NCSNv2"]()) for _ in range(2))
    named = {f"module.{name}": value.data for name, value in average.named_parameters()}
    torch.save([raw.state_dict(), {}, 0, 1, named], tmp_path / "a.pth")
    torch.save(named, tmp_path / "b.pth")  # without the buffer of sigmas
    for file in ("a.pth", "b.pth"):
        found = ss.load_ncsnv2(tmp_path / file, config()).net.state_dict()
        expected = {**average.state_dict(), "sigmas": raw.sigmas}
        assert all(torch.equal(found[name], expected[name]) for name in expected | found)


def test_the_convention_is_the_papers(tmp_path: Path) -> None:
    path = official_file(NETS["NCSNv2"](), tmp_path / "a.pth")
    model = ss.load_ncsnv2(path, config())
    assert model.sde.sigmas == tuple(torch.tensor(SIGMAS).tolist())  # the file's float32
    assert model.options["prediction"] == "score"
    assert model.options["time_input"] == "continuous_level"
    assert (model.data_scale.mean, model.data_scale.std) == (0.0, 1.0)
    assert model.data_range == (0.0, 1.0)
    assert "prediction='score'" in repr(model) and "sigmas=(4.0, " in repr(model)
    # Level 0 is the largest σ, at T; s(x, i) = f(2x − 1)/σ_i with one f for all levels.
    x = torch.rand(1, 2, 8, 8).expand(LEVELS, -1, -1, -1)
    score = model(x, model.sde.level_times())
    f = score * torch.tensor(SIGMAS)[:, None, None, None]
    torch.testing.assert_close(f, f[:1].expand_as(f), rtol=1e-5, atol=1e-6)
    # Between levels too: σ at t = ½ of an even number of levels is their geometric mean.
    middle = model(x[:1], 0.5) * math.sqrt(SIGMA_0 * SIGMA_L)
    torch.testing.assert_close(middle, f[:1], rtol=1e-5, atol=1e-6)


def test_a_uniform_ladder_has_integer_levels(tmp_path: Path) -> None:
    sigmas = torch.linspace(2.0, 0.5, 4).tolist()
    path = official_file(NCSNv2(2, sigmas, WIDTH), tmp_path / "a.pth")
    options = {"sigma_begin": 2, "sigma_end": 0.5, "num_classes": 4, "sigma_dist": "uniform"}
    model = ss.load_ncsnv2(path, config(**options))
    assert model.options["time_input"] == "level"
    assert model.sde.sigmas == pytest.approx((2.0, 1.5, 1.0, 0.5))


def test_rescaled_data_are_states_from_minus_one_to_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = perturbed(NCSNv2(2, SIGMAS, WIDTH, rescaled=True))
    path = official_file(net, tmp_path / "a.pth")
    model = ss.load_ncsnv2(path, config({"rescaled": True}))
    x = torch.rand(1, 2, 8, 8)
    assert torch.equal(model.from_data(x), (x - 0.5) / 0.5)  # the network takes 2x − 1 as it is
    assert torch.equal(model(2 * x - 1, 1.0), net(2 * x - 1, torch.tensor([0])))


@torch.no_grad()
@pytest.mark.parametrize("name", ["NCSNv2", "NCSN"])
@pytest.mark.parametrize(("inner", "denoise"), [(1, False), (3, True)])
def test_annealed_langevin_is_the_papers(
    name: str, inner: int, denoise: bool, tmp_path: Path
) -> None:
    """Algorithm 1 with α_i = step_lr σ_i²/σ_L², as the released code has it, level by level."""
    torch.manual_seed(0)
    net = perturbed(NETS[name]())
    model = ss.load_ncsnv2(official_file(net, tmp_path / "a.pth"), config())
    step_lr, shape = 6.2e-6 * (SIGMA_L / 0.01) ** 2, (2, 2, 8, 8)
    sampler = ss.PredictorCorrector(
        model.sde,
        predictor=ss.NoPredictor(),
        corrector=ss.AnnealedLangevin(epsilon=2 * step_lr, steps=inner),
        corrector_first=True,
        denoise=denoise,
    )
    z = torch.randn(1 + LEVELS * inner, *shape)  # the first would start a chain without init
    x = start = torch.rand(shape)
    found = [s.x.clone() for s in sampler.iterate(model, init=start, noise=ReplayNoise(z))]
    expected: list[Tensor] = []
    for i, sigma in enumerate(SIGMAS):
        alpha = step_lr * sigma**2 / SIGMAS[-1] ** 2
        for j in range(inner):
            score = net(x, torch.full((2,), i))
            x = x + alpha * score + math.sqrt(2 * alpha) * z[1 + i * inner + j]
        expected.append(x)
    if denoise:
        expected[-1] = x + SIGMAS[-1] ** 2 * net(x, torch.full((2,), LEVELS - 1))
    assert sampler.evaluations == LEVELS * inner + denoise
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(sampler.sample(model, init=start, noise=ReplayNoise(z)), found[-1])


@pytest.mark.slow
def test_other_samplers_and_likelihoods_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ss.load_ncsnv2(official_file(NETS["NCSNv2"](), tmp_path / "a.pth"), config())
    reverse = ss.PredictorCorrector(model.sde, grid=ss.LogSNRGrid(), steps=7)
    assert bool(reverse.sample(model, (2, 2, 8, 8)).isfinite().all())
    flow = ss.ProbabilityFlow(model.sde, rtol=1e-2, atol=1e-2)
    assert flow.log_likelihood(model, torch.rand(2, 2, 8, 8)).log_prob.shape == (2,)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (config(num_classes=7), r"first 'sigmas': expected \(7,\), got \(6,\)"),
        (config(sigma_begin=5.0), r"levels of the configuration, 5 … 0.05; got 4 … 0.05"),
        (config(ngf=8), "check the configuration"),
        (config({"channels": 3}), "check the configuration"),
        ("cifar10", "check the configuration"),
    ],
)
def test_another_configuration_is_refused(change: Any, match: str, tmp_path: Path) -> None:
    path = official_file(NETS["NCSNv2"](), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=match):
        ss.load_ncsnv2(path, change)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("imagenet", "config among cifar10, celeba"),
        ({"model": {}}, 'a dict with "data" and "model"'),
        (None, 'a dict with "data" and "model"'),
        ({"data": {}, "model": config()["model"]}, "data.channels"),
        (config({"logit_transform": True}), "logit_transform: False"),
        (config({"rescaled": 2}), "data.rescaled as True or False"),
        (config(spec_norm=True), "spec_norm: False"),
        (config(normalization="BatchNorm"), r"normalization: InstanceNorm\+\+ or InstanceNorm"),
        (config(nonlinearity="gelu"), "nonlinearity among elu"),
        (config(sigma_dist="cosine"), "sigma_dist among geometric, uniform"),
        (config(sigma_begin=-1), "model.sigma_begin > 0"),
        (config(num_classes=1), "model.num_classes >= 2"),
    ],
)
def test_bad_configurations_are_refused(change: Any, match: str, tmp_path: Path) -> None:
    path = official_file(NETS["NCSNv2"](), tmp_path / "a.pth")
    with pytest.raises((IncompatibleError, ParameterError), match=match):
        ss.load_ncsnv2(path, change)


def test_an_average_of_another_network_is_refused(tmp_path: Path) -> None:
    net = NETS["NCSNv2"]()
    average = {name: value.data for name, value in NETS["NCSN"]().named_parameters()}
    torch.save([net.state_dict(), {}, 0, 1, average], tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="an average of every parameter"):
        ss.load_ncsnv2(tmp_path / "a.pth", config())
    torch.save([], tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="a network's state_dict"):
        ss.load_ncsnv2(tmp_path / "b.pth", config())
