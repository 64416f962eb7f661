"""What a pretrained network is good for beside samples: likelihoods, and a galaxy behind a blur.

The network is the one of benchmarks/galaxies.py. The wheel holds no images, so galaxies that the
network has drawn, in 25 evaluations, take the place of real ones.

    python -m pip download --no-deps --dest out galaxygrad==0.2.1
    python benchmarks/galaxies_in_use.py out/galaxygrad-0.2.1-py3-none-any.whl
    python benchmarks/galaxies_in_use.py out/galaxygrad-0.2.1-py3-none-any.whl --save

``--save`` writes docs/_static/galaxies and benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from galaxies import FILE, GREY, load, rounded
from machine import conditions
from torch import Tensor

import sdescore as ss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "galaxies-in-use-cpu.json"
EVALUATIONS = (10, 25, 100, 1000)
RECOMMENDED = "recommended, 10"
SHOWN = 4  # galaxies in the picture of evaluations
DATA = 16  # galaxies that recommended_sampler is made for
SCORED = 3  # galaxies whose likelihood is computed
BLURRED, DRAWN = 2, 6  # galaxies behind a blur, and samples of each one's posterior
WIDTH, NOISE = 3.0, 0.01  # the blur's standard deviation in pixels, and the noise's in flux
SPREAD = 300.0  # largest variance of a direction of the data, in units of x²


def kernel(width: float) -> Tensor:
    """Weights of a Gaussian blur of so many pixels, ``(K,)`` up to three widths."""
    at = torch.arange(-round(3 * width), round(3 * width) + 1, dtype=torch.float32, device="cpu")
    weights = torch.exp(-0.5 * (at / width).square())
    return weights / weights.sum()


def blur(image: Tensor, width: float) -> Tensor:
    """Images ``(B, 1, H, W)`` behind a Gaussian blur; there is no light beyond the border."""
    weights = kernel(width)
    half = len(weights) // 2
    image = torch.nn.functional.conv2d(image, weights[None, None, :, None], padding=(half, 0))
    return torch.nn.functional.conv2d(image, weights[None, None, None, :], padding=(0, half))


def flux(x: Tensor) -> Tensor:
    """The network's data are x = 10 log(1 + flux)."""
    return torch.expm1(0.1 * x)


def observe(x: Tensor) -> Tensor:
    """What a telescope sees of a galaxy, without its noise."""
    return blur(flux(x), WIDTH)


def deblurring(model: ss.ScoreModel) -> ss.guidance.GuidedScore:
    """The score given an observation, which is the label.

    The observation is taken for Gaussian around that of the denoised state x̂₀. Its variance is the
    noise's and what the uncertainty of x̂₀ adds.
    """

    def log_prob(x: Tensor, t: Tensor, observed: Tensor) -> Tensor:
        alpha, sigma = (v.to(x) for v in model.sde.marginal(t))
        left = SPREAD * sigma**2 / (SPREAD * alpha**2 + sigma**2)  # variance of x₀ given x_t
        x0 = model.denoise(x, t).clamp(-1, 10)  # the range of galaxies
        misfit = (observed - observe(x0)).square().flatten(1).sum(1)
        return -misfit / (2 * (NOISE**2 + 0.1**2 * left))  # 0.1 is d flux/dx where it is dark

    return ss.classifier_guidance(model, log_prob)


def drawn(model: ss.ScoreModel, n: int, evaluations: int = 25, seed: int = 1) -> Tensor:
    """``n`` galaxies by the default sampler."""
    side = model.net.side
    sampler = ss.PredictorCorrector(model.sde, steps=evaluations)
    return sampler.sample(model, (n, 1, side, side), seed=seed)


def measure_evaluations(model: ss.ScoreModel, data: Tensor) -> dict[str, Tensor]:
    """The same galaxies at each number of evaluations, by the default and the recommended one."""
    found = {str(n): drawn(model, SHOWN, n, seed=0) for n in EVALUATIONS}
    recommended = ss.recommended_sampler(model.sde, EVALUATIONS[0], data=data)
    return {
        RECOMMENDED: recommended.sample(model, found[str(EVALUATIONS[0])].shape, seed=0)
    } | found


def changed(x: Tensor) -> dict[str, Tensor]:
    """Galaxies, and what a galaxy is not, each as data of the network."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    return {
        "the galaxy": x,
        "mirrored": x.flip(-1),
        "turned by 90°": x.rot90(1, (-2, -1)),
        "blurred by one pixel": 10 * torch.log1p(blur(flux(x), 1.0)),
        "noise of 0.1 in x more": x + 0.1 * noise,
    }


def log_likelihood(model: ss.ScoreModel, x: Tensor, probes: int, tol: float) -> dict[str, Any]:
    """Nats of each image, at the least noise of the SDE, by Hutchinson's estimate."""
    alpha, sigma = (v.item() for v in model.sde.marginal(model.sde.t_min))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    found = ss.ProbabilityFlow(model.sde, rtol=tol, atol=tol).log_likelihood(
        model, alpha * x + sigma * noise, divergence="hutchinson", probes=probes
    )
    return {
        "nats": [round(v) for v in found.log_prob.tolist()],
        "standard_error": rounded(found.standard_error.max()),
        "evaluations": int(found.evaluations.max()),
    }


def measure_likelihood(model: ss.ScoreModel, x: Tensor, probes: int) -> dict[str, Any]:
    """Of galaxies and of what they are not, and of the first galaxy with a finer solver."""
    rows: dict[str, Any] = {}
    for name, image in changed(x).items():
        rows[name] = log_likelihood(model, image, probes, 1e-4)
        print(f"{name}: {rows[name]}", flush=True)
    finer = log_likelihood(model, x[:1], probes, 1e-5)
    d, sigma = x[0].numel(), model.sde.marginal(model.sde.t_min)[1].item()
    mean = sum(rows["the galaxy"]["nats"]) / len(x)
    bits = ss.bits_per_dim(torch.tensor([mean]), d, levels=100, width=10.0)
    return {
        "probes": probes,
        "noise": rounded(sigma),
        "nats_per_pixel": round(mean / d, 3),
        "nats_per_pixel_of_noise": round(-0.5 * math.log(2 * math.pi * math.e * sigma**2), 3),
        "bits_per_dim": round(bits.item(), 2),
        "finer": finer["nats"][0],
        "rows": rows,
    }


def measure_deblurring(
    model: ss.ScoreModel, x: Tensor, samples: int, steps: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Draws of the posterior of each galaxy, their figures, and what the picture shows."""
    seen = observe(x)
    seen = seen + NOISE * torch.randn(seen.shape, generator=torch.Generator().manual_seed(4))
    label = seen.repeat_interleave(samples, 0)
    sampler = ss.PredictorCorrector(model.sde, predictor=ss.Ancestral(), steps=steps)
    found = sampler.sample(deblurring(model), label.shape, label=label, seed=5)
    misfit = ((observe(found) - label) / NOISE).square().mean()
    draws, truth = flux(found).unflatten(0, (len(x), samples)), flux(x)
    mean = draws.mean(1)

    def error(a: Tensor) -> float:
        return rounded((a - truth).square().mean().sqrt())

    wide = (draws - mean[:, None]).square().sum(1).div(samples - 1).mean().sqrt()
    figures = {
        "steps": steps,
        "samples": samples,
        "misfit": rounded(misfit),
        "error_observed": error(seen),
        "error_mean": error(mean),
        "spread": rounded(wide),
    }
    return figures, {
        "galaxy": truth,
        "observed": seen,
        "mean of all": mean,
        "spread": draws.std(1),
        **{f"sample {i + 1}": draws[:, i] for i in range(3)},
    }


def rows_of_images(columns: dict[str, Tensor], low: float, high: float) -> Figure:
    """A column for each entry, a row for each image ``(B, 1, H, W)``."""
    from matplotlib.figure import Figure

    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(1.05 * len(columns), 1.05 * rows + 0.25), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for name, images, column in zip(columns, columns.values(), axes.T, strict=True):
        column[0].set_title(name, fontsize=8)
        for image, panel in zip(images, column, strict=True):
            panel.imshow(image[0], cmap="gray", vmin=low, vmax=high)
            panel.set_axis_off()
    return figure


def run(path: Path, model: ss.ScoreModel, probes: int = 4, steps: int = 100) -> dict[str, Any]:
    """The pictures in ``path``, and the numbers of the page."""
    path.mkdir(parents=True, exist_ok=True)
    model.requires_grad_(False)
    began = time.monotonic()
    data = drawn(model, DATA)
    columns = measure_evaluations(model, data)
    rows_of_images(columns, *GREY).savefig(path / "evaluations.png", dpi=90)
    limit = columns[str(EVALUATIONS[-1])]
    distances = {k: rounded((x - limit).norm() / limit.norm()) for k, x in columns.items()}
    print(distances, flush=True)
    figures, images = measure_deblurring(model, data[:BLURRED], DRAWN, steps)
    print(figures, flush=True)
    logs = {name: torch.log1p(image.clamp(min=0) / 0.02) for name, image in images.items()}
    rows_of_images(logs, 0.0, 4.0).savefig(path / "deblurred.png", dpi=90)
    likelihood = measure_likelihood(model, data[:SCORED], probes)
    return {
        "command": "python benchmarks/galaxies_in_use.py out/galaxygrad-0.2.1-py3-none-any.whl"
        " --save",
        **conditions(),
        "file": FILE,
        "distance": distances,
        "deblurring": figures,
        "likelihood": likelihood,
        "seconds": round(time.monotonic() - began),
    }


def table(report: dict[str, Any]) -> str:
    """The page's table of likelihoods: nats beside the galaxy's own, of each galaxy."""
    rows = report["likelihood"]["rows"]
    own = rows["the galaxy"]["nats"]
    lines = [f"| image | {' | '.join(f'galaxy {i + 1}' for i in range(len(own)))} |"]
    lines += ["|---|" + "---|" * len(own)]
    for name, row in rows.items():
        cells = (
            f"{v:,}" if name == "the galaxy" else f"{v - o:+,}"
            for v, o in zip(row["nats"], own, strict=True)
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines).replace("-", "−").replace("|−−−", "|---")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path, help="galaxygrad's wheel")
    parser.add_argument("--save", action="store_true", help="replace the documentation's own")
    parser.add_argument("--out", type=Path, default=Path("out/galaxies"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE.parent / "docs" / "_static" / "galaxies" if options.save else options.out
    report = run(path, load(options.wheel))
    print(table(report))
    if options.save:
        RESULT.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
