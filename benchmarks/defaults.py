"""What a network should predict, and at which times it should learn: data × SDE × convention.

Every convention trains the same network on the same data for the same number of steps, and every
predictor of the list samples from each of them. Two figures a cell, each the worst of its
predictors:

- far: the share of samples that lie farther from their nearest training datum than 99.7 % of
  held-out data do, in percent. Real data read 0.3.
- W2: the sliced Wasserstein distance to held-out data, relative to that of two sets of real data
  of the same sizes. Real data read 1.

The conventions are the library's default and those of papers, which are one argument away:

- F: EDM's F, ¼ log(σ/α), EDM's weight, log-normal times: what ``ss.ScoreModel(net, sde)`` and
  ``ss.train(model, data)`` do with nothing else said.
- F, uniform: the same, but times uniform in t.
- ε: DDPM's and score_sde's: ε, time t, weight σ², uniform times.
- v: progressive distillation's v, time t, weight σ², uniform times.
- x₀: the clean data, ¼ log(σ/α), weight min-SNR, uniform times.

    python benchmarks/defaults.py           # the tables, about a quarter of an hour on one core
    python benchmarks/defaults.py --save    # and writes benchmarks/results/defaults-cpu.*
    python benchmarks/defaults.py --targets moons --sdes vp --seeds 3
"""

from __future__ import annotations

import argparse
import json
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
FEWER = ("vp", "ve")  # of the targets after the first, to keep the run short
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


TARGETS: dict[str, Callable[[int, int], Tensor]] = {
    "moons": lambda n, seed: two_moons(n, seed=seed),
    "mixture": mixture,
    "digits": images,
}


def conventions() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """The arguments of the model and of training."""
    uniform = {"times": ss.losses.UniformTimes()}
    return {
        "F": ({}, {}),
        "F, uniform": ({}, uniform),
        "ε": ({"prediction": "epsilon"}, uniform),
        "v": ({"prediction": "v"}, uniform),
        "x₀": (
            {"prediction": "x0", "time_input": "quarter_log_sigma"},
            {**uniform, "weighting": ss.losses.MinSNR()},
        ),
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
def held_out_reach(target: str) -> tuple[Tensor, Tensor, float]:
    """Training data, held-out data, and the distance that 99.7 % of the latter keep."""
    data, held = TARGETS[target](4000, 0), TARGETS[target](COUNT, 1)
    nearest = torch.cdist(held, data).min(1).values
    return data, held, nearest.quantile(0.997).item()


def judge(target: str, x: Tensor) -> tuple[float, float]:
    """(far in percent, W2 relative to real data)."""
    data, held, reach = held_out_reach(target)
    if not bool(x.isfinite().all()):
        return 100.0, float("inf")
    far = (torch.cdist(x, data).min(1).values > reach).double().mean().item()
    metric = partial(sliced_wasserstein, seed=0)
    return 100 * far, relative_to_floor(metric, x, held).ratio


def cell(target: str, sde_name: str, name: str, seed: int) -> dict[str, Any]:
    data = held_out_reach(target)[0]
    sde = SDES[sde_name]
    model_options, train_options = conventions()[name]
    torch.manual_seed(seed)
    model = ss.ScoreModel(ss.MLP(data.shape[1]), sde, **model_options)
    began = time.process_time()
    trained = ss.train(
        model,
        data,
        steps=STEPS,
        batch_size=BATCH,
        lr=LR,
        seed=seed,
        progress=False,
        **train_options,
    ).model
    seconds = time.process_time() - began
    found = {}
    for kind, sampler in samplers(sde).items():
        try:
            x = sampler.sample(trained, shape=(COUNT, data.shape[1]), seed=seed)
            found[kind] = judge(target, x)
        except ss.errors.DivergenceError:
            found[kind] = (100.0, float("inf"))
    return {
        "target": target,
        "sde": sde_name,
        "convention": name,
        "seed": seed,
        "training_seconds": seconds,
        "far": {kind: far for kind, (far, _) in found.items()},
        "w2": {kind: w2 for kind, (_, w2) in found.items()},
    }


def tables(rows: list[dict[str, Any]]) -> str:
    """A table a target: SDEs down, conventions across; worst predictor, mean over seeds."""
    out = []
    names = list(dict.fromkeys(row["convention"] for row in rows))
    for target in dict.fromkeys(row["target"] for row in rows):
        out += [f"**{target}** (far in %, W2)", "", "| SDE | " + " | ".join(names) + " |"]
        out += ["|---" * (len(names) + 1) + "|"]
        for sde in dict.fromkeys(row["sde"] for row in rows if row["target"] == target):
            line = [sde]
            for name in names:
                key = (target, sde, name)
                mine = [r for r in rows if (r["target"], r["sde"], r["convention"]) == key]
                if not mine:
                    line.append("–")
                    continue
                far = sum(max(r["far"].values()) for r in mine) / len(mine)
                w2 = sum(max(r["w2"].values()) for r in mine) / len(mine)
                line.append(f"{far:.1f}, {w2:.2f}")
            out.append("| " + " | ".join(line) + " |")
        out.append("")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--sdes", default="")
    parser.add_argument("--conventions", default="")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = [c for c in options.conventions.split(";") if c] or list(conventions())
    rows = []
    for target in options.targets.split(","):
        asked = options.sdes.split(",") if options.sdes else SDES if target == "moons" else FEWER
        for sde in asked:
            for name in names:
                for seed in range(options.seeds):
                    rows.append(cell(target, sde, name, seed))
                    row = rows[-1]
                    print(
                        f"{target:8} {sde:7} {name:11} {seed}  {row['training_seconds']:.1f} s  "
                        f"far {max(row['far'].values()):.2f} %  W2 {max(row['w2'].values()):.2f}",
                        flush=True,
                    )
    print("\n" + tables(rows))
    if options.save:
        report = {**conditions(), "steps": STEPS, "batch": BATCH, "lr": LR, "rows": rows}
        RESULTS.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        head = f"{STEPS} steps of {BATCH}, one network (`ss.MLP`), {machine_sentence(report)}.\n\n"
        RESULTS.with_suffix(".md").write_text(head + tables(rows))


if __name__ == "__main__":
    main()
