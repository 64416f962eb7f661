"""Samples of a posterior against the exact one: methods, problems and dimensions in one table.

The data are mixtures of Gaussians in 2, 6 and 64 dimensions, so their score is exact and their
posterior given y = A x + n is known: in closed form for a linear A, by quadrature for the nonlinear
one. An error is the sliced W2 distance of a method's draws from exact draws, in multiples of the
distance of two sets of exact draws of the same size. The coverage is the share of exact draws that
rank between 5 % and 95 % of the method's own in an element, 90 % where both have one distribution.
Stray is how far the shares of the modes are from the exact ones.

    python benchmarks/posterior.py           # prints the table, in an hour or less
    python benchmarks/posterior.py --save    # and writes benchmarks/results/posterior-cpu.json

The rows of azula, where it is installed, run in the same process on the same scores.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import conditions
from posterior_problems import PROBLEMS, SDE, STEPS, Method, Problem, Unable, problem
from torch import Tensor

import sdescore as ss
from sdescore.errors import DivergenceError
from sdescore.metrics import sliced_wasserstein

RESULT = Path(__file__).parent / "results" / "posterior-cpu.json"
SIZES = {2: 1000, 6: 3000, 64: 300}  # draws
PARTICLES = 3000  # of SMC, from which the draws are taken
MEASUREMENTS = {2: 8, 6: 4, 64: 3}  # of SMC in 64 dimensions the first alone


class Counted(torch.nn.Module):
    """A score that counts its calls."""

    def __init__(self, score: ss.MixtureScore) -> None:
        super().__init__()
        self.score, self.sde, self.calls = score, score.sde, 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.score(x, t)


def guided(kind: Callable[..., Any], **options: Any) -> Method:
    """A score of the posterior, sampled by the stochastic two-step method."""

    def run(task: Problem, n: int, seed: int) -> tuple[Tensor, None]:
        score = kind(task.prior, task.measurement, **options)
        predictor = ss.ExponentialAdams(eta=1.0, midpoint=True)
        sampler = ss.PredictorCorrector(SDE, predictor=predictor, steps=STEPS)
        return sampler.sample(score, (n, *task.measurement.operator.event_shape), seed=seed), None

    return run


def projected(kind: Callable[..., Any], **options: Any) -> Method:
    """A sampler that projects; on linear problems alone."""

    def run(task: Problem, n: int, seed: int) -> tuple[Tensor, None]:
        if task.matrix is None:
            raise Unable
        sampler = kind(SDE, measurement=task.measurement, steps=STEPS, **options)
        return sampler.sample(task.prior, (n, task.matrix.shape[1]), seed=seed), None

    return run


def particles(kind: Callable[..., Any], steps: int = STEPS) -> Method:
    """Twisted SMC, its particles drawn anew in proportion to their weights."""

    def run(task: Problem, n: int, seed: int) -> tuple[Tensor, float]:
        smc = ss.inverse.TwistedSMC(SDE, steps=steps)
        guide = kind(task.prior, task.measurement)
        found = smc.sample(guide, PARTICLES, seed=seed, max_batch=1000)
        return found.draw(n, seed=seed), found.log_evidence

    return run


OURS: dict[str, Method] = {
    "dps": guided(ss.inverse.dps),
    "pigdm": guided(ss.inverse.pigdm),
    "mmps": guided(ss.inverse.mmps),
    "moments": guided(ss.inverse.moments),
    "diffpir": guided(ss.inverse.diffpir),
    "Projection": projected(ss.inverse.Projection),
    "RePaint": projected(ss.inverse.RePaint, jump=1, resamplings=3),
    "TwistedSMC(mmps)": particles(ss.inverse.mmps),
    "TwistedSMC(moments)": particles(ss.inverse.moments),
}
EXPENSIVE = {"moments": 32, "TwistedSMC(moments)": 32}  # not run from so many measured numbers on


def coverage(x: Tensor, exact: Tensor) -> float:
    """The share of exact draws inside the central 90 % of ``x``, in the mean of the elements."""
    low, high = x.double().quantile(torch.tensor([0.05, 0.95], dtype=torch.float64), dim=0)
    return ((exact > low) & (exact < high)).double().mean().item()


def measure(method: Method, name: str, d: int, n: int, measurements: int) -> dict[str, Any] | None:
    """A row's numbers, the means over a few measurements; None where the method is unable."""
    found: dict[str, list[float]] = {
        key: [] for key in ("w2", "coverage", "stray", "evidence", "seconds")
    }
    for seed in range(measurements):
        exact = task = problem(name, d, seed)
        counted: Any = Counted(task.prior)
        task = Problem(counted, task.measurement, task.draw, task.log_evidence, task.matrix)
        start = time.process_time()
        try:
            x, evidence = method(task, n, seed)
        except Unable:
            return None
        except DivergenceError:
            x, evidence = torch.full((n, d), torch.nan), None
        found["seconds"].append(time.process_time() - start)
        sets = [task.draw(n, 1000 + seed * 10 + i) for i in range(4)]
        pairs = [(0, 1), (2, 3), (0, 2), (1, 3)]
        own = sum(sliced_wasserstein(sets[i], sets[j], 64) for i, j in pairs) / len(pairs)
        usable = bool(x.isfinite().all())
        error = sum(sliced_wasserstein(x, s, 64) for s in sets) / 4 if usable else float("inf")
        found["w2"].append(error / own)
        found["coverage"].append(coverage(x, sets[0].double()) if usable else float("nan"))
        stray = exact.stray(x) if usable else None
        if stray is not None:
            found["stray"].append(stray)
        if evidence is not None:
            found["evidence"].append(abs(evidence - task.log_evidence))
    row = {key: sum(values) / len(values) for key, values in found.items() if values}
    return row | {"evaluations": counted.calls}


def methods(peers: bool) -> dict[str, Method]:
    """Ours, and azula's where it is installed."""
    if not peers:
        return OURS
    from posterior_peers import AZULAS

    return OURS | AZULAS


def rows(
    dimensions: dict[int, int], measurements: dict[int, int], names: tuple[str, ...], peers: bool
) -> list[dict[str, Any]]:
    """All rows: method, problem, dimension, and what was measured."""
    found = []
    for d, n in dimensions.items():
        for name in names:
            m = problem(name, d, 0).measurement.y.numel()
            for method, run in methods(peers).items():
                if m >= EXPENSIVE.get(method, m + 1):
                    continue
                repeats = 1 if d == 64 and method.startswith("TwistedSMC") else measurements[d]
                row = measure(run, name, d, n, repeats)
                if row is not None:
                    found.append({"d": d, "problem": name, "method": method, **row})
                    print(line(found[-1]), flush=True)
    return found


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    evidence = f"{row['evidence']:.3f}" if "evidence" in row else "–"
    stray = f"{100 * row['stray']:.2f} %" if "stray" in row else "–"
    return (
        f"{row['d']:>3} {row['problem']:<14} {row['method']:<20} W2 {row['w2']:8.2f}  "
        f"stray {stray:>7}  coverage {100 * row['coverage']:5.1f} %  evidence {evidence:>6}  "
        f"{row['evaluations']:>5} calls  {row['seconds']:6.2f} s"
    )


def table(report: dict[str, Any]) -> str:
    """The error of each method on each problem, by dimension."""
    found = {(r["method"], r["problem"], r["d"]): r["w2"] for r in report["rows"]}
    lines = ["| method | " + " | ".join(PROBLEMS) + " |", "|---|" + "---|" * len(PROBLEMS)]
    for method in dict.fromkeys(row["method"] for row in report["rows"]):
        cells = []
        for name in PROBLEMS:
            numbers = [found.get((method, name, d)) for d in SIZES]
            shown = [f"{v:.3g}" if v is not None else "–" for v in numbers]
            cells.append(", ".join(shown) if set(shown) != {"–"} else "–")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cost_table(report: dict[str, Any]) -> str:
    """Coverage, strays, evidence, calls of the score, and time relative to mmps, by method."""
    times = {(r["problem"], r["d"]): r["seconds"] for r in report["rows"] if r["method"] == "mmps"}
    lines = [
        "| method | coverage, % | stray in 64 dimensions, % | error of log p(y) in 2, 6, 64 "
        "dimensions, nats | calls | time |",
        "|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(row["method"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["method"] == method]
        covers = [100 * row["coverage"] for row in rows if row["coverage"] == row["coverage"]]
        evidence = [
            max((r["evidence"] for r in rows if r["d"] == d and "evidence" in r), default=None)
            for d in SIZES
        ]
        strays = [100 * r["stray"] for r in rows if r["d"] == max(SIZES) and "stray" in r]
        stray = f"{min(strays):.1f}–{max(strays):.1f}" if strays else "–"
        shown = ", ".join("–" if e is None else f"{e:.3f}" for e in evidence)
        calls = sorted({row["evaluations"] for row in rows})
        ratios = sorted(row["seconds"] / times[row["problem"], row["d"]] for row in rows)
        lines.append(
            f"| {method} | {min(covers):.0f}–{max(covers):.0f} | {stray} | "
            f"{shown if set(evidence) != {None} else '–'} | "
            f"{calls[0]}{f'–{calls[-1]}' if len(calls) > 1 else ''} | "
            f"{ratios[len(ratios) // 2]:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = rows(SIZES, MEASUREMENTS, PROBLEMS, not options.no_peers)
    report = {**conditions(), "steps": STEPS, "draws": SIZES, "measurements": MEASUREMENTS}
    report["particles"] = PARTICLES
    if not options.no_peers:
        from posterior_peers import version

        report["azula"] = version()
    if options.save:
        RESULT.write_text(json.dumps({**report, "rows": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
