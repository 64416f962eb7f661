"""Why noise: plain score matching in low density and on a curve, and what a ladder changes.

Three pictures, and the numbers in them, from one seed, on one thread:

    python benchmarks/story.py            # pictures in out/story, numbers printed
    python benchmarks/story.py --save     # in docs/_static/story and benchmarks/results

1. A mixture of two Gaussians: the true field, the field learned by implicit score matching,
   and where it is wrong.
2. The weight of the smaller mode in samples: plain Langevin, even with the true score, against
   annealed Langevin.
3. Data on a circle: the objective has no minimum, until noise gives the data a density.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from machine import conditions
from matplotlib.figure import Figure
from story_pictures import Field, arrows, background, dots, frame, lattice, smooth
from torch import Tensor, nn

import sdescore as ss

HERE = Path(__file__).resolve().parent
BOX = 8.0  # the picture of the mixture is [-8, 8]², and so is the start of plain chains
CHAINS = 2000
RADIUS, UPPER = 2.0, 0.7  # the circle, and the share of its upper half


class Budget(NamedTuple):
    """How much is done; the tests run a small one."""

    training_steps: int = 2000
    chains: int = CHAINS
    langevin_steps: int = 1000
    levels: int = 24
    inner_steps: int = 100


def mixture(sde: ss.LinearSDE) -> ss.MixtureScore:
    """One fifth at (−5, −5), four fifths at (5, 5), unit covariance (Song & Ermon 2019, §3.2)."""
    return ss.MixtureScore([0.2, 0.8], [[-5.0, -5.0], [5.0, 5.0]], [1.0, 1.0], sde)


CLEAN = mixture(ss.VPSDE())  # at t = 0 a VP SDE has σ = 0: the data themselves


def true_score(x: Tensor) -> Tensor:
    """The score of the data themselves."""
    return CLEAN(x, 0.0)


def circle(n: int, generator: torch.Generator) -> Tensor:
    """Points on a circle without any noise, the share ``UPPER`` of them on its upper half."""
    angle = math.pi * torch.rand(n, generator=generator)
    lower = torch.rand(n, generator=generator) >= UPPER
    angle = torch.where(lower, -angle, angle)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], 1)


def plain_network() -> nn.Module:
    """A score without time, ``(B, 2) → (B, 2)``."""
    layers: list[nn.Module] = [nn.Linear(2, 128), nn.SiLU()]
    for _ in range(2):
        layers += [nn.Linear(128, 128), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(128, 2))


@torch.enable_grad()
def plain_score_matching(
    draw: Callable[[int], Tensor], steps: int, seed: int
) -> tuple[nn.Module, list[float]]:
    """A network fitted by implicit score matching with the exact trace, and its losses."""
    torch.manual_seed(seed)
    net = plain_network()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = ss.losses.implicit_loss(net, draw(256)).mean
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return net.eval(), losses


@torch.enable_grad()
def ladder_model(data: Tensor, sde: ss.DiscreteVESDE, steps: int, seed: int) -> ss.ScoreModel:
    """An NCSN: one network for all levels, by denoising."""
    torch.manual_seed(seed)
    model = ss.ScoreModel(
        ss.MLP(2), sde, prediction="F", time_input="log_sigma", sigma_data=data.std().item()
    )
    return ss.train(
        model, data, steps=steps, batch_size=1024, lr=2e-3, seed=seed, progress=False,
        standardize=False,
    ).model  # fmt: skip


def annealed(sde: ss.DiscreteVESDE, inner_steps: int) -> ss.PredictorCorrector:
    """NCSN's sampler; τ = 0.1 σ² at every level."""
    return ss.PredictorCorrector(
        sde,
        predictor=ss.NoPredictor(),
        corrector=ss.AnnealedLangevin(epsilon=0.2 * sde.sigmas[-1] ** 2, steps=inner_steps),
        corrector_first=True,
    )


def uniform_start(n: int, seed: int) -> Tensor:
    """Chains spread over the picture."""
    return BOX * (2 * torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) - 1)


def small_mode(x: Tensor) -> float:
    """Share of samples on the smaller mode's side; the truth is 0.2."""
    return (x.sum(1) < 0).double().mean().item()


def relative_error(field: Field, x: Tensor) -> float:
    """``√(E‖s − s*‖²/E‖s*‖²)`` over the points ``x``."""
    truth = true_score(x)
    return ((field(x) - truth).square().sum() / truth.square().sum()).sqrt().item()


# Pictures.


def low_density(learned: Field, data: Tensor, path: Path) -> dict[str, float]:
    """Picture 1: the fields, and where the learned one is wrong."""
    everywhere = uniform_start(20_000, seed=11)
    numbers = {
        "error_on_data": relative_error(learned, data),
        "error_in_box": relative_error(learned, everywhere),
    }
    figure = Figure(figsize=(13.5, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    pixels = lattice(BOX, 160)
    for axes, field, title in (
        (left, true_score, "the true score, and its density"),
        (middle, learned, "learned by plain score matching"),
    ):
        background(axes, CLEAN.log_prob(pixels, 0.0), BOX, "log p(x)", (-40, 10))
        arrows(axes, field, BOX)
        frame(axes, BOX, title)
    truth = true_score(pixels)
    error = (learned(pixels) - truth).norm(dim=1) / truth.norm(dim=1)
    background(right, error.log10(), BOX, "log₁₀ ‖s − s*‖/‖s*‖", (-2, 1), "viridis")
    dots(right, data[:1500], "#FFFFFF")
    frame(
        right,
        BOX,
        f"relative error: {numbers['error_on_data']:.0%} over the data (white),\n"
        f"{numbers['error_in_box']:.0%} over the square",
    )
    figure.savefig(path / "low_density.png", dpi=110)
    return numbers


def mode_weights(
    learned: Field, data: Tensor, sde: ss.DiscreteVESDE, budget: Budget, path: Path, seed: int
) -> dict[str, float]:
    """Picture 2: who gets the weights of the modes right."""
    start = uniform_start(budget.chains, seed=12)
    model = ladder_model(data, sde, budget.training_steps, seed)
    sampler = annealed(sde, budget.inner_steps)
    shape = (budget.chains, 2)

    def plain(score: Field) -> Tensor:
        return ss.langevin.chains(score, start, 0.1, budget.langevin_steps, seed=seed).x

    samples = {
        "data": data[: budget.chains],
        "plain Langevin, true score": plain(true_score),
        "plain Langevin, learned score": plain(learned),
        "annealed Langevin, true scores": sampler.sample(mixture(sde), shape, seed=seed),
        "annealed Langevin, learned scores": sampler.sample(model, shape, seed=seed),
    }
    figure = Figure(figsize=(16, 3.9), layout="constrained")
    numbers = {}
    for axes, (name, x) in zip(figure.subplots(1, 5), samples.items(), strict=True):
        numbers[name] = small_mode(x)
        dots(axes, x)
        frame(axes, BOX + 1, f"{name}\nsmaller mode {numbers[name]:.3f} (true 0.200)")
    figure.savefig(path / "mode_weights.png", dpi=110)
    fast = ss.DiscreteVESDE.geometric(
        sigma_max=sde.sigmas[0], sigma_min=sde.sigmas[-1], levels=sde.levels // 2
    )
    hurried = annealed(fast, budget.inner_steps // 2).sample(mixture(fast), shape, seed=seed)
    numbers["the same, half the levels and half the steps"] = small_mode(hurried)
    return numbers


def manifold(budget: Budget, path: Path, seed: int) -> dict[str, Any]:
    """Picture 3: data on a circle, without noise and with it."""
    generator = torch.Generator().manual_seed(seed)
    sigma = 0.2

    def noisy(n: int) -> Tensor:
        return circle(n, generator) + sigma * torch.randn(n, 2, generator=generator)

    without, losses = plain_score_matching(
        lambda n: circle(n, generator), budget.training_steps, seed
    )
    _, noisy_losses = plain_score_matching(noisy, budget.training_steps, seed)
    data = circle(20_000, generator)
    sde = ss.DiscreteVESDE.from_data(data[:2000], sigma_min=0.02, levels=budget.levels)
    model = ladder_model(data, sde, budget.training_steps, seed)
    sampler = annealed(sde, budget.inner_steps)
    x = sampler.sample(model, (budget.chains, 2), seed=seed)
    beside = 1.1 * data[:3000]
    numbers = {
        "loss_without_noise": mean_of_last(losses),
        "loss_with_noise": mean_of_last(noisy_losses),
        "score_beside_circle": without(beside).norm(dim=1).mean().item(),
        "radial_rms": (x.norm(dim=1) - RADIUS).square().mean().sqrt().item(),
        "upper_half": (x[:, 1] > 0).double().mean().item(),
    }

    figure = Figure(figsize=(16.5, 4.1), layout="constrained")
    curves, bare, cured, result = figure.subplots(1, 4, width_ratios=(1, 1.15, 1.15, 1))
    curves.plot(smooth(losses), color="#D55E00", label="data on the circle")
    curves.plot(smooth(noisy_losses), "--", color="#0072B2", label=f"with noise, σ = {sigma}")
    curves.set_yscale("symlog", linthresh=10)
    curves.set_xlabel("training step")
    curves.set_title("implicit score matching objective", fontsize=10)
    curves.legend(fontsize=8, frameon=False)
    pixels, half_width = lattice(3.2, 160), 3.2
    time_of_sigma = sde.level_times()[next(i for i, s in enumerate(sde.sigmas) if s < 2 * sigma)]

    def diffused(y: Tensor) -> Tensor:
        return model(y, time_of_sigma)

    for axes, field, title in (
        (bare, without, f"without noise: ‖s‖ ≈ {numbers['score_beside_circle']:.0f} beside"),
        (cured, diffused, f"learned at σ = {sde.marginal(time_of_sigma)[1]:.2f} of a ladder"),
    ):
        background(axes, field(pixels).norm(dim=1).log10(), half_width, "log₁₀ ‖s‖", (0, 4))
        arrows(axes, field, half_width, 18)
        frame(axes, half_width, title)
    dots(result, x)
    frame(
        result,
        half_width,
        f"annealed Langevin: distance to the circle {numbers['radial_rms']:.3f},\n"
        f"upper half {numbers['upper_half']:.3f} (true {UPPER:.3f})",
    )
    figure.savefig(path / "manifold.png", dpi=110)
    return numbers


def mean_of_last(losses: list[float], count: int = 100) -> float:
    """What a curve ends at."""
    last = losses[-count:]
    return sum(last) / len(last)


@torch.no_grad()
def tell(path: Path, budget: Budget, seed: int = 0) -> dict[str, Any]:
    """All three pictures in ``path``, and their numbers."""
    path.mkdir(parents=True, exist_ok=True)
    began, cpu = time.monotonic(), time.process_time()
    data = CLEAN.sample(20_000, seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def batch(n: int) -> Tensor:
        return data[torch.randint(len(data), (n,), generator=generator)]

    learned, _ = plain_score_matching(batch, budget.training_steps, seed)
    sde = ss.DiscreteVESDE.from_data(data[:2000], sigma_min=0.1, levels=budget.levels)
    report = {
        "low_density": low_density(learned, data, path),
        "mode_weights": mode_weights(learned, data, sde, budget, path, seed),
        "manifold": manifold(budget, path, seed),
    }
    return {
        "command": "python benchmarks/story.py --save",
        **conditions(),
        "seed": seed,
        "chains": budget.chains,
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu,
        **report,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="replace the documentation's own")
    parser.add_argument("--out", type=Path, default=Path("out/story"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are small
    path = HERE.parent / "docs" / "_static" / "story" if options.save else options.out
    report = tell(path, Budget(), options.seed)
    text = json.dumps(report, indent=2)
    print(text)
    if options.save:
        (HERE / "results" / "story-cpu.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
