"""What classifier-free guidance samples from, against the tempered posterior.

    python benchmarks/guidance.py           # prints the table
    python benchmarks/guidance.py --save    # also results/guidance-cpu.json and the picture

Two classes on the line, equally frequent, with exact scores. With the weight ω the guided score is
that of q_ω(x) ∝ p(x) p(y|x)^ω at every single noise level, so q_ω of the data is what one may
expect to sample. The script draws by the reverse SDE, by its ODE, by guidance in an interval, and
by MALA that starts from the samples of the SDE and stays at the last noise level. It prints the
Wasserstein-1 distance of each to q_ω and to the class itself, beside that of exact draws of q_ω.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch
from machine import conditions
from matplotlib.figure import Figure
from torch import Tensor

import sdescore as ss

HERE = Path(__file__).resolve().parent
SDE = ss.VPSDE()
WEIGHTS, SAMPLES, STEPS = (1.0, 1.5, 2.0, 4.0, 8.0), 40_000, 400
INTERVAL = (0.3, 3.0)
CLASS = ([0.5, 0.5], [-1.5, 0.5], [0.4, 0.5])  # weights, means, standard deviations
OTHER = ([1.0], [1.5], [0.6])
X = np.linspace(-6, 6, 60_001)


def score(parts: list[tuple[list[float], list[float], list[float]]]) -> ss.MixtureScore:
    """The exact score of equally frequent mixtures."""
    weights = [w / len(parts) for part in parts for w in part[0]]
    means = [[m] for part in parts for m in part[1]]
    return ss.MixtureScore(weights, means, [s**2 for part in parts for s in part[2]], SDE)


CONDITIONAL, ALL = score([CLASS]), score([CLASS, OTHER])


def tempered(omega: float) -> np.ndarray:
    """q_ω on the grid X, normalised there: ``p(x|y)^ω p(x)^(1 − ω)``, as p(y|x) ∝ p(x|y)/p(x)."""

    def log_density(of: ss.MixtureScore) -> np.ndarray:
        return of.log_prob(torch.from_numpy(X)[:, None], 0.0).numpy()

    log_q = omega * log_density(CONDITIONAL) + (1 - omega) * log_density(ALL)
    q = np.exp(log_q - log_q.max())
    return q / np.trapezoid(q, X)


def distance(x: np.ndarray, density: np.ndarray) -> float:
    """Wasserstein-1 of samples to a density on X."""
    return float(scipy.stats.wasserstein_distance(x, X, v_weights=density))


def exact_draws(density: np.ndarray, seed: int) -> np.ndarray:
    cumulative = np.cumsum(density) / density.sum()
    return np.interp(np.random.default_rng(seed).random(SAMPLES), cumulative, X)


def draws(omega: float, seed: int) -> dict[str, np.ndarray]:
    """Samples of each way, one row of the table each."""
    guided = ss.classifier_free(CONDITIONAL, ALL, omega)
    limited = ss.classifier_free(CONDITIONAL, ALL, omega, interval=INTERVAL)
    reverse = ss.PredictorCorrector(SDE, predictor=ss.Ancestral(), steps=STEPS)
    ode = ss.PredictorCorrector(SDE, steps=STEPS // 4)
    shape = (SAMPLES, 1)
    x = reverse.sample(guided, shape, seed=seed)
    mala = ss.langevin.chains(guided, x, 0.15, 300, method="mala", t=SDE.t_min, seed=seed)
    found: dict[str, Tensor] = {
        "reverse SDE": x,
        "ODE": ode.sample(guided, shape, seed=seed),
        "SDE, in an interval": reverse.sample(limited, shape, seed=seed),
        "SDE, then MALA": mala.x,
    }
    return {name: values.double().numpy()[:, 0] for name, values in found.items()}


def measure() -> tuple[dict[str, Any], dict[float, dict[str, np.ndarray]]]:
    began, rows, sampled = time.perf_counter(), [], {}
    conditional = tempered(1.0)
    for omega in WEIGHTS:
        q = tempered(omega)
        all_draws = draws(omega, seed=0) | {"exact draws": exact_draws(q, 1)}
        sampled[omega] = all_draws
        for name, x in all_draws.items():
            row = {
                "omega": omega,
                "samples of": name,
                "W1 to the tempered posterior": distance(x, q),
                "W1 to the class": distance(x, conditional),
                "mean": float(x.mean()),
                "std": float(x.std()),
                "share of the left mode": float((x < -0.5).mean()),
                "its share in the tempered posterior": float(q[X < -0.5].sum() / q.sum()),
            }
            rows.append(row)
    report = {"command": "python benchmarks/guidance.py --save", **conditions()}
    report |= {"samples": SAMPLES, "steps": STEPS, "interval": INTERVAL, "rows": rows}
    return report | {"seconds": time.perf_counter() - began}, sampled


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: W1 to q_ω, a way a row and a weight a column."""
    names = list(dict.fromkeys(row["samples of"] for row in rows))
    lines = ["| | " + " | ".join(f"ω = {omega:g}" for omega in WEIGHTS) + " |", "|---" * 6 + "|"]
    for name in names:
        own = [row for row in rows if row["samples of"] == name]
        cells = [f"{row['W1 to the tempered posterior']:.3f}" for row in own]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    shares = [row for row in rows if row["samples of"] in ("reverse SDE",)]
    of = ("share of the left mode", "its share in the tempered posterior")
    for name in of:
        lines.append(f"| {name} | " + " | ".join(f"{row[name]:.3f}" for row in shares) + " |")
    return "\n".join(lines)


def picture(sampled: dict[float, dict[str, np.ndarray]], path: Path) -> None:
    """Histograms of three weights over the densities."""
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    bins = np.linspace(-4, 3, 121)
    for axes, omega in zip(figure.subplots(1, 3), (1.0, 2.0, 4.0), strict=True):
        options = {"bins": bins, "density": True}
        axes.hist(sampled[omega]["reverse SDE"], **options, color="#E69F00", label="reverse SDE")
        mala = sampled[omega]["SDE, then MALA"]
        axes.hist(mala, **options, histtype="step", color="#0072B2", label="SDE, then MALA")
        axes.plot(X, tempered(omega), color="black", linewidth=1.2, label="tempered posterior")
        axes.plot(X, tempered(1.0), ":", color="#444444", linewidth=1.0, label="the class")
        axes.set_xlim(-4, 3)
        axes.set_title(f"ω = {omega:g}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report, sampled = measure()
    print(table(report["rows"]))
    print(f"{report['seconds']:.0f} s")
    if options.save:
        text = json.dumps(report, indent=1) + "\n"
        (HERE / "results" / "guidance-cpu.json").write_text(text)
        picture(sampled, HERE.parent / "docs" / "_static" / "guidance" / "tempered.png")


if __name__ == "__main__":
    main()
