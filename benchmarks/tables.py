"""The README's tables, made from the saved results: ``python benchmarks/tables.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accuracy_report import best_of_peers, cell, cells_of, contenders

RESULTS = Path(__file__).parent / "results"


def load(name: str) -> dict[str, Any]:
    """A saved result."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def overhead_table(report: dict[str, Any]) -> str:
    """Ours against the bare loop, one row a method."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in report["samplers"]:
        rows.setdefault(row["method"], []).append(row)
    lines = [
        "| method | ours / bare, (64, 3, 32, 32) | (64, 2) | µs a step beyond the score, (64, 2) |",
        "|---|---|---|---|",
    ]
    for method, (large, small) in rows.items():
        lines.append(
            f"| {method} | {large['ratio_to_bare']:.2f} | {small['ratio_to_bare']:.2f} | "
            f"{small['us_per_step_beyond_score']:.1f} |"
        )
    return "\n".join(lines)


def noise_sentence(report: dict[str, Any]) -> str:
    """What the noise costs, in times of ``torch.randn``."""
    return " and ".join(
        f"{row['ratio_to_randn']:.2f} × `torch.randn` at {tuple(row['shape'])}"
        for row in report["noise"]
    )


def demo_table(results: dict[str, Any]) -> str:
    """Relative sliced W2 and mean confidence, one row a sampler."""
    models = results["models"]
    names = list(dict.fromkeys(n for m in models.values() for n in m["samplers"]))
    lines = [
        "| sampler | " + " | ".join(f"{m}: sliced W2 | confidence" for m in models) + " |",
        "|---|" + "---|---|" * len(models),
    ]
    for name in names:
        cells = []
        for model in models.values():
            row = model["samplers"].get(name)
            cells.append(
                f"{row['sliced_w2']['relative']:.2f} | {row['confidence']:.2f}" if row else "– | –"
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def training_table(report: dict[str, Any]) -> str:
    """A step of the bare loop in milliseconds, and of the others relative to it."""
    names = [name for name in report["rows"][0]["ratios"] if name != "bare"]
    lines = ["| network, batch | bare, ms | " + " | ".join(names) + " |"]
    lines.append("|---|---|" + "---|" * len(names))
    for row in report["rows"]:
        ratios = row["ratios"]  # a row of an older script has fewer
        cells = [f"{1e3 * row['bare_seconds']:.1f}"]
        cells += [f"{ratios[n]:.3f}" if n in ratios else "–" for n in names]
        lines.append(f"| {row['network']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def scaling_table(report: dict[str, Any]) -> str:
    """What a second process is worth."""
    lines = [
        "| network, batch | a step of one, ms | weak | strong | sampling |",
        "|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        cells = [f"{1e3 * row['seconds']:.1f}"]
        cells += [f"{row[key]:.2f}" for key in ("weak", "strong", "sampling")]
        lines.append(f"| {row['network']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def flow_table(report: dict[str, Any]) -> str:
    """Evaluations and largest error of a likelihood on each SDE."""
    heads = [f"{who}, {t:g}" for t in report["tolerances"] for who in ("ours", "RK45 in t")]
    lines = ["| SDE | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for row in report["rows"]:
        pairs = zip(row["ours"], row["scipy"], strict=True)
        cells = [f"{n} ({error:.0e})" for pair in pairs for n, error, *_ in pair]
        lines.append(f"| {row['sde']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


REAL = {
    "sampler / network alone": ("sampler", "network"),
    "sampler / plain loop": ("sampler", "plain"),
    "likelihood / network alone": ("likelihood", "network"),
    "likelihood / two calls": ("likelihood", "apart"),
    "training step / network alone": ("training step", "network"),
    "training step / diffusers": ("training step", "diffusers"),
}


def real_networks_table(report: dict[str, Any]) -> str:
    """Median and quartiles of each task of ours, relative to another way, by network."""
    found = {(r["network"], r["task"], r["against"]): r for r in report["rows"]}
    lines = ["| network | " + " | ".join(REAL) + " |", "|---|" + "---|" * len(REAL)]
    for network in dict.fromkeys(row["network"] for row in report["rows"]):
        rows = [found.get((network, *key)) for key in REAL.values()]
        if any(rows):
            cells = [
                f"{r['ratio']:.2f} ({r['quartiles'][0]:.2f}–{r['quartiles'][1]:.2f})" if r else "–"
                for r in rows
            ]
            lines.append(f"| {network} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def story_table(report: dict[str, Any]) -> str:
    """What the three pictures show, in numbers."""
    fields, weights, curve = (report[k] for k in ("low_density", "mode_weights", "manifold"))
    rows = [
        ("relative error of plain score matching over the data", f"{fields['error_on_data']:.2f}"),
        ("relative error of plain score matching over the square", f"{fields['error_in_box']:.2f}"),
        *((f"smaller mode (true 0.200): {name}", f"{w:.3f}") for name, w in weights.items()),
        ("objective at the end, data on the circle", f"{curve['loss_without_noise']:.0f}"),
        ("objective at the end, with noise", f"{curve['loss_with_noise']:.1f}"),
        ("annealed Langevin, rms distance to the circle", f"{curve['radial_rms']:.4f}"),
        ("annealed Langevin, upper half (true 0.700)", f"{curve['upper_half']:.3f}"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def accuracy_table(report: dict[str, Any], steps: tuple[int, ...] = (5, 10, 20)) -> str:
    """``W2 | NLL`` of the contenders, the best that any peer does at either figure, and the bar."""
    parts = report["targets"]
    heads = [f"{name}, N = {n}" for name in parts for n in steps]
    lines = ["| method | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for who in contenders(report):
        found = cells_of(report, who)
        cells = [cell(found[name].get(str(n))) for name in parts for n in steps]
        lines.append(f"| {who[0]}: {who[1]} | " + " | ".join(cells) + " |")
    best = [cell(best_of_peers(part, n)) for part in parts.values() for n in steps]
    lines.append("| the best figure of any peer | " + " | ".join(best) + " |")
    bars = [f"{part['w2_bar_in_floors']:.2f} \\| ±0.050" for part in parts.values() for _ in steps]
    lines.append("| the bar | " + " | ".join(bars) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(accuracy_table(load("accuracy-cpu")), end="\n\n")
    print(accuracy_table(load("accuracy-held-out-cpu"), (5, 8, 10)), end="\n\n")
    print(story_table(load("story-cpu")), end="\n\n")
    print(demo_table(load("demo-cpu")), end="\n\n")
    print(overhead_table(load("overhead-cpu")), end="\n\n")
    print(flow_table(load("flow-cpu")), end="\n\n")
    print(real_networks_table(load("real-networks-cpu")), end="\n\n")
    print(training_table(load("training-cpu")), end="\n\n")
    print(scaling_table(load("scaling-cpu")), end="\n\n")
    print(noise_sentence(load("overhead-cpu")))
