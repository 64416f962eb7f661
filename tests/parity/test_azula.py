"""azula's samplers on the same network, schedule, times and noise, in float64 and float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.published import SHAPE, Network, difference, noises

sample = pytest.importorskip("azula.sample", reason="the peer is not installed")

STEPS, STOP = 9, 0.02
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-5}
SDES = (ss.VPSDE(), ss.EDMSDE(sigma_max=1.0, sigma_min=0.01), ss.RectifiedFlowSDE(T=0.99))


def theirs(name: str, model: ss.ScoreModel, z: Tensor, **options: Any) -> Tensor:
    """The sampler on our schedule, with an x̂₀ from our network."""
    from azula import denoise, noise

    sde = model.sde

    class Schedule(noise.Schedule):  # type: ignore[misc]
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            alpha, sigma = sde.marginal(t.double())
            return alpha.to(z.dtype), sigma.to(z.dtype)

    class Denoiser(denoise.Denoiser):  # type: ignore[misc]
        schedule = Schedule()

        def forward(self, x_t: Tensor, t: Tensor) -> Any:
            return denoise.DiracPosterior(model.denoise(x_t, t.double()))

    times = {"start": sde.T, "stop": STOP, "steps": STEPS, "dtype": torch.float64}
    sampler = getattr(sample, f"{name}Sampler")(Denoiser(), silent=True, **times, **options)
    draws = iter(z[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample.torch, "randn_like", lambda x: next(draws))
        found: Tensor = sampler(sde.marginal(sde.T)[1].to(z) * z[0])
    return found


def ours(model: ss.ScoreModel, z: Tensor, *parts: Any) -> Tensor:
    """The same times; azula makes no last denoise, and corrects before it predicts."""
    grid = torch.linspace(model.sde.T, STOP, STEPS + 1, dtype=torch.float64)
    sampler = ss.PredictorCorrector(
        model.sde, *parts, grid=grid, denoise=False, corrector_first=True
    )
    init = model.sde.marginal(model.sde.T)[1].to(z) * z[0]
    replayed = ss.noise.ReplayNoise(z)
    return sampler.sample(model, SHAPE, init=init, noise=replayed, dtype=z.dtype)


def model_of(sde: ss.LinearSDE, dtype: torch.dtype) -> ss.ScoreModel:
    return ss.ScoreModel(Network(dtype), sde, "x0", "t")


@dataclass(frozen=True)
class Interpolating(ss.Corrector):
    """azula's: x ← α x̂₀ + √(1 − δ) (x − α x̂₀) + √δ σ z, where x − α x̂₀ = −σ² s.

    At the last time, where azula makes no correction, it changes nothing.
    """

    delta: float = 0.1
    steps: int = 1

    def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
        sigma = sde.marginal(times)[1].clone()
        sigma[-1] = 0
        b = (1 - (1 - self.delta) ** 0.5) * sigma**2
        one, c = times.new_ones(len(times), 1), self.delta**0.5 * sigma
        return ss.Tableau(times[:, None], one, b[:, None, None], c[:, None, None], "score")


@dataclass(frozen=True)
class VelocityAdams(ss.Predictor):
    """azula's vAB of order 2: Adams–Bashforth for v = x/σ − (1 + α/σ) x̂₀ in u = σ/(α + σ).

    A velocity that it remembers holds a past state. A table holds the outputs alone, so the past
    state is written by the present one and all outputs between.
    """

    order: ClassVar[int] = 2

    def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
        alpha, sigma = sde.marginal(times)
        scale, u = alpha + sigma, sigma / (alpha + sigma)
        N = len(times) - 1
        a, b = times.new_zeros(N), times.new_zeros(N, N)
        back, outputs = times.new_zeros(()), times.new_zeros(N)  # x_{n−1} by x_n and o_{n−1}, …
        for n in range(N):
            h = u[n + 1] - u[n]
            past = h * h / (2 * (u[n] - u[n - 1])) if n else 0 * h
            new, old = scale[n + 1] * (h + past), -scale[n + 1] * past  # of v_n and v_{n−1}
            a[n] = scale[n + 1] / scale[n] + new / sigma[n] + old / sigma[n - 1] * back
            b[n, 0] = -new * scale[n] / sigma[n]
            b[n, 1:] = old / sigma[n - 1] * outputs[:-1]
            b[n, 1] -= old * scale[n - 1] / sigma[n - 1]
            back, outputs = 1 / a[n], -b[n] / a[n]
        zero = times.new_zeros(N, 1, 1)
        return ss.Tableau(times[:-1, None], a[:, None], b[:, None], zero, "x0")


CASES: dict[str, tuple[str, dict[str, Any], tuple[Any, ...]]] = {
    "DDIM": ("DDIM", {}, (ss.DDIM(),)),
    "DDIM with noise": ("DDIM", {"eta": 1.0}, (ss.DDIM(eta=1.0),)),
    "DDPM": ("DDPM", {}, (ss.DDIM(eta=1.0),)),
    "zEAB": ("zEAB", {"order": 2}, (ss.ExponentialAdams(output="epsilon"),)),
    "xEAB": ("xEAB", {"order": 2}, (ss.ExponentialAdams(output="x0"),)),
    "vAB": ("vAB", {"order": 2}, (VelocityAdams(),)),
    "PC": ("PC", {"delta": 0.1, "corrections": 1}, (ss.DDIM(), Interpolating())),
    "PC, twice": ("PC", {"delta": 0.1, "corrections": 2}, (ss.DDIM(), Interpolating(steps=2))),
}


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("case", CASES)
def test_the_samples_are_azulas(case: str, sde: ss.LinearSDE, dtype: torch.dtype) -> None:
    name, options, parts = CASES[case]
    model, z = model_of(sde, dtype), noises(1 + 3 * STEPS, dtype)
    assert difference(ours(model, z, *parts), theirs(name, model, z, **options)) < CLOSE[dtype]
