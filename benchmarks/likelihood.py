"""The NLL gap of stochastic samplers of many steps, to a thousandth of a nat.

Targets, SDE and score are those of accuracy.py. One set of 20,000 samples leaves a standard error
of up to 0.004 nats a dimension on the gap, so as many sets as it takes to bring it to some 0.0008
are pooled, against 40 times as many exact draws. ``exact`` is the same gap where every component is
a Gaussian of its own, without sampling (``ss.analysis.gaussian_error``): what the components' shape
loses, and not their shares.

    python benchmarks/likelihood.py           # some 8 CPU minutes
    python benchmarks/likelihood.py --save    # and writes benchmarks/results/likelihood-cpu.json
    python benchmarks/likelihood.py --sets 1  # a quick look
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from accuracy import SDE
from machine import conditions
from targets import TARGETS, Target

import sdescore as ss

STEPS = (100, 1000)
SETS = {"ring": 24, "anisotropic": 6, "digits": 2}
SAMPLES = 20_000
EXACT = 40
METHODS: dict[str, tuple[ss.Predictor, bool | str]] = {
    "Runge–Kutta 2 at 2/5, flow ending": (ss.ExponentialRungeKutta(eta=1.0, node=0.4), "flow"),
    "Runge–Kutta 2 at 2/5, Tweedie's mean": (ss.ExponentialRungeKutta(eta=1.0, node=0.4), True),
}
SAMPLED = "Runge–Kutta 2 at 2/5, flow ending"


def sampler(method: str, evaluations: int) -> ss.PredictorCorrector:
    """A method at most so many evaluations."""
    predictor, denoise = METHODS[method]
    steps = (evaluations - 1) // predictor.evaluations + 1
    return ss.PredictorCorrector(
        SDE, predictor=predictor, grid=ss.LogSNRGrid(), steps=steps, denoise=denoise
    )


def exact_gap(target: Target, chain: ss.PredictorCorrector) -> float:
    """Mean over the components of the gap that each would have by itself, nats a dimension."""
    gap = 0.0
    parts = zip(target.weights, target.means, target.covariances, strict=True)
    for weight, mean, covariance in parts:
        variance, axes = torch.linalg.eigh(covariance)
        here = axes.T @ mean
        error = ss.analysis.gaussian_error(chain, variance, mean=here)
        excess = (error.variance + (error.mean - here).square()) / variance - 1
        gap += 0.5 * (weight * excess.mean()).item()
    return gap


def measured_gap(target: Target, chain: ss.PredictorCorrector, sets: int) -> tuple[float, float]:
    """The gap and its standard error, nats a dimension."""
    score = target.score(SDE)
    shape = (SAMPLES, target.dim)
    ours = torch.cat(
        [-target.log_prob(chain.sample(score, shape, seed=seed)) for seed in range(sets)]
    )
    exact = torch.cat(
        [-target.log_prob(target.sample(SAMPLES, seed=5000 + i)) for i in range(EXACT * sets)]
    )
    error = math.hypot(*(x.std().item() / math.sqrt(len(x)) for x in (ours, exact)))
    return (ours.mean() - exact.mean()).item() / target.dim, error / target.dim


def main() -> None:
    """Measure, print, and save where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, help="sets of samples, in place of the usual numbers")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if arguments.save and arguments.sets:
        parser.error("--save is for the usual numbers of sets")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    before = time.process_time()
    rows: list[dict[str, Any]] = []
    for name, make in TARGETS.items():
        target, sets = make(), arguments.sets or SETS[name]
        for n in STEPS:
            for method in METHODS:
                row = {"target": name, "method": method, "evaluations": n}
                row["exact"] = round(exact_gap(target, sampler(method, n)), 6)
                if method == SAMPLED:
                    gap, error = measured_gap(target, sampler(method, n), sets)
                    row |= {"sets": sets, "gap": round(gap, 6), "error": round(error, 6)}
                rows.append(row)
                print(row, flush=True)
    if arguments.save:
        report = {
            "command": "python benchmarks/likelihood.py --save",
            **conditions(),
            "sde": repr(SDE),
            "samples": SAMPLES,
            "cpu_seconds": round(time.process_time() - before),
            "rows": rows,
        }
        path = Path(__file__).parent / "results" / "likelihood-cpu.json"
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        print("wrote benchmarks/results/likelihood-cpu.json")


if __name__ == "__main__":
    main()
