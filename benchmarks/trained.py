"""Samplers on trained networks: distances to held-out digits against the number of evaluations.

accuracy.py has exact scores, and all error is the sampler's. Here the network errs as well. Four
models: a DDPM on 8×8 digits, made here in a minute by the demonstration's recipe but on two thirds
of the digits, mnist.py's DDPM and NCSN, and, looked at only after all choices were made, a second
one on 8×8 digits with another prediction and schedule. Each is sampled under its own SDE;
peers.py's samplers ask the same network on the same range of noise levels. Every method starts from
one z, at σ(T) z, and its evaluations are counted at the network.

Two figures, both to held-out digits relative to the mean distance of disjoint parts of the
training digits of that size:

- **FD**: the Fréchet distance (squared); of raw pixels at 8×8, of features.py's features at 28×28.
- **W2**: sliced W2 of pixels.

At 8×8 they are means over parts of 400 samples, as large as those of the unit. ``recommended`` is
fitted on the training digits (``fit_seconds``, apart), up to 20 evaluations.

    python benchmarks/trained.py --save                     # all: half an hour of one core
    python benchmarks/trained.py --save --resume            # go on after a break
    python benchmarks/trained.py --only recommended --save  # these rows anew, the others stay
    python benchmarks/trained.py --models digits --steps 5,10 --only DDIM    # a part, to look at
    python benchmarks/trained.py --plot                     # the picture of the saved results

Every cell is saved in out/trained when it is done. --resume takes it from there where checkpoint
and number of samples are the same, whatever the library was then: each row says how and when it was
made. mnist.py's checkpoints are expected in out/mnist (``python benchmarks/mnist.py``, half an
hour), and what features.py and peers.py name installed; peers that are not are left out by name.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from machine import conditions
from peers import PEERS, Peer, libraries, require_evaluations
from torch import Tensor
from trained_cells import cached, origins
from trained_models import OUT, SUBJECTS, Subject, first_error
from trained_report import cell, markdown, merged, plot

import sdescore as ss

HERE = Path(__file__).resolve().parent
STEPS = (5, 8, 10, 15, 20, 50, 100)
BATCH = 100
SEED = 0

Recipe = Callable[[ss.LinearSDE, int, Tensor], ss.PredictorCorrector]
"""``(sde, evaluations, training digits) -> sampler``."""


def on(grid: ss.grids.Grid, predictor: ss.Predictor) -> Recipe:
    """A predictor of one evaluation a step, on a grid."""

    def recipe(sde: ss.LinearSDE, n: int, _: Tensor) -> ss.PredictorCorrector:
        return ss.PredictorCorrector(sde, predictor=predictor, grid=grid, steps=n)

    return recipe


def recommended(sde: ss.LinearSDE, n: int, seen: Tensor) -> ss.PredictorCorrector:
    """What the library recommends."""
    return ss.recommended_sampler(sde, n, data=seen, seed=SEED)


def as_if_exact(sde: ss.LinearSDE, n: int, seen: Tensor) -> ss.PredictorCorrector:
    """What it recommends for an exact score."""
    return ss.recommended_sampler(sde, n, data=seen, score_error=0.0, seed=SEED)


def freely_weighted(sde: ss.LinearSDE, n: int, seen: Tensor) -> ss.PredictorCorrector:
    """The recommended sampler with its method's weights free."""
    return ss.recommended_sampler(sde, n, data=seen, fit_weights=True, seed=SEED)


LOG_SNR, UNIFORM = ss.LogSNRGrid(), ss.UniformGrid()
OURS: dict[str, Recipe] = {
    "recommended": recommended,
    "recommended, exact score": as_if_exact,
    "recommended, free weights": freely_weighted,
    "Adams 2 corrected with 3, log-SNR": on(
        LOG_SNR, ss.ExponentialAdams(points=2, corrector_points=3)
    ),
    "Adams 2, log-SNR": on(LOG_SNR, ss.ExponentialAdams(points=2)),
    "Adams 2 midpoint, quadratic": on(
        ss.QuadraticGrid(), ss.ExponentialAdams(points=2, midpoint=True)
    ),
    "DDIM, log-SNR": on(LOG_SNR, ss.DDIM()),
    "DDIM, uniform": on(UNIFORM, ss.DDIM()),
    "Adams 2, η = 1, log-SNR": on(LOG_SNR, ss.ExponentialAdams(eta=1.0, points=2)),
    "ancestral, uniform": on(UNIFORM, ss.Ancestral()),
}
THEIRS = (
    ("diffusers", "DDIM, trailing"),
    ("diffusers", "DPM++2M, linspace"),
    ("diffusers", "UniPC, exponential"),
    ("diffusers", "UniPC, Karras"),
    ("k-diffusion", "dpmpp_2m, exponential"),
    ("k-diffusion", "dpmpp_2m, Karras"),
    ("azula", "vAB, rectified"),
)

# Who runs where: a cell of 28×28 digits and 20 evaluations costs 40 seconds.
ON_NCSN = (  # the grids and schedules of the others are a VP SDE's
    "recommended",
    "recommended, exact score",
    "Adams 2 corrected with 3, log-SNR",
    "DDIM, log-SNR",
    "dpmpp_2m, Karras",
)
NOT_ON_MNIST = (
    "recommended, free weights",
    "Adams 2, log-SNR",
    "DDIM, uniform",
    "UniPC, Karras",
    "dpmpp_2m, exponential",
)
LONG = ("Adams 2 corrected with 3, log-SNR", "Adams 2, η = 1, log-SNR", "ancestral, uniform")
MANY, FINE = 50, 100

# Whose samples are compared with the flow that they approximate, where that is cheap.
COMPARED = ("recommended", "recommended, exact score", "Adams 2 midpoint, quadratic")


def runs(model: str, method: str, n: int) -> bool:
    """Whether a method has a cell on a model at ``n`` evaluations."""
    if n >= MANY and method not in LONG:
        return False
    if model in ("digits", "cosine"):
        return True
    if model == "ncsn":
        return method in ON_NCSN and n in (5, 10, 20)
    return method not in NOT_ON_MNIST and n in (5, 10, 20, 50)


class Batches:
    """What peers.py takes for a target: a network, asked for ``BATCH`` samples at a time."""

    def __init__(self, model: ss.ScoreModel) -> None:
        self.model = model

    def score(self, sde: ss.LinearSDE) -> Batches:
        """The same network at the noise levels of ``sde``."""
        return Batches(self.model.under(sde))

    def denoise(self, y: Tensor, s: float) -> Tensor:
        """``E[x₀ | x_t = y]``, the time being ``s``."""
        return torch.cat([self.model.denoise(part, s) for part in y.split(BATCH)])


class Drawn(NamedTuple):
    """Samples, what a fit before the first of them took, and the sampler where it is ours."""

    x: Tensor
    fit_seconds: float = 0.0
    sampler: ss.PredictorCorrector | None = None


Method = tuple[str, str, Callable[[Subject, Tensor, int], Drawn]]
"""``(library, name, sample)``."""


def ours(name: str) -> Method:
    """One of OURS."""

    def sample(subject: Subject, z: Tensor, n: int) -> Drawn:
        before = time.process_time()
        sampler = OURS[name](subject.model.sde, n, subject.seen)
        fit_seconds = time.process_time() - before
        return Drawn(from_noise(sampler, subject.model, z), fit_seconds, sampler)

    return "sdescore", name, sample


def from_noise(sampler: ss.PredictorCorrector, score: Any, z: Tensor) -> Tensor:
    """Samples from the standard normal ``z``."""
    sigma = sampler.sde.marginal(sampler.times[0])[1].item()
    return sampler.sample(score, init=sigma * z, seed=SEED, max_batch=BATCH)


def off_flow(sampler: ss.PredictorCorrector, score: Any, z: Tensor) -> dict[str, float]:
    """How far samples end from the finely solved flow of the same score and noise.

    Over samples, the median and the root mean square of a sample's own root mean square.
    """
    fine = OURS["Adams 2 corrected with 3, log-SNR"](sampler.sde, FINE, z)
    ends = (from_noise(each, score, z) for each in (sampler, fine))
    squared = torch.sub(*ends).flatten(1).square().mean(1)
    return {"median": squared.median().sqrt().item(), "rms": squared.mean().sqrt().item()}


def theirs(peer: Peer) -> Method:
    """A peer on the network."""

    def sample(subject: Subject, z: Tensor, n: int) -> Drawn:
        with torch.inference_mode():
            return Drawn(peer.sample(Batches(subject.model), z, subject.model.sde, n, SEED))

    return peer.package, peer.method, sample


def methods(only: str = "") -> list[Method]:
    """Ours, and the peers in THEIRS that are installed; those whose name holds ``only``."""
    installed, named = libraries(), {(peer.package, peer.method): peer for peer in PEERS}
    found = [ours(name) for name in OURS]
    found += [theirs(named[who]) for who in THEIRS if installed[who[0]] is not None]
    return [m for m in found if only.lower() in f"{m[0]} {m[1]}".lower()]


def measure(subject: Subject, method: Method, n: int) -> dict[str, Any]:
    """One cell.

    Raises
    ------
    RuntimeError
        The network was not called ``n`` times a sample.
    """
    library, name, sample = method
    shape = (subject.samples, *subject.held.shape[1:])
    z = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
    sizes: list[int] = []
    hook = subject.model.net.register_forward_hook(
        lambda _, inputs, __: sizes.append(len(inputs[0]))
    )
    before = time.process_time()
    drawn = sample(subject, z, n)
    seconds = time.process_time() - before - drawn.fit_seconds
    hook.remove()
    require_evaluations(sum(sizes), n * subject.samples, f"{library}, {name}")
    found = {
        **subject.judge(drawn.x.float()),
        "cpu_seconds": round(seconds, 2),
        "fit_seconds": round(drawn.fit_seconds, 1),
        "made": {
            "command": f"python benchmarks/trained.py {shlex.join(sys.argv[1:])}".rstrip(),
            "date": date.today().isoformat(),
            **conditions(),
        },
    }
    if name.startswith("recommended"):
        found["times"] = drawn.sampler.times.tolist()
        found["predictor"] = repr(drawn.sampler.predictor)
    if subject.exact is not None and name in COMPARED and n < MANY:
        scores = {"network": subject.model, "exact": subject.exact}
        found["off_flow"] = {k: off_flow(drawn.sampler, s, z[:400]) for k, s in scores.items()}
    return found


def run(
    name: str,
    subject: Subject,
    steps: Sequence[int],
    selected: Sequence[Method],
    resume: bool = False,
) -> dict[str, Any]:
    """Every cell of a model, few evaluations first: ``{title, …, rows: [{…, cells}]}``."""
    key = {"checkpoint": subject.checkpoint, "samples": subject.samples}
    cells: dict[tuple[str, str], dict[str, Any]] = {method[:2]: {} for method in selected}
    for n in steps:
        for method in selected:
            library, called, _ = method
            if not runs(name, called, n):
                continue
            path = OUT / "cells" / name / f"{n} {library} {called}.json"
            found = cached(path, key, lambda m=method, n=n: measure(subject, m, n), resume)
            cells[library, called][str(n)] = found
            print(f"{name:8s}{n:4d}  {library:12s}{called:36s}{cell(found)}", flush=True)
    installed = {"sdescore": ss.__version__, **libraries()}
    return {
        "title": subject.title,
        "sde": type(subject.model.sde).__name__,
        "checkpoint": subject.checkpoint,
        "trained_on": len(subject.seen),
        "held_out": len(subject.held),
        "samples": subject.samples,
        "floors": subject.judge.floors,
        "reference": subject.reference,
        "first_error": round(first_error(subject.model, subject.seen), 4),
        "rows": [
            {
                "library": library,
                "version": installed[library],
                "method": called,
                "made": origins(found.values()),
                "cells": found,
            }
            for (library, called), found in cells.items()
            if found
        ],
    }


def main() -> None:
    """Run, print, and save where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(SUBJECTS), help="such as digits,ddpm")
    parser.add_argument("--steps", help="evaluations, such as 5,8,10")
    parser.add_argument("--only", default="", help="methods whose name holds this")
    parser.add_argument("--resume", action="store_true", help="take cells from out/trained")
    parser.add_argument("--save", action="store_true", help="put the rows into the saved results")
    parser.add_argument("--plot", action="store_true", help="draw the saved results, run nothing")
    arguments = parser.parse_args()
    target = HERE / "results" / "trained-cpu.json"
    picture = HERE.parent / "docs" / "_static" / "trained" / "trained.png"
    if arguments.plot:
        plot(json.loads(target.read_text()), picture)
        return
    names = arguments.models.split(",")
    if not set(names) <= set(SUBJECTS):
        parser.error(f"expected models among {', '.join(SUBJECTS)}, got {arguments.models}")
    if arguments.save and arguments.steps:
        parser.error("--save is for whole rows: leave --steps out")
    steps = tuple(int(n) for n in arguments.steps.split(",")) if arguments.steps else STEPS
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    selected = methods(arguments.only)
    report = {}
    for name in names:
        report[name] = run(name, SUBJECTS[name](), steps, selected, arguments.resume)
    if arguments.save:
        report = merged(json.loads(target.read_text()) if target.exists() else {}, report)
        target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        target.with_suffix(".md").write_text(markdown(report))
        plot(report, picture)
    print("\n" + markdown(report))
    for library, found in libraries().items():
        if found is None:
            print(f"{library} is not installed: left out")


if __name__ == "__main__":
    main()
