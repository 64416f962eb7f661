"""What each score-matching objective costs and gives: bias, gradient noise, time and memory.

The data are a mixture of two Gaussians of known score. Bias and noise are those of a batch's
gradient at the truth: the model is ``truth + net(x) − net₀(x)``, with net₀ a frozen copy of the
net, so it *is* the truth while the gradient of every parameter is a generic one. All objectives of
the data's own score have the same curvature there, so their noises compare.

- bias: norm of the expected gradient, in standard deviations of a batch's gradient (a batch of
  128). The expectation is a long average; "< b" where three standard errors cover 0.
- noise: standard deviation of the gradient, over that of implicit matching with the exact trace.
- time: forward and backward of the bare net in CPU seconds, median over interleaved turns, over
  denoising's.
- memory: the tensors that one step holds at its peak, beyond weights and batch (MB of 2²⁰).

    python benchmarks/objectives.py            # prints the tables
    python benchmarks/objectives.py --save     # and writes benchmarks/results/
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import conditions, machine_sentence
from objectives_report import STEPS, step_table, table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import sdescore as ss
from sdescore.losses import (
    Loss,
    explicit_loss,
    finite_difference_loss,
    implicit_loss,
    kernel_density_score,
    sliced_loss,
)

# d: (hidden width, batch of time and memory, turns, batches of bias and noise, their size)
CASES = {2: (64, 128, 25, 500, 128), 64: (128, 128, 7, 100, 64), 784: (256, 32, 9, 100, 16)}
EXACT = "implicit, exact trace"
EXACT_COUNT = 16  # batches of it in the largest case, where one takes a second
KDE_POINTS = 1000
REPORTED_BATCH = 128
SMALL, LARGE = 0.1, 0.5
EDM = ss.EDMSDE(sigma_min=SMALL / 2, sigma_max=5.0)


def ones(sde: ss.LinearSDE, t: Tensor) -> Tensor:
    """Weight 1: the plain error of the score."""
    return torch.ones_like(t)


class Mixture:
    """Two Gaussians of the same diagonal covariance, at ± a mean; unit scale on the whole."""

    def __init__(self, d: int) -> None:
        self.variance = torch.logspace(0, -1, d)
        self.mean = torch.zeros(d)
        self.mean[: min(d, 4)] = 1.0

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        sign = torch.randint(2, (n, 1), generator=generator) * 2.0 - 1.0
        z = torch.randn(n, len(self.mean), generator=generator)
        return sign * self.mean + self.variance.sqrt() * z

    def log_density(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """Up to a constant in x; σ is the noise's standard deviation, () or (B, 1)."""
        variance = self.variance + sigma**2
        tilt = (self.mean / variance * x).sum(1)
        return torch.logaddexp(tilt, -tilt) - 0.5 * (x.square() / variance).sum(1)

    def score(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        variance = self.variance + sigma**2
        tilt = (self.mean / variance * x).sum(1, keepdim=True)
        return (tilt.tanh() * self.mean - x) / variance


class Timeless(nn.Module):
    """A plain network under either call, (x) or (x, t)."""

    def __init__(self, net: nn.Module, scalar: bool) -> None:
        super().__init__()
        self.net, self.scalar = net, scalar

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        y = self.net(x)
        return y[:, 0] if self.scalar else y


def network(d: int, kind: str) -> nn.Module:
    """A perceptron, as a score or as an energy's gradient."""
    torch.manual_seed(0)
    hidden, out = CASES[d][0], 1 if kind == "energy" else d
    net = nn.Sequential(
        nn.Linear(d, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, out),
    )
    plain = Timeless(net, kind == "energy")
    return ss.EnergyModel(plain) if kind == "energy" else plain


class Truth(nn.Module):
    """The true score, or log density, plus a network less its frozen copy."""

    def __init__(self, mixture: Mixture, net: nn.Module, kind: str, leveled: bool) -> None:
        super().__init__()
        self.mixture, self.kind, self.leveled = mixture, kind, leveled
        self.net, self.frozen = net, copy.deepcopy(net).requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        sigma = 0.0
        if self.leveled and t is not None:
            sigma = t.to(x).reshape(-1, 1)
        known = self.mixture.log_density if self.kind == "energy" else self.mixture.score
        return known(x, sigma) + self.net(x) - self.frozen(x)


Objective = Callable[[Any, Tensor, torch.Generator], Loss]


def objectives(mixture: Mixture, kind: str) -> dict[str, Objective]:
    """Each as a function of (score, clean data, generator)."""
    points = mixture.sample(KDE_POINTS, torch.Generator().manual_seed(99))
    kde = kernel_density_score(points)

    def denoising(sigma: float) -> Objective:
        return lambda s, x, g: ss.denoising_loss(
            s, x, sde=EDM, t=sigma, weighting=ones, generator=g
        )

    def levels(s: Any, x: Tensor, g: torch.Generator) -> Loss:
        return ss.denoising_loss(s, x, sde=EDM, generator=g)

    found: dict[str, Objective] = {
        f"denoising, σ = {SMALL}": denoising(SMALL),
        f"denoising, σ = {LARGE}": denoising(LARGE),
        "denoising, all σ": levels,
        "explicit, true score": lambda s, x, g: explicit_loss(s, x, mixture.score),
        "explicit, kernel density": lambda s, x, g: explicit_loss(s, x, kde),
        EXACT: lambda s, x, g: implicit_loss(s, x),
        "implicit, Hutchinson (= SSM-VR)": lambda s, x, g: implicit_loss(
            s, x, trace="hutchinson", generator=g
        ),
        "sliced": lambda s, x, g: sliced_loss(s, x, generator=g),
        "finite differences": lambda s, x, g: finite_difference_loss(s, x, generator=g),
        "finite differences, reduced": lambda s, x, g: finite_difference_loss(
            s, x, reduced_variance=True, generator=g
        ),
    }
    if kind == "energy":  # explicit matching is the same; values of an energy reduce no variance
        del found["explicit, true score"], found["explicit, kernel density"]
        del found["finite differences, reduced"]
    return found


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    """Of the trainable parameters, flat; zero where the loss does not depend on one."""
    weights = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(weights, found, strict=True)]
    return torch.cat([part.flatten() for part in parts])


def bias_and_noise(mixture: Mixture, d: int, kind: str, name: str, objective: Objective):
    """(bias², its standard error, in batch variances; variance of one sample's gradient)."""
    _, _, _, count, size = CASES[d]
    if name == EXACT and d == max(CASES):
        count = min(count, EXACT_COUNT)
    inner = network(d, kind)
    net = inner.net if kind == "energy" else inner
    truth = Truth(mixture, net, kind, leveled=name == "denoising, all σ")
    model = ss.EnergyModel(truth) if kind == "energy" else truth
    generator = torch.Generator().manual_seed(1)
    batches = torch.stack(
        [
            gradient(model, objective(model, mixture.sample(size, generator), generator).mean)
            for _ in range(count)
        ]
    ).double()
    gram = batches @ batches.T
    products = gram[~torch.eye(count, dtype=torch.bool)]
    variance = (gram.trace() - gram.sum() / count).item() / (count - 1)
    scale = REPORTED_BATCH / size  # a larger batch has less noise and the same bias
    if variance < 1e-20:
        return 0.0, 0.0, 0.0
    # Under no bias the products are uncorrelated, with mean 0.
    error = math.sqrt(2 * products.square().sum().item()) / (count * (count - 1))
    return products.mean().item() / variance * scale, error / variance * scale, variance * size


def step(d: int, kind: str, name: str, batch: int) -> Callable[[], None]:
    """Forward and backward of the bare network, ready to run."""
    mixture, model = Mixture(d), network(d, kind)
    objective, generator = objectives(mixture, kind)[name], torch.Generator().manual_seed(2)
    x = mixture.sample(batch, generator)

    def run() -> None:
        gradient(model, objective(model, x, generator).mean)

    return run


def peak_memory(d: int, kind: str, name: str) -> float:
    """MB of tensors that one step holds at its peak beyond what it starts with."""
    run = step(d, kind, name, CASES[d][1])
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = profiled.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate(n for _, n in changes)) / 2**20


def rounded(value: float) -> float:
    """To three digits, all that a file should say."""
    return float(f"{value:.3g}")


def measure() -> list[dict[str, Any]]:
    """One row per dimension, kind and objective."""
    rows: list[dict[str, Any]] = []
    jobs = [
        (d, kind, name)
        for d in CASES
        for kind in ("score", "energy")
        for name in objectives(Mixture(d), kind)
        if (d, kind, name) != (784, "energy", EXACT)
    ]
    memory = {job: peak_memory(*job) for job in jobs}
    for d in CASES:
        mixture = Mixture(d)
        for kind in ("score", "energy"):
            names = [name for e, k, name in jobs if (e, k) == (d, kind)]
            seconds: dict[str, list[float]] = {name: [] for name in names}
            runs = {name: step(d, kind, name, CASES[d][1]) for name in names}
            for turn in range(CASES[d][2] + 1):
                for name, run in runs.items():
                    run()  # the caches are its own, not its predecessor's
                    start = time.process_time()
                    run()
                    if turn:  # the first warms up
                        seconds[name].append(time.process_time() - start)
            base = seconds[names[0]]
            found = {
                name: bias_and_noise(mixture, d, kind, name, objective)
                for name, objective in objectives(mixture, kind).items()
                if name in names
            }
            # Where the exact trace is left out, Hutchinson's noise is the unit.
            unit = found.get(EXACT, found["implicit, Hutchinson (= SSM-VR)"])[2]
            for name in names:
                bias2, error, variance = found[name]
                rows.append(
                    {
                        "d": d,
                        "model": kind,
                        "objective": name,
                        "bias_squared": rounded(bias2),
                        "bias_squared_standard_error": rounded(error),
                        "noise": None
                        if name == "denoising, all σ"
                        else rounded(math.sqrt(variance / unit)),
                        "time": rounded(
                            statistics.median(
                                mine / other
                                for mine, other in zip(seconds[name], base, strict=True)
                            )
                        ),
                        "ms": rounded(statistics.median(seconds[name]) * 1e3),
                        "memory_mb": rounded(memory[d, kind, name]),
                    }
                )
    return rows


def step_errors() -> list[dict[str, Any]]:
    """Finite differences in float32 against sliced matching in float64: the gradient's error."""
    rows = []
    for d in CASES:
        for kind in ("energy", "score"):
            model = network(d, kind)
            double = copy.deepcopy(model).double()
            generator = torch.Generator().manual_seed(3)
            x = Mixture(d).sample(128, generator)
            v = torch.randn(1, 128, d, generator=generator)
            exact = gradient(double, sliced_loss(double, x.double(), probes=v.double()).mean)
            errors = {}
            for epsilon in STEPS:
                loss = finite_difference_loss(model, x, probes=v, epsilon=epsilon)
                difference = gradient(model, loss.mean).double() - exact
                errors[f"{epsilon:g}"] = rounded((difference.norm() / exact.norm()).item())
            rows.append({"d": d, "model": kind, "relative_error": errors})
    return rows


def main() -> None:
    """Measure, print, and save where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = {
        "command": "python benchmarks/objectives.py --save",
        **conditions(),
        "batch": {str(d): case[1] for d, case in CASES.items()},
        "hidden": {str(d): case[0] for d, case in CASES.items()},
        "rows": measure(),
        "steps": step_errors(),
    }
    report["seconds"] = round(sum(os.times()[:4]))
    print(f"{machine_sentence(report)}, {report['seconds']} CPU seconds")
    for d in CASES:
        print(f"\nd = {d}\n\n{table(report, d)}")
    print(f"\n{step_table(report)}")
    if arguments.save:
        target = Path(__file__).parent / "results" / "objectives-cpu.json"
        target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        print(f"\nwrote {target.relative_to(Path(__file__).parent.parent)}")


if __name__ == "__main__":
    main()
