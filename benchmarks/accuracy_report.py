"""Tables and picture of accuracy.py's saved figures, and who is inside its bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import machine_sentence

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NLL_BAR = 0.05
FEW = (5, 8, 10, 15, 20)
Named = tuple[str, str]
"""``(library, method)``."""


def cell(found: dict[str, Any] | None) -> str:
    """``W2 | NLL`` of a cell."""
    if found is None:
        return ""
    if found["w2"] is None:
        return "not finite"
    w2, nll = found["w2"], found["nll"]
    size = f"{w2:.2f}" if w2 < 100 else f"{w2:.0f}" if w2 < 1e4 else f"{w2:.0e}"
    gap = f"{nll:+.3f}" if abs(nll) < 10 else f"{nll:+.0f}" if abs(nll) < 1e5 else f"{nll:+.0e}"
    return f"{size} \\| {gap}"


def cells_of(report: dict[str, Any], who: Named) -> dict[str, dict[str, Any]]:
    """A method's cells, ``{target: {N: …}}``."""
    return {
        name: row["cells"]
        for name, part in report["targets"].items()
        for row in part["rows"]
        if (row["library"], row["method"]) == who
    }


def outside(report: dict[str, Any], who: Named) -> float:
    """How many bars a method's worse figure is: a geometric mean over targets and N of FEW.

    Infinite where it has no such cell, or no finite one.
    """
    logs = []
    for name, cells in cells_of(report, who).items():
        bar = report["targets"][name]["w2_bar_in_floors"]
        for n in map(str, FEW):
            if n not in cells or cells[n]["w2"] is None:
                return math.inf
            logs.append(math.log(max(cells[n]["w2"] / bar, abs(cells[n]["nll"]) / NLL_BAR)))
    return math.exp(sum(logs) / len(logs))


def contenders(report: dict[str, Any]) -> list[Named]:
    """Recommended, of each peer library what is nearest to the bar, and more of ours."""
    rows = next(iter(report["targets"].values()))["rows"]
    best: dict[str, Named] = {}
    for row in rows:
        library, who = row["library"], (row["library"], row["method"])
        if library == "sdescore":
            continue
        if library not in best or outside(report, who) < outside(report, best[library]):
            best[library] = who
    peers = sorted(best.values(), key=lambda who: outside(report, who))
    ours = ("recommended, exact score", "recommended, default")
    ours += ("DDIM, log-SNR", "ancestral, log-SNR")
    first, *others = [("sdescore", name) for name in ours]
    return [first, *peers, *others]


def best_of_peers(part: dict[str, Any], n: int) -> dict[str, float]:
    """The figure nearest to 0 of all peers, W2 and gap apart: no one method's."""
    cells = [row["cells"][str(n)] for row in part["rows"] if row["library"] != "sdescore"]
    finite = [found for found in cells if found["w2"] is not None]
    return {
        "w2": min(found["w2"] for found in finite),
        "nll": min((found["nll"] for found in finite), key=abs),
    }


def table(part: dict[str, Any], steps: Sequence[int]) -> str:
    """One target's table in Markdown."""
    lines = [
        f"**{part['title']}**: W2 relative to real against real ({part['floor']:.4f}) \\| "
        "NLL gap in nats/dim. "
        f"Exact draws read 1 ± {part['exact_std_in_floors']:.2f} \\| 0; inside the bar are W2 up "
        f"to {part['w2_bar_in_floors']:.2f}.",
        "",
        "| library | method | " + " | ".join(f"N = {n}" for n in steps) + " |",
        "|---|---|" + "---|" * len(steps),
    ]
    for row in part["rows"]:
        cells = " | ".join(cell(row["cells"].get(str(n))) for n in steps)
        lines.append(f"| {row['library']} | {row['method']} | {cells} |")
    return "\n".join(lines)


def fit_table(report: dict[str, Any]) -> str:
    """Seconds of one core that the recommended grids took."""
    cells = cells_of(report, ("sdescore", "recommended, exact score"))
    steps = list(next(iter(cells.values()), {}))
    lines = ["| target | " + " | ".join(f"N = {n}" for n in steps) + " |"]
    lines.append("|---|" + "---|" * len(steps))
    for name, found in cells.items():
        lines.append(
            f"| {name} | " + " | ".join(f"{found[n]['fit_seconds']:.0f}" for n in steps) + " |"
        )
    return "\n".join(lines)


def inside(parts: dict[str, Any], steps: Sequence[int]) -> dict[str, list[str]]:
    """For each N the methods that are inside the bar on every target."""

    def passes(found: dict[str, Any] | None, bar: float) -> bool:
        if found is None or found["w2"] is None:
            return False
        return found["w2"] <= bar and abs(found["nll"]) <= NLL_BAR

    result = {}
    for n in map(str, steps):
        per_target = [
            {
                f"{row['library']}: {row['method']}"
                for row in part["rows"]
                if passes(row["cells"].get(n), part["w2_bar_in_floors"])
            }
            for part in parts.values()
        ]
        result[n] = sorted(set.intersection(*per_target))
    return result


def markdown(report: dict[str, Any]) -> str:
    """All tables, and who is inside the bar."""
    steps = report["steps"]
    text = [f"`{report['command']}`: {machine_sentence(report)}; {report['samples']} samples."]
    text += [table(part, steps) for part in report["targets"].values()]
    for again in report.get("made_again", []):
        text.insert(1, f"Cells of {', '.join(again['methods'])} made again: `{again['command']}`.")
    lines = [f"- N = {n}: {'; '.join(who) or 'none'}" for n, who in report["inside_bar"].items()]
    text.append("Inside the bar on every target:\n\n" + "\n".join(lines))
    text.append("Seconds that a fitted grid takes, once:\n\n" + fit_table(report))
    return "\n\n".join(text) + "\n"


# Okabe and Ito's colours, and a mark each, for those who see no colours.
LOOKS = (
    ("#D55E00", "o"),
    ("#0072B2", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#000000", "v"),
    ("#E69F00", "P"),
    ("#56B4E9", "X"),
)


def draw(axes: Axes, part: dict[str, Any], key: str, named: Sequence[Named]) -> None:
    """One figure of one target against N: all peers in grey, and the named methods.

    A gap smaller than its standard error is drawn as that.
    """
    marks = dict(zip(named, LOOKS[: len(named)], strict=True))
    for row in part["rows"]:
        who = row["library"], row["method"]
        if who[0] == "sdescore" and who not in marks:
            continue
        finite = {int(n): c for n, c in row["cells"].items() if c["w2"] is not None}
        values = [
            c["w2"] if key == "w2" else max(abs(c[key]), c["nll_error"]) for c in finite.values()
        ]
        if who in marks:
            colour, mark = marks[who]
            over = 3 + len(named) - named.index(who)
            label = f"{who[0]}: {who[1]}"
            axes.plot(
                list(finite), values, f"{mark}-", color=colour, label=label, ms=5, zorder=over
            )
        else:
            axes.plot(list(finite), values, "-", color="#CCCCCC", lw=0.8, zorder=1)


def plot(report: dict[str, Any], path: Path) -> None:
    """W2 and the NLL gap against N, a column a target; grey: all other peers; blue: the bar."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    panels = figure.subplots(2, len(report["targets"]), sharex=True, sharey="row", squeeze=False)
    named = contenders(report)
    for (top, bottom), part in zip(panels.T, report["targets"].values(), strict=True):
        draw(top, part, "w2", named)
        draw(bottom, part, "nll", named)
        top.set_title(part["title"], fontsize=9)
        top.axhspan(0.1, part["w2_bar_in_floors"], color="#0072B2", alpha=0.08, lw=0)
        bottom.axhspan(1e-5, NLL_BAR, color="#0072B2", alpha=0.08, lw=0)
        top.set(xscale="log", yscale="log", ylim=(0.6, 40))
        bottom.set(yscale="log", ylim=(1e-3, 10), xlabel="evaluations N")
        ticks = [5, 10, 20, 50, 100, 500]
        bottom.set_xticks(ticks, [str(n) for n in ticks])
        top.minorticks_off()
        bottom.minorticks_off()
        top.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
        for axes, height in ((top, 0.63), (bottom, 1.1e-3)):
            axes.text(900, height, "inside the bar", fontsize=8, color="#444444", ha="right")
    panels[0, 0].set_ylabel("sliced W2 / real against real")
    panels[1, 0].set_ylabel("|NLL gap| in nats per dimension")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    order = [labels.index(f"{library}: {method}") for library, method in named]
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
