"""The flow chart of the page Choose.

python benchmarks/choose_figure.py            # in out/choose
python benchmarks/choose_figure.py --save     # in docs/_static/choose
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

BLUE, GREY = "#0072B2", "0.35"
# Text, centre across and up, whether it is a question.
BOXES = {
    "have": ("Do you have a trained network?", 2.65, 6.2, True),
    "load": ("ss.load, ss.load_diffusers, …\nits SDE comes with it", 1.33, 5.2, False),
    "train": ("ss.ScoreModel(net, ss.VPSDE())\nss.train(model, data)", 4.02, 5.2, False),
    "want": ("What do you want?", 1.9, 4.05, True),
    "flow": ("ss.ProbabilityFlow(sde)\n.log_likelihood, .encode", 4.25, 4.05, False),
    "cost": ("How many evaluations a sample?", 2.65, 2.95, True),
    "few": ("ss.recommended_sampler(\nmodel, n, data=x)", 1.2, 1.85, False),
    "some": ("ss.PredictorCorrector(\nsde, steps=n)", 4.0, 1.85, False),
    "many": (
        "the same, predictor=\nss.ExponentialAdams(\neta=1.0, midpoint=True)",
        4.0,
        0.55,
        False,
    ),
}
ARROWS = [
    ("have", "load", "yes"),
    ("have", "train", "no"),
    ("load", "want", ""),
    ("train", "want", ""),
    ("want", "flow", "likelihood,\nlatent"),
    ("want", "cost", "samples"),
    ("cost", "few", "5 to 20"),
    ("cost", "some", "20 and more"),
    ("some", "many", "not good enough?"),
]
LABELS = {("want", "flow"): (2.97, 3.68)}


def chart() -> Figure:
    """Questions in blue frames, code in grey ones."""
    figure = Figure(figsize=(5.4, 6.6), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 5.4), ylim=(0, 6.6))
    axes.axis("off")
    frames = {}
    for name, (text, across, up, asks) in BOXES.items():
        colour, font = (BLUE, "sans-serif") if asks else (GREY, "monospace")
        style = {"boxstyle": "round,pad=0.5", "fc": "#e8f2fa" if asks else "white", "ec": colour}
        look = {"ha": "center", "va": "center", "family": font, "fontsize": 11 if asks else 9}
        frames[name] = axes.text(across, up, text, bbox=style, zorder=2, **look)
    figure.canvas.draw()  # so that the frames have their sizes
    for start, end, word in ARROWS:
        here, there = BOXES[start][1:3], BOXES[end][1:3]
        ends = {"patchA": frames[start].get_bbox_patch(), "patchB": frames[end].get_bbox_patch()}
        look = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 1, "shrinkB": 2}
        axes.annotate("", there, here, arrowprops=look | ends, zorder=3)
        label = {"ha": "center", "va": "center", "fontsize": 9.5, "color": BLUE, "zorder": 4}
        across, up = LABELS.get((start, end)) or [
            (a + b) / 2 for a, b in zip(here, there, strict=True)
        ]
        axes.text(across, up, word, bbox={"fc": "white", "ec": "none", "pad": 1}, **label)
    return figure


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="into docs/_static/choose")
    root = Path(__file__).resolve().parent.parent
    save = parser.parse_args().save
    folder = root / ("docs/_static/choose" if save else "out/choose")
    folder.mkdir(parents=True, exist_ok=True)
    chart().savefig(folder / "choose.png", dpi=160)


if __name__ == "__main__":
    main()
