"""Which predictor and grid to start with: exact errors on a spectrum with fine modes, every SDE.

The spectrum is that of the handwritten digits, and one mode more with 0.01 of the largest standard
deviation, as a flat background has. No network is run.

    python benchmarks/sampler_defaults.py            # tables printed
    python benchmarks/sampler_defaults.py --save     # in benchmarks/results
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from machine import conditions, machine_sentence
from torch import Tensor

import sdescore as ss
from sdescore.datasets import digits

RESULTS = Path(__file__).resolve().parent / "results"
STEPS = (5, 10, 25, 100)
FINE = 0.01
SDES: dict[str, ss.LinearSDE] = {
    "VP": ss.VPSDE(),
    "VE": ss.VESDE(),
    "sub-VP": ss.SubVPSDE(),
    "cosine": ss.CosineVPSDE(),
    "EDM": ss.EDMSDE(),
    "rectified flow": ss.RectifiedFlowSDE(),
}
GRIDS = {"uniform": ss.UniformGrid(), "log-SNR": ss.LogSNRGrid(), "Karras": ss.KarrasGrid()}
PREDICTORS: dict[str, ss.Predictor] = {
    "reverse diffusion": ss.ReverseDiffusion(),
    "Euler–Maruyama": ss.EulerMaruyama(),
    "ancestral": ss.Ancestral(),
    "Adams 2 midpoint, η = 1": ss.ExponentialAdams(eta=1.0, midpoint=True),
    "Adams 2 corrected with 3, η = 1": ss.ExponentialAdams(eta=1.0, corrector_points=3),
    "DDIM": ss.DDIM(),
    "Heun": ss.Heun(),
    "Adams 2 midpoint": ss.ExponentialAdams(midpoint=True),
    "Adams 2 corrected with 3": ss.ExponentialAdams(corrector_points=3),
}


def spectrum() -> Tensor:
    """Eigenvalues of the digits' covariance that are not 0, and the fine mode's last."""
    modes = torch.linalg.eigvalsh(torch.cov(digits().flatten(1).double().T))
    return torch.cat([modes[modes > 1e-9], FINE**2 * modes[-1:]])


def errors(modes: Tensor) -> list[dict[str, Any]]:
    """One row for each SDE, grid, predictor and number of evaluations (Heun's rounded down)."""
    rows = []
    for sde_name, sde in SDES.items():
        for grid_name, grid in GRIDS.items():
            for name, predictor in PREDICTORS.items():
                for n in STEPS:
                    steps = (n - 1) // predictor.evaluations + 1
                    sampler = ss.PredictorCorrector(
                        sde, predictor=predictor, grid=grid, steps=steps
                    )
                    found = ss.analysis.gaussian_error(sampler, modes)
                    fine = (found.variance[-1] / modes[-1]).sqrt()
                    rows.append(
                        {
                            "sde": sde_name,
                            "grid": grid_name,
                            "predictor": name,
                            "wanted": n,
                            "evaluations": sampler.evaluations,
                            "w2": (found.w2 / modes.sum().sqrt()).item(),
                            "fine": fine.item(),
                        }
                    )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """``W2 | fine``, a line for each grid and predictor; the worst of the rows for a cell."""
    worst: dict[tuple[str, str], dict[int, tuple[float, float]]] = {}
    for row in rows:
        line = worst.setdefault((row["grid"], row["predictor"]), {})
        old = line.get(row["wanted"], (0.0, 0.0))
        line[row["wanted"]] = max(old[0], row["w2"]), max(old[1], row["fine"])
    lines = [
        "| grid | predictor | " + " | ".join(f"N = {n}" for n in STEPS) + " |",
        "|---|---|" + "---|" * len(STEPS),
    ]
    for (grid, predictor), line in worst.items():
        cells = " | ".join(f"{line[n][0]:.2g} \\| {line[n][1]:.2g}" for n in STEPS)
        lines.append(f"| {grid} | {predictor} | {cells} |")
    return "\n".join(lines)


def summary(report: dict[str, Any]) -> str:
    """The documentation's table: the worst of all SDEs, for the candidates on two grids."""
    names = {
        "Adams 2 midpoint",
        "Adams 2 midpoint, η = 1",
        "DDIM",
        "ancestral",
        "reverse diffusion",
    }
    rows = [r for r in report["errors"] if r["predictor"] in names and r["grid"] != "Karras"]
    return table(rows)


def page(report: dict[str, Any]) -> str:
    """All tables, the worst SDE's first."""
    parts = [
        f"`python benchmarks/sampler_defaults.py --save`: {machine_sentence(report)}.",
        "A cell is W2 to the data over the data's root mean square, then the standard deviation of "
        f"the fine mode over the data's own ({FINE:g} of the largest).",
        f"**The worst of all SDEs**\n\n{table(report['errors'])}",
    ]
    for name in SDES:
        rows = [row for row in report["errors"] if row["sde"] == name]
        parts.append(f"**{name}**: `{report['sdes'][name]}`\n\n{table(rows)}")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Print the tables, and save them with ``--save``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true")
    save = parser.parse_args().save
    torch.set_num_threads(1)
    report = {
        **conditions(),
        "sdes": {name: repr(sde) for name, sde in SDES.items()},
        "errors": errors(spectrum()),
    }
    print(page(report))
    if save:
        text = json.dumps(report, indent=1) + "\n"
        (RESULTS / "sampler-defaults-cpu.json").write_text(text, encoding="utf-8")
        (RESULTS / "sampler-defaults-cpu.md").write_text(page(report), encoding="utf-8")


if __name__ == "__main__":
    main()
