"""Four samplers of k-diffusion, in float64 and float32: by their papers' formulas, and by itself.

The formulas are written out here, on α = 1 and σ = t, so the tests run without the library too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.published import SHAPE, Network, difference, noises

SDE = ss.EDMSDE(sigma_min=0.02, sigma_max=20.0)
SIGMAS = [*ss.KarrasGrid().times(SDE, 10).tolist(), 0.0]
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-5}
Denoiser = Callable[[Tensor, float], Tensor]


def euler(D: Denoiser, x: Tensor, z: Iterator[Tensor]) -> Tensor:
    """Karras et al. 2022, algorithm 1 without its second evaluation."""
    for now, to in itertools.pairwise(SIGMAS):
        x = x + (to - now) * (x - D(x, now)) / now
    return x


def heun(D: Denoiser, x: Tensor, z: Iterator[Tensor]) -> Tensor:
    """Karras et al. 2022, algorithm 1."""
    for now, to in itertools.pairwise(SIGMAS):
        d = (x - D(x, now)) / now
        y = x + (to - now) * d
        if to:
            y = x + (to - now) * 0.5 * (d + (y - D(y, to)) / to)
        x = y
    return x


def dpmpp_2m(D: Denoiser, x: Tensor, z: Iterator[Tensor], eta: float = 0.0) -> Tensor:
    """Lu et al. 2022, arXiv:2211.01095: algorithm 2, and for η = 1 its SDE of appendix C."""
    old, h_old = None, 0.0
    for now, to in itertools.pairwise(SIGMAS):
        new = D(x, now)
        if not to:
            return new
        h = math.log(now / to)
        mean = new if old is None else new + h / (2 * h_old) * (new - old)
        decay = math.exp(-eta * h)
        x = to / now * decay * x - math.expm1(-(1 + eta) * h) * mean
        if eta:
            x = x + to * math.sqrt(1 - decay**2) * next(z)
        old, h_old = new, h
    return x


def dpmpp_2m_sde(D: Denoiser, x: Tensor, z: Iterator[Tensor]) -> Tensor:
    return dpmpp_2m(D, x, z, eta=1.0)


METHODS: dict[Callable[..., Tensor], ss.Predictor] = {
    euler: ss.DDIM(),
    heun: ss.Heun(),
    dpmpp_2m: ss.ExponentialAdams(midpoint=True),
    dpmpp_2m_sde: ss.ExponentialAdams(eta=1.0, midpoint=True),
}


def ours(method: Callable[..., Tensor], z: Tensor) -> Tensor:
    sampler = ss.PredictorCorrector(SDE, METHODS[method], grid=ss.KarrasGrid(), steps=10)
    replayed = ss.noise.ReplayNoise(z)
    return sampler.sample(model_of(z.dtype), SHAPE, init=20 * z[0], noise=replayed, dtype=z.dtype)


def model_of(dtype: torch.dtype) -> ss.ScoreModel:
    return ss.ScoreModel(Network(dtype), SDE, "x0", "sigma")


@torch.no_grad()
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("method", METHODS)
def test_the_formulas(method: Callable[..., Tensor], dtype: torch.dtype) -> None:
    z, net = noises(12, dtype), Network(dtype)
    expected = method(lambda x, sigma: net(x, x.new_tensor([sigma])), 20 * z[0], iter(z[1:]))
    assert difference(ours(method, z), expected) < CLOSE[dtype]


@pytest.fixture
def sampling(script: Callable[[str], ModuleType]) -> ModuleType:
    if find_spec("k_diffusion") is None:  # whose samplers import nothing of the package
        pytest.skip("k_diffusion is not installed")
    pytest.importorskip("torchsde")
    found: ModuleType = script("peers").k_sampling()
    return found


@torch.no_grad()
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("method", METHODS)
def test_the_library(sampling: ModuleType, method: Callable[..., Tensor], dtype: Any) -> None:
    z, options = noises(12, dtype), {}
    if "sde" in method.__name__:
        draws = iter(z[1:])
        options["noise_sampler"] = lambda *_: next(draws)
    sigmas = torch.tensor(SIGMAS, dtype=dtype)
    sample = getattr(sampling, f"sample_{method.__name__}")
    expected = sample(Network(dtype), 20 * z[0], sigmas, disable=True, **options)
    assert difference(ours(method, z), expected) < CLOSE[dtype]
