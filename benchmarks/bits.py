"""Bits per dimension of held-out digits, 8×8 pixels of 17 grey levels.

A perceptron is trained on 1500 dequantized digits, and 297 are held out. Each row is an estimate
for the same digits with the same dequantization: the flow's by the exact trace, by Hutchinson's
estimator and by Hutch++, the bound of the reverse SDE, importance weights. Beside them stand a
Gaussian and scikit-learn's mixture of Gaussians, fitted to the same dequantized digits
(five copies of each for the mixture).

    python benchmarks/bits.py            # some 3 CPU minutes
    python benchmarks/bits.py --save     # and writes benchmarks/results/bits-cpu.json
    python benchmarks/bits.py --reuse    # with the network of the last run, in out/bits
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import conditions
from torch import Tensor
from torch.distributions import MultivariateNormal

import sdescore as ss

LEVELS, DIMENSION, TRAINED = 17, 64, 1500
COPIES = 20  # dequantizations of each digit trained on
HIDDEN, STEPS, BATCH = 256, 1200, 256
FEW = 96  # digits of the rows that cost several likelihoods
DRAWS = 8
TOLERANCE = 1e-4
PROBES = (9, 21)
COMPONENTS = 20
OUT = Path("out") / "bits"


def split() -> tuple[Tensor, Tensor]:
    """Digits to train on, and digits held out, ``(n, 64)``."""
    images = ss.datasets.digits().flatten(1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order[:TRAINED]], images[order[TRAINED:]]


def dequantized(images: Tensor, copies: int = COPIES) -> Tensor:
    """So many copies of the digits, each with noise of its own."""
    copied = [ss.samplers.dequantize(images, levels=LEVELS, seed=100 + i) for i in range(copies)]
    return torch.cat(copied)


def trained(data: Tensor, steps: int = STEPS) -> ss.ScoreModel:
    """A perceptron with the library's defaults."""
    torch.manual_seed(0)
    model = ss.ScoreModel(ss.MLP(DIMENSION, hidden=HIDDEN), ss.VPSDE())
    return ss.train(model, data, steps=steps, batch_size=BATCH, progress=False).model


def in_bits(log_prob: Tensor) -> Tensor:
    """Nats of dequantized digits as bits per dimension."""
    return ss.bits_per_dim(log_prob, DIMENSION, levels=LEVELS, width=LEVELS / 8)


def row(name: str, call: Callable[[], Tensor], exact: Tensor | None, **more: Any) -> dict[str, Any]:
    """Mean bits, their standard error over the digits, and how far each digit is from ``exact``."""
    start = time.process_time()
    bits = call().double()
    found = {"name": name, "digits": len(bits), "bits": bits.mean().item()}
    found["standard_error"] = bits.std().item() / math.sqrt(len(bits))
    if exact is not None:
        off = bits - exact[: len(bits)]
        found["difference"] = off.mean().item()
        found["rms"] = off.square().mean().sqrt().item()
    found["cpu_seconds"] = time.process_time() - start
    found = {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()} | more
    print(found, flush=True)
    return found


def baselines(data: Tensor, v: Tensor) -> list[dict[str, Any]]:
    """A Gaussian and a mixture of Gaussians, fitted to the data, at the dequantized ``v``."""
    from sklearn.mixture import GaussianMixture

    data, v = data.double(), v.double()
    gaussian = MultivariateNormal(data.mean(0), data.T.cov())
    mixture = GaussianMixture(COMPONENTS, random_state=0)

    def of_mixture() -> Tensor:
        found = mixture.fit(data[: 5 * TRAINED].numpy()).score_samples(v.numpy())
        return in_bits(torch.from_numpy(found))

    return [
        row("Gaussian", lambda: in_bits(gaussian.log_prob(v)), None),
        row("scikit-learn's mixture", of_mixture, None, components=COMPONENTS),
    ]


def rows_of(model: ss.ScoreModel, held: Tensor) -> list[dict[str, Any]]:
    """Every estimate for the held-out digits."""
    flow = ss.ProbabilityFlow(model.sde, rtol=TOLERANCE, atol=TOLERANCE)

    def bits(n: int = len(held), **options: Any) -> Tensor:
        return ss.bits_per_dimension(model, held[:n], levels=LEVELS, flow=flow, **options).bits

    found: list[Any] = []

    def exact_trace() -> Tensor:
        found.append(bits())
        return found[0]

    rows = [row("exact trace", exact_trace, None)]
    exact = found[0].double()
    for kind in ("hutchinson", "hutch++"):
        for n in PROBES:
            options = {"divergence": kind, "probes": n}
            rows.append(
                row(kind.capitalize(), lambda options=options: bits(**options), exact, probes=n)
            )
    v = ss.samplers.dequantize(held, levels=LEVELS)
    for n in (64, 256):
        call = lambda n=n: in_bits(ss.samplers.sde_bound(model, v, times=n).log_prob)  # noqa: E731
        rows.append(row("bound of the reverse SDE", call, exact, times=n))
    many = {"levels": LEVELS, "flow": flow, "draws": DRAWS, "importance_weighted": True}

    def weighted() -> Tensor:
        found.append(ss.bits_per_dimension(model, held[:FEW], **many))
        return found[1].bits

    rows.append(row(f"{DRAWS} draws, importance-weighted", weighted, exact))
    rows.append(row(f"{DRAWS} draws, averaged", lambda: found[1].draws.mean(1), exact))
    del rows[-1]["cpu_seconds"]  # they are those of the row before
    return rows


def errors_of(model: ss.ScoreModel, data: Tensor, held: Tensor) -> dict[str, float]:
    """What the exact-trace row is off by, in nats an image: the mean, and the solver's largest."""
    flow = ss.ProbabilityFlow(model.sde, rtol=TOLERANCE, atol=TOLERANCE)
    v = ss.samplers.dequantize(held[:FEW], levels=LEVELS)
    found = ss.samplers.likelihood_errors(flow, model, v, data=data)
    means = {
        "solver": found.solver.mean(),
        "solver, largest": found.solver.abs().max(),
        "prior": found.prior.mean(),
        "stopping": found.stopping.nanmean(),
    }
    unknown = {"digits": len(v), "stopping unknown for": int(found.stopping.isnan().sum())}
    return {name: float(f"{value.item():.2g}") for name, value in means.items()} | unknown


def table(report: dict[str, Any]) -> str:
    """The page's table: bits, and how far each digit is from the exact trace."""
    lines = [
        "| estimate | digits | bits per dimension | less exact trace: mean | RMS | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    for found in report["rows"]:
        name, more = found["name"], found.get("probes") or found.get("times")
        kind = "probes" if "probes" in found else "noise levels"
        shown = f"{found['bits']:.3f}"
        if "standard_error" in found:
            shown += f" ± {found['standard_error']:.3f}"
        off = "– | –"
        if "rms" in found:
            off = f"{found['difference']:+.3f} | {found['rms']:.3f}".replace("-", "−")
        seconds = f"{found['cpu_seconds']:.0f}" if "cpu_seconds" in found else "–"
        named = f"{name}, {more} {kind}" if more else name
        lines.append(f"| {named} | {found.get('digits', '–')} | {shown} | {off} | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    """Train, measure, print, and save where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--reuse", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images, held = split()
    data, path, start = dequantized(images), OUT / "model.safetensors", time.process_time()
    if not (arguments.reuse and path.exists()):
        path.parent.mkdir(parents=True, exist_ok=True)
        ss.save(path, trained(data))
    seconds, model = time.process_time() - start, ss.load(path)
    report = {
        "command": "python benchmarks/bits.py --save",
        **conditions(),
        "training_cpu_seconds": round(seconds),
        "tolerance": TOLERANCE,
        "rows": [
            {"name": "no model", "bits": round(math.log2(LEVELS), 4)},
            *baselines(data, ss.samplers.dequantize(held, levels=LEVELS)),
            *rows_of(model, held),
        ],
        "errors": errors_of(model, data, held),
    }
    print(report["errors"])
    if arguments.save:
        path = Path(__file__).parent / "results" / "bits-cpu.json"
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        print("wrote benchmarks/results/bits-cpu.json")


if __name__ == "__main__":
    main()
