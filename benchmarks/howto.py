"""The pictures of the how-to pages on real data: the pages' own code, run for more steps.

    python benchmarks/howto.py time-series    # writes docs/_static/time-series/*.png
    python benchmarks/howto.py tables conditions

A page says ``STEPS = 60  # the pictures: 2000``; the script takes the second number.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parent.parent / "docs"
NUMBER = re.compile(r"^(\w+) = \d+  # the pictures?: (\d+)", re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REAL, SAMPLED, GREY = "#444444", "#c2410c", "#9ca3af"


def run(page: str, steps: int | None = None) -> dict[str, Any]:
    """The names of a page after its code ran with the numbers of its pictures, or some steps."""
    text = (DOCS / "howto" / f"{page}.md").read_text(encoding="utf-8")
    code = "".join(BLOCK.findall(text))
    if steps is None:
        code = NUMBER.sub(r"\1 = \2", code)
    else:
        code = re.sub(r"^STEPS = \d+", f"STEPS = {steps}", code, flags=re.MULTILINE)
    names: dict[str, Any] = {}
    exec(compile(code, f"{page}.md", "exec", dont_inherit=True), names)
    return names


def time_series(names: dict[str, Any], folder: Path) -> None:
    """Real beside sampled series; the forecasts of three."""
    times = torch.linspace(0, 2, 101)
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    panels = figure.subplots(2, 8, sharex=True, sharey="row")
    shown = [(x, REAL) for x in names["oscillations"](4, 5)] + [
        (x, SAMPLED) for x in names["x"][:4]
    ]
    for column, (x, colour) in enumerate(shown):
        for row in range(2):
            axes = panels[row][column]
            axes.plot(times, x[row], color=colour, linewidth=1.2)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=7)
        panels[0][column].set_title("real" if colour == REAL else "sampled", fontsize=9)
    panels[0][0].set_ylabel("displacement", fontsize=8)
    panels[1][0].set_ylabel("velocity", fontsize=8)
    figure.savefig(folder / "series.png", dpi=130)
    print(f"slip of the samples {names['slip'](names['x']):.3f}")

    figure = Figure(figsize=(8.4, 2.6), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, 3, sharey=True)):
        future, truth = names["y"][20 * i : 20 * i + 20, 0], names["new"][i, 0]
        axes.plot(times[50:100], future.T, color=SAMPLED, linewidth=0.6, alpha=0.6)
        axes.plot(times, truth, color=REAL, linewidth=1.2, linestyle="--")
        past = names["label"][20 * i, 0] * names["scale"][0, 0]
        axes.plot(times[:50], past, ".", color=REAL, markersize=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.legend(
        handles=[axes.lines[-1], axes.lines[-2], axes.lines[0]],
        labels=["measured past", "truth", "forecasts"],
        loc="outside upper center", ncols=3, frameon=False, fontsize=9,
    )  # fmt: skip
    figure.savefig(folder / "forecasts.png", dpi=130)
    truth = names["new"][:, :, 50:100].repeat_interleave(20, dim=0)
    off = rms(names["y"] / names["scale"], truth / names["scale"])
    print(f"RMS of the forecasts' errors, in standard deviations: {off:.3f}")


def tables(names: dict[str, Any], folder: Path) -> None:
    """Quantiles and correlations of the training rows and of the samples, against held-out ones."""
    held_out, shares = names["held_out"][:, :10], torch.linspace(0.05, 0.95, 19)
    centre, deviation = names["train_rows"][:, :10].mean(0), names["train_rows"][:, :10].std(0)
    upper = torch.triu_indices(10, 10, 1)

    def quantiles(rows: torch.Tensor) -> torch.Tensor:
        return ((rows.quantile(shares, dim=0) - centre) / deviation).flatten()

    def correlations(rows: torch.Tensor) -> torch.Tensor:
        return torch.corrcoef(rows.T)[upper[0], upper[1]]

    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    for name, rows, colour in (
        ("training rows", names["train_rows"][:, :10], GREY),
        ("samples", names["x"][:, :10], SAMPLED),
    ):
        for axes, of in zip(panels, (quantiles, correlations), strict=True):
            axes.plot(of(held_out), of(rows), ".", color=colour, markersize=4, label=name)
    for axes, title, limits in zip(
        panels,
        ("quantiles of 10 columns, in standard deviations", "correlations of 45 pairs of columns"),
        ((-2.5, 2.5), (-1, 1)),
        strict=True,
    ):
        axes.plot(limits, limits, color="black", linewidth=0.6)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("held-out rows", fontsize=9)
        axes.set_aspect("equal")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    panels[0].legend(frameon=False, fontsize=9)
    figure.savefig(folder / "tables.png", dpi=130)


def conditions(names: dict[str, Any], folder: Path) -> None:
    """The small images, two samples on their condition, and the digits they were made from."""
    draw, new = names["sampler"].sample, names["new"]
    again = draw(names["result"].model, shape=(8, 1, 8, 8), label=new, seed=1)
    free = draw(names["result"].model, shape=(8, 1, 8, 8), seed=1)
    rows = {
        "condition": new["image"],
        "sample": names["x"],
        "another": again,
        "guided by 2": names["sharper"],
        "the digit": names["images"][-8:],
        "no condition": free,
    }
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    for panels, (name, images) in zip(figure.subplots(6, 8), rows.items(), strict=True):
        for axes, image in zip(panels, images, strict=True):
            axes.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
        panels[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    figure.savefig(folder / "digits.png", dpi=130)
    small = torch.nn.functional.avg_pool2d(names["x"], 2)
    print(f"RMS of the samples made small against the condition: {rms(small, new['image']):.3f}")
    print(f"RMS of the samples without a condition: {rms(free, names['images'][-8:]):.3f}")


def show(rows: dict[str, torch.Tensor], columns: int, path: Path) -> None:
    """A labelled row of 8×8 images each."""
    figure = Figure(figsize=(0.55 * columns + 1.4, 0.6 * len(rows)), layout="constrained")
    for panels, (name, images) in zip(
        figure.subplots(len(rows), columns), rows.items(), strict=True
    ):
        for axes, image in zip(panels, images, strict=False):
            axes.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
        panels[0].set_ylabel(name.strip(), fontsize=8, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=130)


def img2img_and_interpolation(names: dict[str, Any], folder: Path) -> None:
    """Digits that become the next class; images between two digits, on the arc and the line."""
    from sklearn.neighbors import KNeighborsClassifier

    x0, label, other, model = (names[key] for key in ("x0", "label", "other", "model"))
    classifier = KNeighborsClassifier(5).fit(
        names["images"][:-300].flatten(1), names["classes"][:-300]
    )

    def share(x: torch.Tensor, wanted: torch.Tensor) -> float:
        """Of the images that the classifier takes for the class wanted, in per cent."""
        return 100 * (classifier.predict(x.flatten(1)) == wanted.numpy()).mean()

    picked = slice(12, 24)
    rows = {"data": x0[picked]} | {str(s): x[picked] for s, x in names["changed"].items()}
    show(rows, 12, folder / "edit.png")
    print(f"data: {share(x0, label):.0f} % in their class")
    for strength, x in names["changed"].items():
        own = names["ss"].samplers.edit(names["sampler"], model, x0, strength=strength, label=label)
        print(
            f"{strength}: next class {share(x, other):.0f} %, RMS change {rms(x, x0):.2f}; "
            f"own class as label: {share(own, label):.0f} %, RMS change {rms(own, x0):.2f}"
        )
    flow, slerp, rows = names["flow"], names["ss"].samplers.slerp, {}
    codes, w = flow.encode(model, x0), names["weight"]
    for i, j in ((1, 8), (19, 20)):
        start, end = (code.expand(9, 1, 8, 8) for code in codes[[i, j]].split(1))
        rows["arc" + " " * i] = flow.decode(model, slerp(start, end, w))
        rows["line" + " " * i] = flow.decode(model, torch.lerp(start, end, w[:, None, None, None]))
    show(rows, 9, folder / "interpolation.png")
    pairs = codes.roll(1, 0), codes  # of neighbours, of any classes
    for name, middle in (("arc", slerp(*pairs, 0.5)), ("line", torch.lerp(*pairs, 0.5))):
        x = flow.decode(model, middle)
        nearest = torch.cdist(x.flatten(1), names["images"][:-300].flatten(1)).amin(1).mean()
        print(
            f"middle of the {name}: standard deviation {x.std():.3f}, to the nearest {nearest:.2f}"
        )
    nearest = torch.cdist(x0.flatten(1), names["images"][:-300].flatten(1)).amin(1).mean()
    print(f"held-out digits: standard deviation {x0.std():.3f}, to the nearest {nearest:.2f}")


def rms(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).square().mean().sqrt().item()


PAGES = {
    "time-series": time_series,
    "tables": tables,
    "conditions": conditions,
    "img2img-and-interpolation": img2img_and_interpolation,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="+", choices=PAGES)
    parser.add_argument("--steps", type=int, help="in place of the pages' own number")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for page in options.pages:
        began, folder = time.process_time(), DOCS / "_static" / page
        folder.mkdir(parents=True, exist_ok=True)
        PAGES[page](run(page, options.steps), folder)
        print(f"{page}: {time.process_time() - began:.0f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
