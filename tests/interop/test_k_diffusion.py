"""Denoisers of k-diffusion, by its own definition of the score and by its own Euler loop."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from tests.helpers import ROOT


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        shift = 0 if cond is None else cond
        y: Tensor = self.layer(torch.cat([x / (1 + sigma[:, None]), sigma[:, None].log()], 1))
        return y + shift


def noise(n: int = 4) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sigma", [0.01, 0.5, 30.0])
def test_the_score_is_the_denoisers(sigma: float) -> None:
    """(D(x; σ) − x)/σ², Karras et al. 2022, eq. 3."""
    net, x = Network(), noise() * sigma
    expected = (net(x, torch.full((4,), sigma)) - x) / sigma**2
    found = ss.load_k_diffusion(net)(x, sigma)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_eulers_steps_are_those_of_the_original() -> None:
    """d = (x − D)/σ, x ← x + d (σ′ − σ), and the last step to 0 returns D."""
    net, sigmas = Network(), [80.0, 10.0, 1.0, 0.1, 0.002]
    x = 80 * noise()
    state = x.clone()
    with torch.no_grad():
        for sigma, after in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
            d = (state - net(state, torch.full((4,), sigma))) / sigma
            state = state + d * (after - sigma)
    model = ss.load_k_diffusion(net)
    sampler = ss.PredictorCorrector(model.sde, ss.DDIM(), grid=ss.CustomGrid(sigmas))
    assert torch.allclose(sampler.sample(model, (4, 2), init=x), state, atol=1e-3)


def test_conditions_reach_the_denoiser_by_name() -> None:
    net, x, cond = Network(), noise(), noise() + 3
    model = ss.load_k_diffusion(net)
    with torch.no_grad():
        expected = net(x, torch.full((4,), 2.0), cond=cond)
    assert torch.allclose(model.denoise(x, 2.0, cond), expected, atol=1e-6)
    assert torch.allclose(model.denoise(x, 2.0, {"cond": cond}), expected, atol=1e-6)


def test_the_range_of_its_levels() -> None:
    net: Any = Network()
    net.register_buffer("sigmas", torch.tensor([0.03, 0.5, 14.6]))
    assert ss.load_k_diffusion(net).sde == ss.EDMSDE(
        sigma_min=net.sigmas[0].item(), sigma_max=net.sigmas[2].item()
    )
    assert ss.load_k_diffusion(net, sigma_max=20.0).sde.sigma_max == 20.0
    assert ss.load_k_diffusion(Network(), 0.1).sde == ss.EDMSDE(sigma_min=0.1, sigma_max=80.0)


def test_what_is_refused() -> None:
    with pytest.raises(ss.errors.IncompatibleError, match="a denoiser"):
        ss.load_k_diffusion(3)  # type: ignore[arg-type]
    with pytest.raises(ss.errors.ScheduleError):
        ss.load_k_diffusion(Network(), -1.0)


PAGE = ROOT / "docs" / "howto" / "k-diffusion.md"
ROW = re.compile(r"^\| `(sample_\w+)`(?:, `(\w+)=([^`]+)`)? \| `(ss\.[^`]+)` \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE.read_text(encoding="utf-8"))


@pytest.fixture
def sampling(script: Callable[[str], ModuleType]) -> ModuleType:
    if find_spec("k_diffusion") is None:  # whose samplers import nothing of the package
        pytest.skip("k_diffusion is not installed")
    found: ModuleType = script("peers").k_sampling()
    return found


@pytest.mark.parametrize(("name", "option", "value", "predictor"), ROWS)
def test_the_pages_samplers_are_those_of_k_diffusion(
    sampling: ModuleType, name: str, option: str, value: str, predictor: str
) -> None:
    net, x = Network(), 80 * noise(16)
    sigmas, draws = sampling.get_sigmas_karras(12, 0.01, 80.0), torch.randn(24, 16, 2)
    options: dict[str, Any] = {option: ast.literal_eval(value)} if option else {}
    if "ancestral" in name or "sde" in name:
        drawn = iter(draws)
        options["noise_sampler"] = lambda *_: next(drawn)
    with torch.no_grad():
        expected = getattr(sampling, name)(net, x, sigmas, disable=True, **options)
    model = ss.load_k_diffusion(net, 0.01, 80.0)
    sampler = ss.PredictorCorrector(
        model.sde, eval(predictor, {"ss": ss}), grid=ss.KarrasGrid(), steps=12
    )
    replayed = ss.noise.ReplayNoise(torch.cat([x[None], draws]))
    found = sampler.sample(model, x.shape, init=x, noise=replayed)
    assert torch.allclose(found, expected, atol=1e-5 * expected.abs().max().item())


def test_the_page_compares_seven() -> None:
    assert len(ROWS) == 7


def test_the_grids_are_those_of_k_diffusion(sampling: ModuleType) -> None:
    sde = ss.EDMSDE(sigma_min=0.01, sigma_max=80.0)
    for name, grid in (("karras", ss.KarrasGrid()), ("exponential", ss.LogSNRGrid())):
        sigmas = getattr(sampling, f"get_sigmas_{name}")(20, 0.01, 80.0)
        assert torch.allclose(grid.times(sde, 20), sigmas[:-1].double(), rtol=1e-5)
