"""Samplers of other libraries on an exact denoiser, on our VP SDE's range of noise levels.

Two linear SDEs differ by a change of time and of scale, so one denoiser serves every library:
``denoise(y, s)`` is the mean of x₀ given y = x/α = x₀ + s ε, where s = σ/α. Each library keeps its
own numbers (its sigmas, its float32 tables); the denoiser is exact at the levels that it uses.

- **diffusers**: ``trained_betas`` are those of the VP SDE on 1000 uniform times in [t_min, T], so
  the table's ends are ours. Of the levels that a scheduler derives from the table, its continuous
  ``sigmas`` are used, not the integer timesteps that it rounds them to; DDIM has only integers,
  each with its own ``alphas_cumprod``.
- **k-diffusion**: its ``get_sigmas_exponential`` and ``get_sigmas_karras`` between our s(t_min) and
  s(T), and the 0 that it appends. Noise of ``dpmpp_2m_sde`` is drawn step by step from a generator:
  of the same distribution as its Brownian tree on disjoint intervals, and cheaper.
- **azula**: two of its schedules. ``VESchedule`` between our s(t_min) and s(T): a grid uniform in
  log-SNR. ``RectifiedSchedule`` up to our s(T), with its own smallest σ of 1e-3. Its samplers make
  no last denoise: they end at the smallest s, and the exponential grid does best with ours (its
  default of 1e-3 costs vAB 0.1 to 5 nats/dim on the ring at up to 10 evaluations).

All start from the same standard normal z, at s(T) z. Heun's methods make two evaluations a step but
the last: an odd number, so for an even N they make N − 1.

    pip install --no-deps diffusers==0.42.1 k-diffusion==0.1.1.post1 azula==0.11.1
    pip install --no-deps einops torchsde trampoline scipy
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor

import sdescore as ss


class Denoiser:
    """``(y, s) -> E[x₀ | y = x₀ + s ε]``, exact; counts its calls."""

    def __init__(self, score: ss.MixtureScore) -> None:
        self.score, self.calls = score, 0

    def __call__(self, y: Tensor, s: float) -> Tensor:
        self.calls += 1
        return self.score.denoise(y, s)


def denoiser(target: Any) -> Denoiser:
    """The target's, at any noise level s up to 1000."""
    return Denoiser(target.score(ss.EDMSDE(sigma_min=1e-6, sigma_max=1e3)))


Run = Callable[[Denoiser, Tensor, ss.LinearSDE, int, torch.Generator], Tensor]
"""``(denoise, z, sde, evaluations, generator) -> samples``."""


@dataclass(frozen=True)
class Peer:
    """A sampler of another library."""

    package: str
    method: str
    run: Run
    odd: bool = False
    stochastic: bool = False

    def evaluations(self, n: int) -> int:
        """How many of ``n`` evaluations it makes: all, or the odd number below."""
        return n - 1 if self.odd and n % 2 == 0 else n

    def sample(self, target: Any, z: Tensor, sde: ss.LinearSDE, n: int, seed: int) -> Tensor:
        """Samples like ``z`` from at most ``n`` evaluations.

        Raises
        ------
        RuntimeError
            The sampler made another number of evaluations than it is said to make.
        """
        denoise = denoiser(target)
        generator = torch.Generator().manual_seed(seed)
        x = self.run(denoise, z, sde, self.evaluations(n), generator)
        require_evaluations(denoise.calls, self.evaluations(n), f"{self.package}, {self.method}")
        return x


def require_evaluations(calls: int, expected: int, who: str) -> None:
    """Refuse a count that the comparison would not be fair with.

    Raises
    ------
    RuntimeError
        The counts differ.
    """
    if calls != expected:
        raise RuntimeError(f"expected {expected} evaluations of {who}, got {calls}")


def noise_levels(sde: ss.LinearSDE) -> tuple[float, float]:
    """``s = σ/α`` at ``t_min`` and at ``T``."""
    alpha, sigma = sde.marginal(torch.tensor([sde.t_min, sde.T], dtype=torch.float64))
    low, high = (sigma / alpha).tolist()
    return low, high


def betas(sde: ss.LinearSDE, levels: int = 1000) -> list[float]:
    """A DDPM's table whose ᾱ_i is α² at ``levels`` uniform times from ``t_min`` to ``T``."""
    alpha, sigma = sde.marginal(torch.linspace(sde.t_min, sde.T, levels, dtype=torch.float64))
    squared = alpha.square()
    return [sigma[0].square().item(), *(1 - squared[1:] / squared[:-1]).tolist()]


def with_diffusers(scheduler_name: str, **options: Any) -> Run:
    """A scheduler's own loop."""

    def run(denoise: Denoiser, z: Tensor, sde: ss.LinearSDE, n: int, _: torch.Generator) -> Tensor:
        kind = getattr(importlib.import_module("diffusers"), scheduler_name)
        scheduler = kind(num_train_timesteps=1000, trained_betas=betas(sde), **options)
        scheduler.set_timesteps((n + 1) // 2 if "Heun" in scheduler_name else n)
        if hasattr(scheduler, "sigmas"):
            levels = scheduler.sigmas.double()
            scheduler.set_begin_index(0)  # or it looks its place up by a rounded timestep
        else:
            alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps].double()
            levels = ((1 - alpha_bar) / alpha_bar).sqrt()
        x = z * scheduler.init_noise_sigma
        for t, s in zip(scheduler.timesteps, levels.tolist(), strict=False):  # and the last, 0
            y = scheduler.scale_model_input(x, t) * (1 + s**2) ** 0.5
            x = scheduler.step((y - denoise(y, s)) / s, t, x, return_dict=False)[0]
        return x

    return run


def lucidrains() -> ModuleType:
    """denoising-diffusion-pytorch; empty modules stand for torchvision and pytorch-fid.

    It imports them for what we do not call, and torchvision does not load beside the CPU torch.
    """
    absent = ("torchvision", "pytorch_fid", "pytorch_fid.fid_score", "pytorch_fid.inception")
    with patch.dict(sys.modules, {name: MagicMock() for name in absent}):
        return importlib.import_module("denoising_diffusion_pytorch")


def k_sampling() -> ModuleType:
    """k_diffusion/sampling.py without its package, which imports torchvision, wandb and others.

    All that it takes from the package is ``append_dims``.
    """
    name = "_k_diffusion"
    if name not in sys.modules:
        found = find_spec("k_diffusion")
        package, utils = ModuleType(name), ModuleType(f"{name}.utils")
        package.__path__ = list(found.submodule_search_locations)
        utils.append_dims = lambda x, ndim: x.reshape(x.shape + (1,) * (ndim - x.ndim))
        package.utils = utils
        sys.modules[name], sys.modules[f"{name}.utils"] = package, utils
    return importlib.import_module(f"{name}.sampling")


def with_k_diffusion(method: str, grid: str) -> Run:
    """``sample_<method>`` on ``get_sigmas_<grid>``."""

    def run(
        denoise: Denoiser, z: Tensor, sde: ss.LinearSDE, n: int, generator: torch.Generator
    ) -> Tensor:
        sampling = k_sampling()
        steps = (n + 1) // 2 if method == "heun" else n
        sigmas = getattr(sampling, f"get_sigmas_{grid}")(steps, *noise_levels(sde))

        def model(y: Tensor, sigma: Tensor) -> Tensor:
            return denoise(y, sigma[0].item())

        options = {}
        if method.endswith("_sde"):
            options["noise_sampler"] = lambda *_: torch.randn(z.shape, generator=generator)
        sampler = getattr(sampling, f"sample_{method}")
        return sampler(model, z * sigmas[0], sigmas, disable=True, **options)

    return run


def with_azula(name: str, schedule_name: str) -> Run:
    """A sampler on one of the library's schedules."""

    def run(denoise: Denoiser, z: Tensor, sde: ss.LinearSDE, n: int, _: torch.Generator) -> Tensor:
        from azula import denoise as posterior
        from azula import noise, sample

        low, high = noise_levels(sde)
        ends = (low, high) if schedule_name == "VE" else (1 / high,)
        plan = getattr(noise, f"{schedule_name}Schedule")(*ends)

        class Exact(posterior.Denoiser):
            schedule = plan

            def forward(self, x_t: Tensor, t: Tensor) -> Any:
                alpha, sigma = plan(t)
                return posterior.DiracPosterior(denoise(x_t / alpha, (sigma / alpha).item()))

        kind = getattr(sample, f"{name}Sampler")
        sampler = kind(Exact(), steps=n, silent=True, dtype=torch.float64)
        return sampler(z * plan(torch.ones((), dtype=torch.float64))[1])

    return run


EXPONENTIAL, KARRAS = {"use_exponential_sigmas": True}, {"use_karras_sigmas": True}

PEERS = (
    Peer(
        "diffusers",
        "DDIM, trailing",
        with_diffusers("DDIMScheduler", timestep_spacing="trailing", clip_sample=False),
    ),
    Peer("diffusers", "DPM++2M, linspace", with_diffusers("DPMSolverMultistepScheduler")),
    *(
        Peer(
            "diffusers",
            f"{method}, {grid}",
            with_diffusers(f"{name}Scheduler", **options),
            odd=method == "Heun",
        )
        for method, name in (
            ("DPM++2M", "DPMSolverMultistep"),
            ("UniPC", "UniPCMultistep"),
            ("Euler", "EulerDiscrete"),
            ("Heun", "HeunDiscrete"),
        )
        for grid, options in (("exponential", EXPONENTIAL), ("Karras", KARRAS))
    ),
    *(
        Peer(
            "k-diffusion",
            f"{method}, {grid.replace('k', 'K')}",
            with_k_diffusion(method, grid),
            odd=method == "heun",
            stochastic=method.endswith("_sde"),
        )
        for method in ("heun", "dpmpp_2m", "dpmpp_2m_sde")
        for grid in ("exponential", "karras")
    ),
    *(
        Peer("azula", f"{name}, {grid}", with_azula(name, schedule))
        for name in ("DDIM", "zEAB", "xEAB", "vAB")
        for grid, schedule in (("exponential", "VE"), ("rectified", "Rectified"))
    ),
)


def libraries() -> dict[str, str | None]:
    """The installed version of each library, None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in sorted({peer.package for peer in PEERS}):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
