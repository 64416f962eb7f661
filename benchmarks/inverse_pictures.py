"""Inverse problems on pictures: digits behind a network, and patches of a photograph.

Four problems: a hidden half, a blur, down-sampling by 4, and noise. Each is solved by DPS, ΠGDM and
MMPS with one sampler. Digits come from the demo's network, trained without the digits that are
asked for. Patches come from a mixture of Gaussians fitted to one photograph and asked for of
another; there the exact posterior of the mixture is a row of the same table.

Of K = 19 draws for each picture this prints: the PSNR of their mean and of one draw; χ², the mean
square of (y − A x)/σ_y over draws and measurements; and the coverage of the interval from the
smallest to the largest draw, pixel by pixel. If the draws are of the posterior, the true picture
and they are exchangeable, so χ² is 1 on average and the interval covers 18/20 of the pixels. Ties
count by their share of orders.

    python benchmarks/inverse_pictures.py
    python benchmarks/inverse_pictures.py --save

``--save`` writes docs/_static/inverse and benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from machine import conditions
from torch import Tensor

import sdescore as ss
from sdescore.demo.recipes import digit_model

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "inverse-pictures-cpu.json"
PICTURES = HERE.parent / "docs" / "_static" / "inverse"
STEPS, DRAWS = 64, 19
PATCHES, DIGITS = 16, 4  # pictures asked for
SHOWN = 3  # pictures of a figure
EVENT = (1, 8, 8)
RANGE = 2.0  # of pixels in [−1, 1], for the PSNR


def problems() -> dict[str, tuple[ss.inverse.Operator, float]]:
    """Operator and standard deviation of the noise."""
    left = (torch.arange(8) < 4).expand(EVENT)
    return {
        "inpaint": (ss.inverse.Mask(left), 0.05),
        "deblur": (ss.inverse.Blur.gaussian(1.0, EVENT), 0.05),
        "super-resolve ×4": (ss.inverse.Downsample(4, EVENT), 0.05),
        "denoise": (ss.inverse.Mask(torch.ones(EVENT, dtype=torch.bool)), 0.5),
    }


def methods(data_std: float) -> dict[str, Any]:
    """Score and measurement → score."""
    inverse = ss.inverse
    return {
        "dps": lambda score, seen: inverse.dps(score, seen, data_std=data_std),
        "pigdm": lambda score, seen: inverse.pigdm(score, seen, data_std),
        "mmps": inverse.mmps,
    }


def observe(operator: ss.inverse.Operator, std: float, truth: Tensor) -> Tensor:
    """``y = A(x) + n``, one for each picture."""
    y = operator(truth)
    return y + std * torch.randn(y.shape, generator=torch.Generator().manual_seed(3))


def solve(method: Any, prior: Any, operator: Any, std: float, y: Tensor) -> Tensor:
    """``(K, N, *E)``: K draws of the posterior of each of N pictures."""
    guided = method(prior, ss.inverse.Measurement(y[0], operator, std))
    sampler = ss.PredictorCorrector(
        guided.sde, predictor=ss.DDIM(eta=1.0), grid=ss.LogSNRGrid(), steps=STEPS
    )
    label = {"measurement": y.repeat(DRAWS, *(1,) * (y.ndim - 1))}
    x = sampler.sample(guided, (DRAWS * len(y), *EVENT), label=label, max_batch=152)
    return x.reshape(DRAWS, len(y), *EVENT)


def psnr(x: Tensor, truth: Tensor) -> float:
    """In dB, from the mean square error over all pictures."""
    return (20 * torch.tensor(RANGE).log10() - 10 * (x - truth).square().mean().log10()).item()


def figures(
    draws: Tensor, operator: Any, std: float, y: Tensor, truth: Tensor, levels: int | None
) -> dict[str, float]:
    """What is printed of K draws ``(K, N, *E)``; pictures of few levels are rounded to them."""
    residual = (y - operator(draws.flatten(0, 1)).reshape(len(draws), *y.shape)) / std
    of, to = draws, truth
    if levels is not None:
        of, to = (((v.clamp(-1, 1) + 1) / 2 * (levels - 1)).round() for v in (draws, truth))
    below, equal = (of < to).sum(0), (of == to).sum(0)
    # The truth's place among K + 1 lies in below … below + equal, each as likely.
    first, last = below.clamp(min=1), (below + equal).clamp(max=len(draws) - 1)
    covered = (last - first + 1).clamp(min=0) / (equal + 1)
    return {
        "psnr_mean": psnr(draws.mean(0), truth),
        "psnr_draw": psnr(draws[0], truth),
        "chi2": residual.square().mean().item(),
        "coverage": covered.mean().item(),
    }


def digits(model_path: Path | None, steps: int) -> tuple[Any, Tensor]:
    """The demo's cosine model, trained on all digits but the last, and some of the last."""
    images = ss.datasets.digits()
    rest, held_out = images[:-100], images[-100 :: 100 // DIGITS][:DIGITS]
    if model_path is not None and model_path.exists():
        return ss.load(model_path), held_out
    torch.manual_seed(0)
    result = ss.train(
        digit_model("cosine"),
        rest,
        steps=steps,
        batch_size=128,
        lr=2e-3,
        ema_decay=0.998,
        standardize=False,
        progress=False,
        path=model_path,
    )
    return result.model, held_out


def patches(components: int = 20) -> tuple[ss.MixtureScore, Tensor]:
    """A mixture fitted to grey 8 × 8 patches of one photograph, and patches of the other."""
    from sklearn.datasets import load_sample_images
    from sklearn.mixture import GaussianMixture

    grey = [
        torch.from_numpy(image).double().mean(2) / 127.5 - 1
        for image in load_sample_images().images
    ]
    own, other = (
        image.unfold(0, 8, 8).unfold(1, 8, 8).reshape(-1, 64) for image in (grey[0], grey[1])
    )
    fitted = GaussianMixture(
        components, reg_covar=1e-4, random_state=0, max_iter=10, init_params="random_from_data"
    )
    fitted.fit(own.numpy())
    prior = ss.MixtureScore(
        torch.from_numpy(fitted.weights_),
        torch.from_numpy(fitted.means_).reshape(-1, *EVENT),
        torch.from_numpy(fitted.covariances_),
        ss.CosineVPSDE(),
    )
    lively = other[other.std(1) > 0.1]
    return prior, lively[:: len(lively) // PATCHES][:PATCHES].reshape(-1, *EVENT).float()


def exact(prior: ss.MixtureScore, operator: Any, std: float, y: Tensor) -> Tensor:
    """As :func:`solve`, from the exact posterior."""
    posteriors = [prior.posterior(operator, one.double(), std) for one in y]
    return torch.stack([p.sample(DRAWS, seed=i) for i, p in enumerate(posteriors)], 1)


def shown(operator: Any, y: Tensor) -> Tensor:
    """An observation as a picture: what the pseudo-inverse makes of it."""
    return operator.adjoint(operator.solve(y, 0.0))


def draw_figure(solved: dict[str, tuple[Tensor, Tensor, Tensor]], path: Path) -> None:
    """A block of rows a problem: truth, observation, four draws, their mean and std."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    heads = ["truth", "observation", *("draw",) * 4, "mean", "std × 2"]
    figure, axes = plt.subplots(SHOWN * len(solved), len(heads), figsize=(7.2, 10.0), dpi=120)
    for block, (name, (truth, seen, x)) in enumerate(solved.items()):
        for i in range(SHOWN):
            row = axes[SHOWN * block + i]
            pictures = [truth[i], seen[i], *x[:4, i], x.mean(0)[i], 4 * x.std(0)[i] - 1]
            for axis, picture in zip(row, pictures, strict=True):
                axis.imshow(picture[0], cmap="gray", vmin=-1, vmax=1)
                axis.set_xticks([])
                axis.set_yticks([])
            if i == 0:
                row[0].set_ylabel(name, fontsize=8, rotation=90)
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head, fontsize=8)
    figure.tight_layout(pad=0.3)
    figure.savefig(path)
    plt.close(figure)


def run(train_steps: int, model_path: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The table, and what the figures show."""
    report: dict[str, Any] = {}
    solved: dict[str, Any] = {}
    prior, held_out = patches()
    spread = prior.sample(2000).std().item()
    subjects: dict[str, Any] = {"patches": (prior, held_out, spread, None)}
    subjects["digits"] = *digits(model_path, train_steps), 0.75, 17
    for subject, (score, truth, data_std, levels) in subjects.items():
        report[subject], solved[subject] = {}, {}
        for name, (operator, std) in problems().items():
            y, rows = observe(operator, std, truth), {}
            for method, made in methods(data_std).items():
                x = solve(made, score, operator, std, y)
                rows[method] = figures(x, operator, std, y, truth, levels)
            solved[subject][name] = truth, shown(operator, y), x
            if subject == "patches":
                rows["exact"] = figures(
                    exact(score, operator, std, y), operator, std, y, truth, levels
                )
            report[subject][name] = rows
            for method, row in rows.items():
                line = ", ".join(f"{key} {value:.3g}" for key, value in row.items())
                print(f"{subject}, {name}, {method}: {line}", flush=True)
    return report, solved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--train-steps", type=int, default=2500)
    parser.add_argument("--model", type=Path, help="where the digits' model is kept")
    options = parser.parse_args()
    report, solved = run(options.train_steps, options.model)
    if options.save:
        PICTURES.mkdir(parents=True, exist_ok=True)
        for subject, blocks in solved.items():
            draw_figure(blocks, PICTURES / f"{subject}.png")
        saved = {
            "command": "python benchmarks/inverse_pictures.py --save",
            **conditions(),
            "steps": STEPS,
            "draws": DRAWS,
            "pictures": {"patches": PATCHES, "digits": DIGITS},
            "train_steps": options.train_steps,
            **report,
        }
        RESULT.write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    main()
