"""Annealed Langevin dynamics, DDPM and DDIM, as loops from papers and codes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ScheduleError
from tests.helpers.published import Network, difference, draw, noises

SIGMAS = [10.0 * 1000 ** (-i / 9) for i in range(10)]
LEVELS = 60
BETAS = torch.linspace(1e-3, 0.2, LEVELS, dtype=torch.float64)


def level(i: int) -> Tensor:
    return torch.tensor([i])


def annealed_langevin(net: Network, z: Tensor, step_lr: float, T: int, denoise: bool) -> Tensor:
    """The codes' loop: a step α of the score and a noise √(2α)."""
    draws = iter(z)
    x = SIGMAS[0] * next(draws)
    for i, sigma in enumerate(SIGMAS):
        alpha = step_lr * (sigma / SIGMAS[-1]) ** 2
        for _ in range(T):
            x = x - alpha * net(x, level(i)) / sigma + math.sqrt(2 * alpha) * next(draws)
    return x - SIGMAS[-1] * net(x, level(9)) if denoise else x


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("denoise", [False, True])
def test_annealed_langevin(denoise: bool, dtype: torch.dtype) -> None:
    net, z = Network(dtype), noises(41, dtype)
    sde = ss.DiscreteVESDE(sigmas=tuple(SIGMAS))
    model = ss.ScoreModel(net, sde, "epsilon", "level")
    sampler = ss.published.ncsnv2(model, 3e-5, 4) if denoise else ss.published.ncsn(model, 3e-5, 4)
    theirs = annealed_langevin(Network(), z.double(), 3e-5, 4, denoise)
    assert difference(draw(sampler, model, z), theirs) < (1e-12 if dtype == torch.float64 else 1e-5)
    assert sampler.evaluations == 40 + denoise


def test_the_defaults_are_those_of_the_codes() -> None:
    sde = ss.DiscreteVESDE(sigmas=tuple(SIGMAS))
    first, second = ss.published.ncsn(sde), ss.published.ncsnv2(sde)
    assert first.corrector == ss.AnnealedLangevin(epsilon=4e-5, steps=100)
    assert second.corrector == ss.AnnealedLangevin(epsilon=2 * 6.2e-6, steps=5)
    assert (first.denoise, second.denoise) == (False, True)


def generalised_steps(net: Network, z: Tensor, visited: list[int], eta: float) -> Tensor:
    """DDIM's eqs. 12 and 16, with ᾱ = 1 after the last level; z is drawn at every step."""
    abar = torch.cumprod(1 - BETAS, 0).tolist()
    x = z[0]
    for k, i in enumerate(visited):
        a, b = abar[i], abar[visited[k + 1]] if k + 1 < len(visited) else 1.0
        e = net(x, level(i))
        x0 = (x - math.sqrt(1 - a) * e) / math.sqrt(a)
        c = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        noise = c * z[k + 1] if c else 0.0
        x = math.sqrt(b) * x0 + math.sqrt(1 - b - c**2) * e + noise
    return x


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    ("skip_type", "timesteps", "visited"),
    [
        ("uniform", 10, [54, 48, 42, 36, 30, 24, 18, 12, 6, 0]),
        ("uniform", 40, list(range(59, -1, -1))),
        ("quad", 6, [47, 30, 17, 7, 1, 0]),  # √48² is below 48 in float64, as in the code
    ],
)
def test_ddim(
    skip_type: str, timesteps: int, visited: list[int], eta: float, dtype: torch.dtype
) -> None:
    net, z = Network(dtype), noises(61, dtype)
    model = ss.ScoreModel(net, ss.DiscreteVPSDE(betas=tuple(BETAS.tolist())), "epsilon", "level")
    sampler = ss.published.ddim(model, timesteps, eta, skip_type)
    theirs = generalised_steps(Network(), z.double(), visited, eta)
    assert difference(draw(sampler, model, z), theirs) < (1e-12 if dtype == torch.float64 else 1e-5)


def ancestral_sampling(net: Network, z: Tensor, large: bool, clip: bool) -> Tensor:
    """The posterior mean of eq. 7 at x̂₀, which the code clips, and noise but at the last step."""
    abar = [1.0, *torch.cumprod(1 - BETAS, 0).tolist()]
    x = z[0]
    for k, i in enumerate(reversed(range(LEVELS))):
        beta, a, b = BETAS[i].item(), abar[i + 1], abar[i]
        x0 = (x - math.sqrt(1 - a) * net(x, level(i))) / math.sqrt(a)
        x0 = x0.clamp(-1, 1) if clip else x0
        mean = (math.sqrt(b) * beta * x0 + math.sqrt(1 - beta) * (1 - b) * x) / (1 - a)
        variance = beta if large else beta * (1 - b) / (1 - a)
        x = mean + math.sqrt(variance) * z[k + 1] if i else mean
    return x


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("var_type", ["fixedlarge", "fixedsmall"])
def test_ddpm(var_type: str, clip: bool, dtype: torch.dtype) -> None:
    z, net = noises(LEVELS + 1, dtype), Network(dtype)
    model = ss.ScoreModel(net, ss.DiscreteVPSDE(betas=tuple(BETAS.tolist())), "epsilon", "level")
    sampler = ss.published.ddpm(model, var_type)
    theirs = ancestral_sampling(Network(), z.double(), var_type == "fixedlarge", clip)
    ours = draw(sampler, ss.guidance.clipped(model) if clip else model, z)
    assert difference(ours, theirs) < (1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize(
    "make", [ss.published.ncsn, ss.published.ncsnv2, ss.published.ddim, ss.published.ddpm]
)
def test_an_sde_without_levels_is_refused(make: Any) -> None:
    with pytest.raises(IncompatibleError, match="table of levels"):
        make(ss.VPSDE())
    with pytest.raises(IncompatibleError, match="LinearSDE"):
        make(lambda x, t: x)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda s: ss.published.ncsn(s, step_lr=0.0), ParameterError, "step_lr"),
        (lambda s: ss.published.ncsnv2(s, n_steps_each=0), ParameterError, "inner steps"),
        (lambda s: ss.published.ncsnv2(s, denoise="yes"), ParameterError, "denoise"),
        (lambda s: ss.published.ddpm(s, "learned"), IncompatibleError, "model_var_type"),
        (lambda s: ss.published.ddim(s, timesteps=61), ScheduleError, "timesteps"),
        (lambda s: ss.published.ddim(s, timesteps=50, skip_type="quad"), ScheduleError, "falling"),
        (lambda s: ss.published.ddim(s, skip_type="cubic"), IncompatibleError, "skip_type"),
        (lambda s: ss.published.ddim(s, eta=2.0), ParameterError, "eta"),
    ],
)
def test_refusals(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(ss.DiscreteVPSDE(betas=tuple(BETAS.tolist())))
