"""How many steps do natural images need: exact errors on the power spectrum of photographs.

Patches of ten photographs that scikit-image ships are nearly stationary, so that cosines nearly
diagonalise their covariance: the eigenvalues are the mean squares of their two-dimensional DCT,
the mean patch taken away. No network is run.

    python benchmarks/steps.py            # pictures in out/steps, table printed
    python benchmarks/steps.py --save     # in docs/_static/steps and benchmarks/results

It needs ``pip install -c constraints.txt scikit-image``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from machine import conditions
from torch import Tensor

import sdescore as ss
from sdescore.plotting import plot_error_against_steps, plot_error_by_mode

HERE = Path(__file__).resolve().parent
PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "cat", "coffee"),
    *("coins", "grass", "gravel", "moon", "rocket"),
)
SIDE = 32
STEPS = (5, 6, 8, 10, 14, 20, 30, 50, 100, 200)
LONGEST_SEARCH = 20  # steps beyond which a search gains little
BY_MODE = 20
SDE = ss.VPSDE()

Samplers = dict[str, dict[int, ss.PredictorCorrector]]


class Power(NamedTuple):
    """Mean squares of cosines: of all, and of rings of wavelengths (in pixels)."""

    spectrum: Tensor
    rings: Tensor
    wavelength: Tensor
    patches: int


def grey_patches() -> np.ndarray[Any, Any]:
    """``(n, 32, 32)`` side by side from every photograph, grey, black being −1 and white 1."""
    from skimage import color, data

    found = []
    for name in PHOTOGRAPHS:
        image = getattr(data, name)()
        grey = 2 * (color.rgb2gray(image) if image.ndim == 3 else image / 255) - 1
        rows, columns = (length // SIDE for length in grey.shape)
        tiles = grey[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE)
        found.append(tiles.swapaxes(1, 2).reshape(-1, SIDE, SIDE))
    return np.concatenate(found)


def power_of(patches: np.ndarray[Any, Any]) -> Power:
    """The spectrum of patches; the constant cosine has no wavelength and is in no ring."""
    from scipy.fft import dctn

    centred = patches - patches.mean(0)
    power = torch.from_numpy(dctn(centred, axes=(1, 2), norm="ortho")).square().mean(0)
    k = torch.arange(SIDE, dtype=torch.float64)
    radius = (k[:, None].square() + k.square()).sqrt().round()
    rings = torch.stack([power[radius == r].mean() for r in range(1, SIDE)])
    return Power(
        power.flatten().sort(descending=True).values,
        rings,
        2 * SIDE / k[1:],
        len(patches),
    )


def samplers(spectrum: Tensor, steps: tuple[int, ...]) -> Samplers:
    """Name → evaluations wanted → sampler, on equal steps in log-SNR where nothing else is said."""
    fixed = {
        "ancestral": ss.Ancestral(),
        "DDIM": ss.DDIM(eta=0.0),
        "Heun": ss.Heun(),
        "exponential Adams, 2 points": ss.ExponentialAdams(points=2),
        "the same, corrected": ss.ExponentialAdams(points=2, corrector_points=3),
    }
    grid = ss.LogSNRGrid()

    def on(grid: ss.grids.Grid, predictor: ss.Predictor) -> dict[int, ss.PredictorCorrector]:
        # The last denoise is an evaluation, and so is each of a move's stages.
        count = {n: 1 + (n - 1) // predictor.evaluations for n in steps}
        return {
            n: ss.PredictorCorrector(SDE, predictor=predictor, grid=grid, steps=k)
            for n, k in count.items()
        }

    found = {"DDIM, equal steps in t": on(ss.UniformGrid(), ss.DDIM(eta=0.0))}
    found |= {name: on(grid, predictor) for name, predictor in fixed.items()}
    found["recommended_sampler"] = {
        n: ss.recommended_sampler(SDE, n, spectrum=spectrum, score_error=0.0)
        for n in steps
        if n <= LONGEST_SEARCH
    }
    return found


def measure(found: Samplers, spectrum: Tensor) -> dict[str, list[dict[str, float]]]:
    """Errors in shares of the data's root total variance."""
    scale = spectrum.sum().sqrt().item()
    rows: dict[str, list[dict[str, float]]] = {}
    for name, made in found.items():
        rows[name] = []
        for n, sampler in made.items():
            error = ss.analysis.gaussian_error(sampler, spectrum)
            row: dict[str, float] = {"wanted": n, "evaluations": error.evaluations}
            for part in ("w2", "w2_of_prior", "w2_of_steps", "w2_of_end"):
                row[part] = rounded(getattr(error, part) / scale)
            rows[name].append(row)
    return rows


def rounded(value: Tensor | float) -> float:
    """Four digits."""
    return float(f"{float(value):.4g}")


def percent(share: float) -> str:
    """Two digits or more, without an exponent."""
    value = 100 * share
    return f"{value:.{0 if value >= 10 else 1 if value >= 1 else 2}f} %"


def table(report: dict[str, Any], steps: tuple[int, ...] = (5, 10, 20, 50, 200)) -> str:
    """Rows of the page: W2 in percent of the data's standard deviation."""
    heads = " | ".join(f"N = {n}" for n in steps)
    lines = [f"| sampler | {heads} |", "|---|" + "---|" * len(steps)]
    for name, rows in report["errors"].items():
        found = {row["wanted"]: row["w2"] for row in rows}
        cells = (percent(found[n]) if n in found else "–" for n in steps)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(
    path: Path, patches: np.ndarray[Any, Any], steps: tuple[int, ...] = STEPS
) -> dict[str, Any]:
    """Both pictures in ``path``, and their numbers."""
    path.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    power = power_of(patches)
    found = samplers(power.spectrum, steps)
    recipes = {name: made.get for name, made in found.items()}
    figure = plot_error_against_steps(recipes, steps, power.spectrum)
    figure.savefig(path / "against-steps.png", dpi=110)
    selected = {name: made[BY_MODE] for name, made in found.items()}
    figure = plot_error_by_mode(selected, power.rings, wavelength=power.wavelength)
    figure.axes[0].set_xlabel("wavelength in pixels")
    figure.savefig(path / "by-mode.png", dpi=110)
    by_mode = {
        name: ss.analysis.gaussian_error(sampler, power.rings).relative_std.tolist()
        for name, sampler in selected.items()
    }
    # The same patches' true eigenvalues: what leaving out the cosines' correlations changes.
    pca = ss.analysis.gaussian_error(selected["DDIM"], data=torch.from_numpy(patches)).data_variance
    return {
        "command": "python benchmarks/steps.py --save",
        **conditions(),
        "photographs": PHOTOGRAPHS,
        "patches": power.patches,
        "side": SIDE,
        "sde": repr(SDE),
        "largest_mode": rounded(power.spectrum[0]),
        "smallest_mode": rounded(power.spectrum[-1]),
        "total_variance": rounded(power.spectrum.sum()),
        "errors": measure(found, power.spectrum),
        "errors_on_principal_components": measure(
            {name: {BY_MODE: sampler} for name, sampler in selected.items()}, pca
        ),
        "by_mode": {
            "evaluations": BY_MODE,
            "wavelength": [rounded(w) for w in power.wavelength],
            "variance": [rounded(v) for v in power.rings],
            "relative_std": {k: [rounded(e) for e in v] for k, v in by_mode.items()},
        },
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help="replace the documentation's own")
    parser.add_argument("--out", type=Path, default=Path("out/steps"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are small
    path = HERE.parent / "docs" / "_static" / "steps" if options.save else options.out
    report = run(path, grey_patches())
    print(table(report))
    if options.save:
        text = json.dumps(report, indent=1)
        (HERE / "results" / "steps-cpu.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
