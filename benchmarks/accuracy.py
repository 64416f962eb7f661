"""How close samplers come to three known distributions, ours and our peers', by evaluations.

The score is exact, so all error is the sampler's. 20,000 samples are judged by two figures:

- **W2**: sliced W2 (128 fixed directions) to 20,000 exact draws, the reference, as a multiple of
  the floor, the mean distance of eight other exact sets of that size to the same reference. So
  exact draws read 1 on average, and the luck of the one reference is not taken for skill.
- **NLL**: the mean of −log p over the samples less that over exact draws, in nats per dimension.
  Below 0 the samples are too smooth, above 0 they stray where there are no data; W2 sees little of
  either.

A method is *inside the bar* at N evaluations where on every target W2 is at most 1.1 times the
largest of those eight distances and the NLL gap within ±0.05. One float32 state, one initial
noise and one SDE, VPSDE(0.1, 20) on [1e-3, 1], for all. Evaluations are counted as they are made;
a method with several a step makes the largest number that is at most N.

Grids of ours that are fitted see 4,000 exact draws of their own seed, and never the score, the
reference or a peer; but for one row, they assume an exact score. Their fit is timed apart
(``fit_seconds``), and made for N in FITTED only: beyond, the equal steps in log-SNR of the same
predictor are there to read.

    python benchmarks/accuracy.py --quick               # 2,000 samples, N = 5, 10, 20
    python benchmarks/accuracy.py --steps 5,8,10,15,20  # few steps, all 20,000 samples
    python benchmarks/accuracy.py --save                # all N; results and picture: an hour
    python benchmarks/accuracy.py --plot                # the picture alone, of the saved results
    python benchmarks/accuracy.py --held-out --save     # few steps, three targets unseen before
    python benchmarks/accuracy.py --only Adams --targets ring    # a part, to look at
    python benchmarks/accuracy.py --only recommended --merge     # make a method's saved cells again

500 and 1000 evaluations are for the stochastic methods in LONG only.
Peers that are not installed are left out by name (see peers.py for how to install them).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accuracy_judge import REFERENCE_SEED, SEED, Judge
from accuracy_report import cell, inside, markdown, plot
from machine import conditions
from peers import PEERS, Peer, libraries, require_evaluations
from targets import HELD_OUT, TARGETS, Target
from torch import Tensor

import sdescore as ss

HERE = Path(__file__).resolve().parent
SDE = ss.VPSDE(beta_min=0.1, beta_max=20.0)
STEPS = (5, 8, 10, 15, 20, 50, 100, 500, 1000)
FEW = (5, 8, 10, 15, 20)
MANY = 500
DATA_SEED = REFERENCE_SEED - 1

Recipe = Callable[[ss.LinearSDE, int, Tensor], ss.PredictorCorrector]
"""``(sde, evaluations, data) -> sampler``; ``data`` are 4,000 exact draws of their own seed."""


def log_snr(predictor: ss.Predictor, denoise: bool | str = True) -> Recipe:
    """A predictor on a grid uniform in log-SNR, with as many steps as the evaluations allow."""

    def recipe(sde: ss.LinearSDE, n: int, _: Tensor) -> ss.PredictorCorrector:
        steps = (n - 1) // predictor.evaluations + 1  # the last of them denoises, with one
        return ss.PredictorCorrector(
            sde, predictor=predictor, grid=ss.LogSNRGrid(), steps=steps, denoise=denoise
        )

    return recipe


def optimal(predictor: ss.Predictor) -> Recipe:
    """A predictor on its grid of least error on a surrogate of the data."""

    def recipe(sde: ss.LinearSDE, n: int, data: Tensor) -> ss.PredictorCorrector:
        grid = ss.optimal_grid(sde, predictor, n, data=data, score_error=0.0, seed=SEED)
        return ss.PredictorCorrector(sde, predictor=predictor, grid=grid)

    return recipe


def recommended(sde: ss.LinearSDE, n: int, data: Tensor) -> ss.PredictorCorrector:
    """What the library recommends for an exact score, as all are here."""
    return ss.recommended_sampler(sde, n, data=data, score_error=0.0, seed=SEED)


def for_networks(sde: ss.LinearSDE, n: int, data: Tensor) -> ss.PredictorCorrector:
    """What it recommends by default, with a network's errors in mind."""
    return ss.recommended_sampler(sde, n, data=data, seed=SEED)


# Ours. A configuration is a line here.
OURS: dict[str, Recipe] = {
    "recommended, exact score": recommended,
    "recommended, default": for_networks,
    "Adams 2 corrected with 3, optimal grid": optimal(
        ss.ExponentialAdams(points=2, corrector_points=3)
    ),
    "Adams 3, optimal grid": optimal(ss.ExponentialAdams(points=3)),
    "Adams 2, η = 1, optimal grid": optimal(ss.ExponentialAdams(eta=1.0, points=2)),
    "ancestral, optimal grid": optimal(ss.Ancestral()),
    "Euler–Maruyama, optimal grid": optimal(ss.EulerMaruyama()),
    "Euler–Maruyama, log-SNR": log_snr(ss.EulerMaruyama()),
    "ancestral, log-SNR": log_snr(ss.Ancestral()),
    "DDIM, log-SNR": log_snr(ss.DDIM()),
    "Adams 2, log-SNR": log_snr(ss.ExponentialAdams(points=2)),
    "Adams 3, log-SNR": log_snr(ss.ExponentialAdams(points=3)),
    "Adams 2 corrected with 3, log-SNR": log_snr(ss.ExponentialAdams(points=2, corrector_points=3)),
    "Adams 3 corrected with 3, log-SNR": log_snr(ss.ExponentialAdams(points=3, corrector_points=3)),
    "Adams 2, η = 1, log-SNR": log_snr(ss.ExponentialAdams(eta=1.0, points=2)),
    "Adams 2 corrected with 3, η = 1, log-SNR": log_snr(
        ss.ExponentialAdams(eta=1.0, points=2, corrector_points=3)
    ),
    "Runge–Kutta 2 at 2/5, η = 1, flow ending, log-SNR": log_snr(
        ss.ExponentialRungeKutta(eta=1.0, stages=2, node=0.4), denoise="flow"
    ),
    "SEEDS-3, log-SNR": log_snr(ss.ExponentialRungeKutta(eta=1.0, stages=3, output="epsilon")),
    "stochastic Heun, log-SNR": log_snr(ss.StochasticHeun(eta=1.0)),
}

# Where a grid is fitted, and for which N. The last two are there to compare grids.
FITTED = {
    "recommended, exact score": FEW,
    "recommended, default": FEW,
    "Adams 2, η = 1, optimal grid": (*FEW, 50),
    "ancestral, optimal grid": (*FEW, 50),
    "Euler–Maruyama, optimal grid": (*FEW, 50),
    "Adams 2 corrected with 3, optimal grid": (5, 10),
    "Adams 3, optimal grid": (5, 10),
}
COMPARED = {"Euler–Maruyama, log-SNR": (*FEW, 50)}  # with what is fitted, where that is

# Who runs at 500 evaluations and more: some stochastic ones. A cell costs up to a minute.
LONG = (
    "ancestral, log-SNR",
    "Adams 2, η = 1, log-SNR",
    "Runge–Kutta 2 at 2/5, η = 1, flow ending, log-SNR",
    "dpmpp_2m_sde, exponential",
)


def runs(method: str, n: int) -> bool:
    """Whether a method has a cell at ``n`` evaluations."""
    return n in {**FITTED, **COMPARED}.get(method, (n,)) and (n < MANY or method in LONG)


class CountedScore:
    """A score that counts its calls."""

    def __init__(self, score: ss.MixtureScore) -> None:
        self.score, self.calls = score, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.score(x, t)


class Drawn(NamedTuple):
    """Samples, their evaluations, and the seconds that a fit before the first of them took."""

    x: Tensor
    evaluations: int
    fit_seconds: float = 0.0


def sample_ours(name: str, recipe: Recipe, target: Target, z: Tensor, n: int) -> Drawn:
    """Samples like ``z`` from at most ``n`` evaluations.

    Raises
    ------
    RuntimeError
        More evaluations than that, or than the sampler says.
    """
    data = target.sample(4000, seed=DATA_SEED)
    before = time.process_time()
    sampler = recipe(SDE, n, data)
    fit_seconds = time.process_time() - before
    score = CountedScore(target.score(SDE))
    sigma = SDE.marginal(sampler.times[0])[1].item()
    x = sampler.sample(score, init=sigma * z, seed=SEED)
    require_evaluations(score.calls, sampler.evaluations, name)
    if score.calls > n:
        raise RuntimeError(f"expected at most {n} evaluations of {name}, got {score.calls}")
    return Drawn(x, score.calls, fit_seconds)


def sample_peer(peer: Peer, target: Target, z: Tensor, n: int) -> Drawn:
    """Samples like ``z``."""
    return Drawn(peer.sample(target, z, SDE, n, SEED), peer.evaluations(n))


Method = tuple[str, str, Callable[[Target, Tensor, int], Drawn]]


def methods(only: str = "") -> list[Method]:
    """``(library, method, sample)`` of ours and of the peers that are installed."""

    def ours(name: str, recipe: Recipe) -> Method:
        return "sdescore", name, lambda *a: sample_ours(name, recipe, *a)

    def theirs(peer: Peer) -> Method:
        return peer.package, peer.method, lambda *a: sample_peer(peer, *a)

    installed = libraries()
    found = [ours(*item) for item in OURS.items()]
    found += [theirs(peer) for peer in PEERS if installed[peer.package] is not None]
    return [m for m in found if only.lower() in f"{m[0]} {m[1]}".lower()]


def run(
    names: Sequence[str], steps: Sequence[int], n: int, selected: Sequence[Method]
) -> dict[str, Any]:
    """Every cell: ``{target: {floor …, rows: [{library, method, cells: {N: …}}]}}``.

    All methods take their turn at one N before the next, so that a slow minute hits all alike.
    """
    report = {}
    for name in names:
        target = {**TARGETS, **HELD_OUT}[name]()
        judge = Judge(target, n)
        z = torch.randn(n, target.dim, generator=torch.Generator().manual_seed(SEED))
        rows: list[dict[str, Any]] = [
            {"library": library, "method": method, "cells": {}} for library, method, _ in selected
        ]
        for steps_here in steps:
            for row, (library, method, sample) in zip(rows, selected, strict=True):
                if not runs(method, steps_here):
                    continue
                before = time.process_time()
                x, evaluations, fit_seconds = sample(target, z, steps_here)
                seconds = time.process_time() - before - fit_seconds
                found = {
                    **judge(x),
                    "evaluations": evaluations,
                    "cpu_seconds": round(seconds, 3),
                    "fit_seconds": round(fit_seconds, 3),
                }
                row["cells"][str(steps_here)] = found
                shown = cell(found)
                print(f"{name:12s}{steps_here:5d}  {library:12s}{method:42s}{shown}", flush=True)
        report[name] = {**judge.report(), "rows": rows}
    return report


def merged(saved: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """The saved report with the cells of another, whose command it lists.

    Samples are a function of seeds, so a cell made again stands beside the others as if it had
    been made with them; seconds do not.
    """
    for name, target in part["targets"].items():
        rows = {(row["library"], row["method"]): row for row in saved["targets"][name]["rows"]}
        for row in target["rows"]:
            rows[row["library"], row["method"]]["cells"] |= row["cells"]
    again = {key: part[key] for key in ("command", "steps")} | {
        "methods": sorted({row["method"] for t in part["targets"].values() for row in t["rows"]})
    }
    return saved | {"made_again": [*saved.get("made_again", []), again]}


def main() -> None:
    """Run, print, and save where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2,000 samples, N = 5, 10, 20")
    parser.add_argument("--steps", help="evaluations, such as 5,8,10")
    parser.add_argument("--samples", type=int, help="samples a cell (20,000)")
    parser.add_argument("--targets", help="such as ring,digits")
    parser.add_argument("--held-out", action="store_true", help="the other three targets")
    parser.add_argument("--only", default="", help="methods whose name holds this")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/")
    parser.add_argument(
        "--merge", action="store_true", help="put the cells run into the saved results"
    )
    parser.add_argument("--plot", action="store_true", help="draw the saved results, run nothing")
    arguments = parser.parse_args()
    results, picture = HERE / "results", HERE.parent / "docs" / "_static" / "accuracy"
    if arguments.plot:
        report = json.loads((results / "accuracy-cpu.json").read_text())
        plot(report, picture / "accuracy.png")
        return
    targets = HELD_OUT if arguments.held_out else TARGETS
    names = arguments.targets.split(",") if arguments.targets else list(targets)
    if not set(names) <= set(targets):
        parser.error(f"expected targets among {', '.join(targets)}, got {arguments.targets}")
    part = arguments.quick or arguments.only or arguments.samples or len(names) < len(targets)
    if arguments.merge and arguments.samples:
        parser.error("--merge is for the usual number of samples")
    if arguments.save and part:
        parser.error("--save is for all methods, targets and samples; --steps may go with it")
    steps = (5, 10, 20) if arguments.quick else FEW if arguments.held_out else STEPS
    if arguments.steps:
        steps = tuple(int(n) for n in arguments.steps.split(","))
    n = arguments.samples or (2000 if arguments.quick else 20_000)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    before = time.process_time()
    parts = run(names, steps, n, methods(arguments.only))
    flag = " --held-out" if arguments.held_out else ""
    flag += f" --steps {arguments.steps}" if arguments.steps else ""
    flag += f" --only {arguments.only}" if arguments.only else ""
    flag += " --merge" if arguments.merge else " --save"
    report = {
        "command": f"python benchmarks/accuracy.py{flag}",
        **conditions(),
        "sde": repr(SDE),
        "peers": libraries(),
        "samples": n,
        "steps": list(steps),
        "cpu_seconds": round(time.process_time() - before),
        "inside_bar": inside(parts, steps),
        "targets": parts,
    }
    if arguments.merge:
        name = "accuracy-held-out-cpu" if arguments.held_out else "accuracy-cpu"
        report = merged(json.loads((results / f"{name}.json").read_text()), report)
        report["inside_bar"] = inside(report["targets"], report["steps"])
    print("\n" + markdown(report))
    for library, found in report["peers"].items():
        if found is None:
            print(f"{library} is not installed: left out")
    if arguments.save or arguments.merge:
        name = "accuracy-held-out-cpu" if arguments.held_out else "accuracy-cpu"
        (results / f"{name}.json").write_text(
            json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        )
        (results / f"{name}.md").write_text(markdown(report))
        if not arguments.held_out:
            plot(report, picture / "accuracy.png")
        print(f"wrote benchmarks/results/{name}.json and .md")


if __name__ == "__main__":
    main()
