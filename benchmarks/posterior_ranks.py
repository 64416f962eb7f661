"""Rank statistics of samplers of a posterior (Talts et al. 2018, arXiv:1804.06788).

Data are drawn of a mixture of Gaussians in 6 dimensions and measured, one measurement each. A
method makes 19 draws of each posterior. If they are of the true posterior, a datum and its draws
are exchangeable, so the rank of the datum among them, element by element, is uniform on 0 … 19. A
histogram like a cup says that the draws are too narrow, one like a dome that they are too wide, and
a slope that they are off to one side. The exact posterior is a row too.

    python benchmarks/posterior_ranks.py           # prints the table; five minutes
    python benchmarks/posterior_ranks.py --save    # also results/posterior-ranks-cpu.json and the
                                                   # figure of docs/_static/inverse

The statistic is χ² of a histogram of ten bins over its degrees of freedom, in the mean of the
elements. It is 1 on average where the ranks are uniform.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from machine import conditions
from posterior import guided
from posterior_problems import PROBLEMS, Method, Problem, problem
from torch import Tensor

import sdescore as ss

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "posterior-ranks-cpu.json"
PICTURE = HERE.parent / "docs" / "_static" / "inverse" / "ranks.png"
D, DRAWS, DATA, BINS = 6, 19, 300, 10
LINEAR = PROBLEMS[:-1]


class Together:
    """A score of posteriors, one measurement for each sample of a request."""

    def __init__(self, score: Any, y: Tensor) -> None:
        self.score, self.sde, self.y = score, score.sde, y

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        found: Tensor = self.score(x, t, {"measurement": self.y})
        return found


def together(kind: Any, y: Tensor) -> Method:
    """A method on all measurements ``y`` at once, a row each."""
    return guided(lambda prior, measurement: Together(kind(prior, measurement), y))


def measured(task: Problem, seed: int) -> tuple[Tensor, Tensor]:
    """Data ``(DATA, D)`` of the prior and their measurements ``(DATA, *M)``."""
    truth = task.prior.sample(DATA, seed=seed)
    y = task.measurement.operator(truth)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))
    return truth, y + task.measurement.noise_std * noise


def exact(task: Problem, y: Tensor) -> Tensor:
    """``(DRAWS, len(y), D)`` of each posterior."""
    assert task.matrix is not None
    std = task.measurement.noise_std
    posteriors = [task.prior.posterior(task.matrix, one.flatten(), std) for one in y]
    return torch.stack([p.sample(DRAWS, seed=i) for i, p in enumerate(posteriors)], 1)


def histograms(draws: Tensor, truth: Tensor) -> Tensor:
    """``(D, BINS)``: how often the datum has a rank in each bin, for each element."""
    ranks = (draws < truth).sum(0) * BINS // (DRAWS + 1)
    return torch.nn.functional.one_hot(ranks, BINS).sum(0)


def statistic(counts: Tensor) -> float:
    """χ² over its degrees of freedom, in the mean of the elements."""
    expected = counts.sum(1, keepdim=True) / BINS
    return ((counts - expected).square() / expected).sum(1).div(BINS - 1).mean().item()


METHODS = {
    "dps": ss.inverse.dps,
    "pigdm": ss.inverse.pigdm,
    "mmps": ss.inverse.mmps,
    "diffpir": ss.inverse.diffpir,
}


def run() -> dict[str, dict[str, Any]]:
    """Histogram, summed over the elements, and statistic of each method on each problem."""
    report: dict[str, dict[str, Any]] = {}
    for name in LINEAR:
        task = problem(name, D, 0)
        truth, y = measured(task, 7)
        every = y.repeat(DRAWS, *(1,) * (y.ndim - 1))
        draws = {"exact": exact(task, y)}
        for method, kind in METHODS.items():
            x, _ = together(kind, every)(task, DRAWS * DATA, 0)
            draws[method] = x.reshape(DRAWS, DATA, D)
        report[name] = {}
        for method, x in draws.items():
            counts = histograms(x, truth)
            row = {"chi2": statistic(counts), "counts": counts.sum(0).tolist()}
            report[name][method] = row
            print(f"{name:<14} {method:<8} χ² {row['chi2']:6.2f}  {row['counts']}", flush=True)
    return report


def table(problems: dict[str, dict[str, Any]]) -> str:
    """The statistic of each method on each problem."""
    lines = ["| draws of | " + " | ".join(problems) + " |", "|---|" + "---|" * len(problems)]
    for method in ("exact", *METHODS):
        cells = [f"{rows[method]['chi2']:.2f}" for rows in problems.values()]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(problems: dict[str, dict[str, Any]], path: Path) -> None:
    """A row a problem, a column a method; the band is that of uniform ranks."""
    from matplotlib.figure import Figure

    names = ["exact", *METHODS]
    figure = Figure(figsize=(8.0, 5.6), dpi=120, layout="constrained")
    axes = figure.subplots(len(problems), len(names), sharex=True, sharey=True)
    # Elements of a datum depend on each other, so the band is that of one of them: the widest.
    spread = 1.96 * (DATA / BINS * (1 - 1 / BINS)) ** 0.5 / (DATA / BINS)
    for row, (name, rows) in zip(axes, problems.items(), strict=True):
        for axis, method in zip(row, names, strict=True):
            counts = torch.tensor(rows[method]["counts"], dtype=torch.float64)
            axis.axhspan(1 - spread, 1 + spread, color="#fde68a")
            axis.bar(torch.arange(BINS), counts / counts.mean(), 0.9, color="#0369a1")
            axis.set_xticks([])
        row[0].set_ylabel(name, fontsize=9)
    for axis, method in zip(axes[0], names, strict=True):
        axis.set_title(method, fontsize=9)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = run()
    print(table(report))
    if options.save:
        numbers = {"dimensions": D, "draws": DRAWS, "data": DATA, "bins": BINS}
        saved = {**conditions(), **numbers, "problems": report}
        RESULT.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
        draw(report, PICTURE)


if __name__ == "__main__":
    main()
