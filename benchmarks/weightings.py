"""How noisy a minibatch's gradient is, by weighting and by distribution of the times.

A small network is trained for a while with the default loss; then, its weights held, many
minibatches are drawn for each pair of a weighting and a distribution. The figure of a pair is the
trace of the covariance of the minibatch gradient over the squared norm of its mean. Distributions
that share an objective share its mean, so their figures compare as variances do.

    python benchmarks/weightings.py                    # prints the tables
    python benchmarks/weightings.py --save             # and writes benchmarks/results/
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from machine import conditions, machine_sentence
from torch import Tensor

import sdescore as ss
from sdescore.datasets import digits, ring
from sdescore.losses.times import TimeDistribution

BATCH = 128
TRAINING_STEPS = 300

SAME = {  # one objective, that of uniform times
    "uniform": ss.losses.UniformTimes(),
    "uniform, stratified": ss.losses.UniformTimes(stratified=True),
    "importance": ss.losses.ImportanceTimes(),
    "importance, stratified": ss.losses.ImportanceTimes(stratified=True),
}
OTHER = {
    "log-SNR": ss.losses.LogSNRTimes(),
    "log-normal": ss.losses.LogNormalTimes(),
}  # objectives of their own


def setups() -> dict[str, tuple[ss.LinearSDE, Tensor]]:
    """SDE and data of each column; both data sets are about as wide as 1."""
    mixture = ring(4096, modes=8, radius=1.4, std=0.1)
    ve = ss.VESDE(sigma_min=0.01, sigma_max=20.0)
    return {
        "VP, 2-D mixture": (ss.VPSDE(), mixture),
        "VP, digits": (ss.VPSDE(), digits().flatten(1)),
        "VE, 2-D mixture": (ve, mixture),
        "VE, digits": (ve, digits().flatten(1)),
    }


def trained(sde: ss.LinearSDE, data: Tensor) -> ss.ScoreModel:
    """A small network after a few hundred steps of the default loss."""
    torch.manual_seed(0)
    model = ss.ScoreModel(
        ss.MLP(data.shape[1], hidden=64),
        sde,
        time_input="log_snr",
        input_scaling="unit",
        prediction="epsilon",
    )
    ss.train(
        model, data, steps=TRAINING_STEPS, batch_size=BATCH, schedule="constant", progress=False,
        standardize=False,
    )  # fmt: skip
    return model.eval()


def gradients(
    model: ss.ScoreModel, data: Tensor, weighting: Any, times: TimeDistribution, batches: int
) -> Tensor:
    """``(batches, parameters)``: the gradient of each minibatch."""
    generator = torch.Generator().manual_seed(1)
    weights = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for _ in range(batches):
        x0 = data[torch.randint(len(data), (BATCH,), generator=generator)]
        loss = ss.denoising_loss(
            model, x0, weighting=weighting, times=times, generator=generator
        ).mean
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
    return torch.stack(rows)


def spread(rows: Tensor) -> dict[str, float]:
    """Trace of the covariance, its standard error, and ‖mean‖² without its bias."""
    mean = rows.mean(0, dtype=torch.float64)
    n = len(rows)
    deviations = (rows - mean.float()).square().sum(1, dtype=torch.float64) * n / (n - 1)
    trace = deviations.mean().item()
    return {
        "trace": trace,
        "standard_error": deviations.std().item() / math.sqrt(n),
        "squared_mean": mean.square().sum().item() - trace / n,
    }


def measure(batches: int) -> list[dict[str, Any]]:
    """One row per column, weighting and distribution of times."""
    rows = []
    for column, (sde, data) in setups().items():
        model = trained(sde, data)
        weightings = {
            "sigma2": "sigma2",
            "likelihood": "likelihood",
            "min-SNR": ss.losses.MinSNR(),
            "EDM": ss.losses.EDMWeighting(sigma_data=round(data.std().item(), 2)),
        }
        for name, weighting in weightings.items():
            found = {
                name: spread(gradients(model, data, weighting, times, batches))
                for name, times in (SAME | OTHER).items()
            }
            # The times with the least noise know their common mean best.
            best = min(SAME, key=lambda name: found[name]["trace"])
            base = found["uniform"]
            for name, figures in found.items():
                shared = name in SAME
                signal = found[best if shared else name]["squared_mean"]
                row = {
                    "column": column,
                    "weighting": name,
                    "times": name,
                    "trace_over_squared_mean": float(f"{figures['trace'] / signal:.3g}"),
                    "relative_error_of_trace": float(
                        f"{figures['standard_error'] / figures['trace']:.2g}"
                    ),
                }
                if shared:
                    row["trace_over_uniform"] = float(f"{figures['trace'] / base['trace']:.3g}")
                rows.append(row)
    return rows


def same_objective_table(report: dict[str, Any]) -> str:
    """Variance over that of uniform times, one row a distribution and weighting."""
    return _table(
        report,
        "trace_over_uniform",
        [(w, name) for w in ("likelihood", "sigma2") for name in SAME if name != "uniform"],
    )


def noise_table(report: dict[str, Any]) -> str:
    """Trace of the covariance over the squared mean, one row a weighting and times."""
    wanted = [
        ("sigma2", "uniform"),
        ("sigma2", "log-SNR"),
        ("sigma2", "log-normal"),
        ("likelihood", "uniform"),
        ("likelihood", "importance, stratified"),
        ("min-SNR", "uniform"),
        ("min-SNR", "log-SNR"),
        ("EDM", "uniform"),
        ("EDM", "log-normal"),
    ]
    return _table(report, "trace_over_squared_mean", wanted)


def _table(report: dict[str, Any], figure: str, wanted: list[tuple[str, str]]) -> str:
    columns = list(dict.fromkeys(row["column"] for row in report["rows"]))
    found = {(r["column"], r["weighting"], r["times"]): r for r in report["rows"]}
    lines = ["| weighting | times | " + " | ".join(columns) + " |"]
    lines.append("|---|---|" + "---|" * len(columns))
    for weighting, name in wanted:
        cells = " | ".join(_cell(found[c, weighting, name], figure) for c in columns)
        lines.append(f"| {weighting} | {name} | {cells} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any], figure: str) -> str:
    """The figure, with its standard error where that is more than a tenth of it."""
    value, relative = row[figure], row["relative_error_of_trace"]
    digits = 2 if value < 10 else 0
    error = f" ± {relative * value:.{digits}f}" if relative > 0.1 else ""
    return f"{value:.{digits}f}{error}"


def main() -> None:
    """Measure, print, and save where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = {
        "command": f"python benchmarks/weightings.py --batches {arguments.batches} --save",
        **conditions(),
        "batch": BATCH,
        "batches": arguments.batches,
        "training_steps": TRAINING_STEPS,
        "rows": measure(arguments.batches),
    }
    print(machine_sentence(report) + "\n")
    print("Variance over that of uniform times, same objective\n")
    print(same_objective_table(report))
    print("\nTrace of the covariance over the squared mean\n")
    print(noise_table(report))
    if arguments.save:
        target = Path(__file__).parent / "results" / "weightings-cpu.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        print(f"\nwrote {target.relative_to(Path(__file__).parent.parent)}")


if __name__ == "__main__":
    main()
