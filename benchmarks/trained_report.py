"""Tables and picture of trained.py's saved figures."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from accuracy_report import LOOKS
from machine import machine_sentence

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Named = tuple[str, str]
"""``(library, method)``."""

DRAWN = (
    "recommended",
    "Adams 2 midpoint, quadratic",
    "Adams 2 corrected with 3, log-SNR",
    "ancestral, uniform",
)
HIGHEST = 30  # above are methods that do not work at five evaluations
HEIGHTS = (1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30)


def merged(saved: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """The saved results with fresh rows in the place of those of the same name.

    Raises
    ------
    SystemExit
        The fresh rows are of another checkpoint, number of samples or judge.
    """
    report = dict(saved)
    for name, part in fresh.items():
        old = saved.get(name, part)
        for key in ("checkpoint", "samples", "trained_on", "held_out"):
            if old[key] != part[key]:
                raise SystemExit(
                    f"expected {key} {old[key]!r} of {name}, as saved, got {part[key]!r}; these "
                    "rows do not compare: delete the saved results and run all of them"
                )
        for key, floor in old["floors"].items():
            if not math.isclose(floor["mean"], part["floors"][key]["mean"], rel_tol=1e-3):
                raise SystemExit(
                    f"expected the saved distances of real data of {name}, got {part['floors']}"
                )
        rows = {(row["library"], row["method"]): row for row in old["rows"]}
        rows |= {(row["library"], row["method"]): row for row in part["rows"]}
        report[name] = {**part, "floors": old["floors"], "rows": sorted(rows.values(), key=place)}
    return report


def place(row: dict[str, Any]) -> tuple[bool, bool]:
    """Ours before others', the recommended ones first."""
    return row["library"] != "sdescore", not row["method"].startswith("recommended")


def number(value: float | None, best: bool = False) -> str:
    """Three digits or so; bold where ``best``."""
    if value is None:
        return "–"
    text = f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
    return f"**{text}**" if best else text


def cell(found: dict[str, Any] | None, best: dict[str, float] | None = None) -> str:
    """``FD | W2`` of a cell, bold what equals ``best``."""
    if found is None:
        return ""
    best = best or {}
    return " \\| ".join(number(found[key], found[key] == best.get(key)) for key in ("fd", "w2"))


def steps_of(part: dict[str, Any]) -> list[int]:
    """All N that some row has."""
    return sorted({int(n) for row in part["rows"] for n in row["cells"]})


def least(part: dict[str, Any], key: str, n: int | str) -> float:
    """The least figure at ``n`` evaluations."""
    cells = (row["cells"].get(str(n)) for row in part["rows"])
    return min(found[key] for found in cells if found is not None and found[key] is not None)


def table(part: dict[str, Any]) -> str:
    """One model's table; bold: the least of each column."""
    steps = steps_of(part)
    best = {n: {key: least(part, key, n) for key in ("fd", "w2")} for n in steps}
    lines = [
        "| library | method | " + " | ".join(f"N = {n}" for n in steps) + " |",
        "|---|---|" + "---|" * len(steps),
    ]
    for row in part["rows"]:
        cells = " | ".join(cell(row["cells"].get(str(n)), best[n]) for n in steps)
        lines.append(f"| {row['library']} | {row['method']} | {cells} |")
    return "\n".join(lines)


def floor_sentence(part: dict[str, Any]) -> str:
    """The distance of real from real data, and by how much it varies."""
    fd, w2 = (part["floors"][key] for key in ("fd", "w2"))
    return (
        f"{part['trained_on']} digits trained on, {part['held_out']} held out, {part['samples']} "
        f"samples a cell; real against real is {fd['mean']:.3g} ± {fd['std'] / fd['mean']:.0%} and "
        f"{w2['mean']:.3g} ± {w2['std'] / w2['mean']:.0%}"
    )


def reference_sentence(part: dict[str, Any]) -> str:
    """What the model's own sampler reads."""
    own = part["reference"]
    return f"{own['title']}, {own['evaluations']} evaluations: {cell(own)}"


def cost_sentence(report: dict[str, Any]) -> str:
    """CPU minutes of the sampling, and of the fits."""
    cells = [c for part in report.values() for row in part["rows"] for c in row["cells"].values()]
    minutes = {key: sum(c[key] for c in cells) / 60 for key in ("cpu_seconds", "fit_seconds")}
    return (
        f"sampling took {minutes['cpu_seconds']:.0f} CPU minutes, the recommended samplers' fits "
        f"{minutes['fit_seconds']:.0f}"
    )


def flow_table(part: dict[str, Any]) -> str:
    """How far samples end from the flow, of an exact score and of the network; "" if not known."""
    rows = [
        (row["method"], {int(n): c["off_flow"] for n, c in row["cells"].items() if "off_flow" in c})
        for row in part["rows"]
    ]
    steps = sorted({n for _, found in rows for n in found})
    if not steps:
        return ""
    lines = ["| score | method | " + " | ".join(f"N = {n}" for n in steps) + " |"]
    lines.append("|---|---|" + "---|" * len(steps))
    for key in ("exact", "network"):
        for method, found in rows:
            if found:
                shown = (found[n][key] for n in steps)
                cells = " | ".join(f"{c['median']:.3f} \\| {c['rms']:.3f}" for c in shown)
                lines.append(f"| {key} | {method} | {cells} |")
    return "\n".join(lines)


def fit_table(report: dict[str, Any]) -> str:
    """Seconds of one core that the recommended samplers took to fit."""
    fitted = {
        part["title"]: row["cells"]
        for part in report.values()
        for row in part["rows"]
        if row["method"] == "recommended"
    }
    steps = sorted({int(n) for cells in fitted.values() for n in cells})
    lines = ["| model | " + " | ".join(f"N = {n}" for n in steps) + " |"]
    lines.append("|---|" + "---|" * len(steps))
    for title, cells in fitted.items():
        seconds = (f"{cells[str(n)]['fit_seconds']:.0f}" if str(n) in cells else "" for n in steps)
        lines.append(f"| {title} | " + " | ".join(seconds) + " |")
    return "\n".join(lines)


def origins(report: dict[str, Any]) -> str:
    """How, where and when the rows were made."""
    rows = [row for part in report.values() for row in part["rows"]]
    lines = [
        f"- `{made['command']}`, {made['date']}: {machine_sentence(made)}"
        for row in rows
        for made in row["made"]
    ]
    return "\n".join(dict.fromkeys(lines))


def versions(report: dict[str, Any]) -> str:
    """The libraries and their versions."""
    rows = [row for part in report.values() for row in part["rows"]]
    return ", ".join(dict.fromkeys(f"{row['library']} {row['version']}" for row in rows))


def markdown(report: dict[str, Any]) -> str:
    """All tables."""
    text = [
        "FD \\| sliced W2 to held-out digits, relative to real against real; bold: the least of a "
        "column."
    ]
    for part in report.values():
        title = f"**{part['title']}** ({part['sde']}): {floor_sentence(part)}."
        title += f" Root mean square error of ε at T: {part['first_error']:.3f}."
        if part["reference"]:
            title += f" {reference_sentence(part)}."
        text += [title, table(part)]
        if flow_table(part):
            text.append("Off the flow of the same score, by pixel: median \\| rms over samples.")
            text.append(flow_table(part))
    text.append(f"In all {cost_sentence(report)}. Seconds a fit:\n\n{fit_table(report)}")
    text.append(f"{versions(report)}. The rows were made by\n\n{origins(report)}")
    return "\n\n".join(text) + "\n"


def best_peers(part: dict[str, Any]) -> list[Named]:
    """Of each other library the method of least FD, a geometric mean over its N up to 20."""
    mean: dict[Named, float] = {}
    for row in part["rows"]:
        found = [c["fd"] for n, c in row["cells"].items() if int(n) <= 20]
        if row["library"] != "sdescore":
            finite = found and None not in found
            value = fmean(math.log(fd) for fd in found) if finite else math.inf
            mean[row["library"], row["method"]] = value
    best: dict[str, Named] = {}
    for who in sorted(mean, key=lambda who: mean[who]):
        best.setdefault(who[0], who)
    return list(best.values())


def draw(axes: Axes, part: dict[str, Any], named: list[Named]) -> None:
    """FD of one model against N: the named methods, and all others in grey."""
    looks = (*LOOKS, ("#56B4E9", "X"))
    marks = dict(zip(named, looks[: len(named)], strict=True))
    for row in part["rows"]:
        who = row["library"], row["method"]
        points = {int(n): c["fd"] for n, c in row["cells"].items() if c["fd"] is not None}
        if who in marks:
            colour, mark = marks[who]
            over = 3 + len(named) - named.index(who)
            label = f"{who[0]}: {who[1]}"
            axes.plot(
                list(points), list(points.values()), f"{mark}-", color=colour, label=label, ms=5,
                zorder=over,
            )  # fmt: skip
        else:
            axes.plot(list(points), list(points.values()), "-", color="#CCCCCC", lw=0.9, zorder=1)
    own = part["reference"]
    if own:
        axes.axhline(own["fd"], color="#888888", ls=":", lw=1, zorder=0)
        text = f"{own['title'].split(', ')[1]}, {own['evaluations']} evaluations"
        across = axes.get_yaxis_transform()
        axes.text(0.02, 0.93 * own["fd"], text, transform=across, fontsize=8, va="top")


def plot(report: dict[str, Any], path: Path) -> None:
    """FD against N up to HIGHEST, a panel a model; grey: all other methods."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.2), layout="constrained")
    panels = figure.subplots(1, len(report), squeeze=False, sharey=True)[0]
    parts = list(report.values())
    most = max(reversed(parts), key=lambda part: len({row["library"] for row in part["rows"]}))
    named = [("sdescore", name) for name in DRAWN] + best_peers(most)
    labels: dict[str, Any] = {}
    for axes, part in zip(panels, parts, strict=True):
        draw(axes, part, named)
        axes.set(xscale="log", yscale="log", xlabel="evaluations N", ylim=(1, HIGHEST))
        axes.set_title(part["title"], fontsize=10)
        ticks = steps_of(part)
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.set_yticks(HEIGHTS, [f"{y:g}" for y in HEIGHTS])
        axes.minorticks_off()
        handles, names = axes.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    panels[0].set_ylabel("Fréchet distance / real against real")
    order = [f"{library}: {method}" for library, method in named]
    order = [name for name in order if name in labels]
    figure.legend(
        [labels[name] for name in order], order, loc="outside lower center", ncols=3, frameon=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
