"""What a network should predict, and at which times it should learn: data × SDE × convention.

Every convention trains the same network on the same data for the same number of steps, and every
predictor of the list samples from each of them. Two figures a cell, each the worst of its
predictors:

- far: the share of samples that lie farther from their nearest training datum than 99.7 % of
  held-out data do, in percent. Real data read 0.3.
- W2: the sliced Wasserstein distance to held-out data, relative to that of two sets of real data
  of the same sizes. Real data read 1.

The data are two moons, eight narrow Gaussians in ten dimensions, a table of 30 columns of other
scales, and digits 8×8 (as vectors). The first table compares what papers do, each one argument away
from the library's default:

- default: EDM's F, ¼ log(σ/α), EDM's weight, and times that the number of dimensions decides: what
  ``ss.ScoreModel(net, sde)`` and ``ss.train(model, data)`` do with nothing else said.
- EDM: the same, with EDM's times.
- F, uniform: the same, with times uniform in t.
- ε: DDPM's and score_sde's: ε, time t, weight σ², uniform times.
- v: progressive distillation's v, time t, weight σ², uniform times.
- x₀: the clean data, ¼ log(σ/α), weight min-SNR, uniform times.

The second table changes one thing of the default at a time, on VP, for two of the targets.

    python benchmarks/defaults.py           # the tables, about an hour on one core
    python benchmarks/defaults.py --save    # and writes benchmarks/results/defaults-cpu.*
    python benchmarks/defaults.py --add     # runs what that file has not, and adds it; a cell does
                                            # not depend on the others
    python benchmarks/defaults.py --targets moons --sdes vp --seeds 3
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from machine import conditions, machine_sentence
from torch import Tensor

import sdescore as ss
from sdescore.datasets import digits, two_moons
from sdescore.metrics import relative_to_floor, sliced_wasserstein

RESULTS = Path(__file__).parent / "results" / "defaults-cpu"
SDES = {
    "vp": ss.VPSDE(),
    "ve": ss.VESDE(),
    "subvp": ss.SubVPSDE(),
    "cosine": ss.CosineVPSDE(),
    "edm": ss.EDMSDE(),
    "flow": ss.RectifiedFlowSDE(),
}
EVERYWHERE = ("default", "ε")  # on every SDE; the other conventions run on VP, and VE for the moons
CHANGED = ("moons", "digits")  # the targets of the second table
COUNT, STEPS, BATCH, LR = 1000, 1000, 512, 5e-3


def mixture(n: int, seed: int) -> Tensor:
    """Eight narrow Gaussians in ten dimensions, of standard deviation 0.1 about far centres."""
    centres = 2 * torch.randn(8, 10, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(8, (n,), generator=generator)
    return centres[which] + 0.1 * torch.randn(n, 10, generator=generator)


def images(n: int, seed: int) -> Tensor:
    """Digits 8×8 as vectors; the two parts are disjoint."""
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    part = order[:1297] if seed == 0 else order[1297:]
    return digits()[part].flatten(1)[:n]


@cache
def cells() -> Tensor:
    """The table of 569 breast tumours: 30 positive columns, of scales from 0.003 to 600."""
    from sklearn.datasets import load_breast_cancer

    table = torch.from_numpy(load_breast_cancer().data).float()
    return table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]


TARGETS: dict[str, Callable[[int, int], Tensor]] = {
    "moons": lambda n, seed: two_moons(n, seed=seed),
    "mixture": mixture,
    "table": lambda n, seed: (cells()[:399] if seed == 0 else cells()[399:])[:n],
    "digits": images,
}


Arguments = tuple[dict[str, Any], dict[str, Any]]
"""Of the model and of training."""

UNIFORM = {"times": ss.losses.UniformTimes()}
EDM_TIMES = ss.losses.LogNormalTimes(-1.2 + math.log(2), 1.2)  # whose data have deviation 0.5

CONVENTIONS: dict[str, Arguments] = {
    "default": ({}, {}),
    "EDM": ({}, {"times": EDM_TIMES}),
    "F, uniform": ({}, UNIFORM),
    "ε": ({"prediction": "epsilon"}, UNIFORM),
    "v": ({"prediction": "v"}, UNIFORM),
    "x₀": (
        {"prediction": "x0", "time_input": "quarter_log_sigma"},
        {**UNIFORM, "weighting": ss.losses.MinSNR()},
    ),
}

CHANGES: dict[str, Arguments] = {
    "time input t": ({"time_input": "t"}, {}),
    "time input log-SNR": ({"time_input": "log_snr"}, {}),
    "weight σ²": ({}, {"weighting": "sigma2"}),
    "weight min-SNR": ({}, {"weighting": ss.losses.MinSNR()}),
    "times of images": ({}, {"times": ss.losses.LogNormalTimes(-0.5, 1.2, stratified=True)}),
    "times of planes": ({}, {"times": ss.losses.LogNormalTimes(-1.5, 1.2, stratified=True)}),
    "narrow times": ({}, {"times": ss.losses.LogNormalTimes(-1.0, 0.8, stratified=True)}),
    "data not standardised": ({}, {"standardize": False}),
    "rate 1e-3": ({}, {"lr": 1e-3}),
    "rate 2e-3": ({}, {"lr": 2e-3}),
    "rate 1e-2": ({}, {"lr": 1e-2}),
}


def samplers(sde: ss.LinearSDE) -> dict[str, ss.PredictorCorrector]:
    """Every kind of predictor at a number of steps that is enough for it."""
    make = partial(ss.PredictorCorrector, sde)
    log_snr = ss.LogSNRGrid()
    return {
        "reverse diffusion + Langevin": make(
            predictor=ss.ReverseDiffusion(), corrector=ss.Langevin(), steps=100, grid=log_snr
        ),
        "Euler–Maruyama": make(predictor=ss.EulerMaruyama(), steps=100, grid=log_snr),
        "ancestral": make(predictor=ss.Ancestral(), steps=100, grid=log_snr),
        "DDIM": make(predictor=ss.DDIM(), steps=50, grid=log_snr),
        "Heun": make(predictor=ss.Heun(), steps=30, grid=log_snr),
        "exponential Adams": make(predictor=ss.ExponentialAdams(), steps=20, grid=log_snr),
    }


@cache
def real(target: str) -> tuple[Tensor, Tensor]:
    """Training data and held-out data, in their own units."""
    return TARGETS[target](4000, 0), TARGETS[target](COUNT, 1)


@cache
def reach(target: str) -> tuple[Tensor, float]:
    """The units in which distances are measured, and the one that 99.7 % of held-out data keep."""
    data, held = real(target)
    unit = data.std(0) if target == "table" else torch.ones(())
    nearest = torch.cdist(held / unit, data / unit).min(1).values
    return unit, nearest.quantile(0.997).item()


def judge(target: str, x: Tensor) -> tuple[float, float]:
    """(far in percent, W2 relative to real data)."""
    data, held = real(target)
    unit, most = reach(target)
    if not bool(x.isfinite().all()):
        return 100.0, float("inf")
    far = (torch.cdist(x / unit, data / unit).min(1).values > most).double().mean().item()
    metric = partial(sliced_wasserstein, seed=0)
    return 100 * far, relative_to_floor(metric, x / unit, held / unit).ratio


def cell(target: str, sde_name: str, name: str, arguments: Arguments, seed: int) -> dict[str, Any]:
    data = real(target)[0]
    sde = SDES[sde_name]
    model_options, train_options = arguments
    torch.manual_seed(seed)
    model = ss.ScoreModel(ss.MLP(data.shape[1]), sde, **model_options)
    options = {"steps": STEPS, "batch_size": BATCH, "lr": LR, "seed": seed, **train_options}
    began = time.process_time()
    trained = ss.train(model, data, progress=False, **options).model
    seconds = time.process_time() - began
    found = {}
    for kind, sampler in samplers(sde).items():
        try:
            x = sampler.sample(trained, shape=(COUNT, data.shape[1]), seed=seed)
            found[kind] = judge(target, x)
        except ss.errors.DivergenceError:
            found[kind] = (100.0, float("inf"))
    row = {
        "target": target,
        "sde": sde_name,
        "convention": name,
        "seed": seed,
        "training_seconds": seconds,
        "far": {kind: far for kind, (far, _) in found.items()},
        "w2": {kind: w2 for kind, (_, w2) in found.items()},
    }
    print(
        f"{target:8} {sde_name:7} {name:22} {seed}  {seconds:.1f} s  "
        f"far {max(row['far'].values()):.2f} %  W2 {max(row['w2'].values()):.2f}",
        flush=True,
    )
    return row


def worst(rows: list[dict[str, Any]]) -> str:
    """Far and W2 of the worst predictor, the mean over the seeds."""
    if not rows:
        return "–"
    far = sum(max(r["far"].values()) for r in rows) / len(rows)
    w2 = sum(max(r["w2"].values()) for r in rows) / len(rows)
    return f"{far:.1f}, {w2:.2f}"


def tables(rows: list[dict[str, Any]], changes: list[dict[str, Any]]) -> str:
    """A table a target, SDEs down and conventions across; then the changes down, targets across."""
    out = []

    def table(corner: str, down: list[str], across: list[str], at: Callable[..., list]) -> None:
        out.extend([f"| {corner} | " + " | ".join(across) + " |", "|---" * (len(across) + 1) + "|"])
        for first in down:
            cells = [worst(at(first, second)) for second in across]
            out.append(f"| {first} | " + " | ".join(cells) + " |")
        out.append("")

    def names(found: list[dict[str, Any]], key: str) -> list[str]:
        return list(dict.fromkeys(row[key] for row in found))

    for target in names(rows, "target"):
        mine = [row for row in rows if row["target"] == target]
        out += [f"**{target}** (far in %, W2)", ""]
        table(
            "SDE", names(mine, "sde"), names(mine, "convention"),
            lambda sde, name, mine=mine: [
                r for r in mine if (r["sde"], r["convention"]) == (sde, name)
            ],
        )  # fmt: skip
    if changes:
        out += ["**one change of the default, on VP** (far in %, W2)", ""]
        table(
            "change", names(changes, "convention"), names(changes, "target"),
            lambda name, target: [
                r for r in changes if (r["convention"], r["target"]) == (name, target)
            ],
        )  # fmt: skip
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--sdes", default="")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--add", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    saved = json.loads(RESULTS.with_suffix(".json").read_text()) if options.add else {}
    known = {
        tuple(row[key] for key in ("target", "sde", "convention", "seed")): row
        for row in saved.get("rows", []) + saved.get("changes", [])
    }

    def found(*wanted: Any) -> dict[str, Any]:
        target, sde, name, _, seed = wanted
        key = (target, sde, name, seed)
        return known[key] if key in known else cell(*wanted)

    rows, changes = [], []
    for target in options.targets.split(","):
        whole = ("vp", "ve") if target == "moons" else ("vp",)
        for seed in range(options.seeds):
            for sde in options.sdes.split(",") if options.sdes else SDES:
                for name, arguments in CONVENTIONS.items():
                    if sde in whole or name in EVERYWHERE:
                        rows.append(found(target, sde, name, arguments, seed))
            if target in CHANGED:
                changes += [found(target, "vp", k, v, seed) for k, v in CHANGES.items()]
    print("\n" + tables(rows, changes))
    if options.save or options.add:
        report = {**conditions(), "steps": STEPS, "batch": BATCH, "lr": LR, "rows": rows,
                  "changes": changes}  # fmt: skip
        RESULTS.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        head = f"{STEPS} steps of {BATCH}, one network (`ss.MLP`), {machine_sentence(report)}.\n\n"
        RESULTS.with_suffix(".md").write_text(head + tables(rows, changes))


if __name__ == "__main__":
    main()
