"""Panels, densities and numbers that the theory pages' pictures share."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import sdescore as ss

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "0.45"


SEED = 3


def panels(rows: int, columns: int, width: float = 7.6, height: float = 2.9) -> tuple[Figure, list]:
    """A white figure of equal panels without a box, readable at 600 pixels."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
    return figure, axes


def bimodal(sde: ss.LinearSDE, std: float = 0.15) -> ss.MixtureScore:
    """Two modes on a line, a third of the weight on the left one."""
    return ss.MixtureScore([0.35, 0.65], [[-1.0], [1.0]], [std**2, std**2], sde)


def normal(*shape: int, seed: int = SEED) -> Tensor:
    """Standard normal numbers of a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def density_map(axes: Axes, score: ss.MixtureScore, reach: float, flip: bool = False) -> None:
    """log p_t(x) over time (across) and x (up), in grey."""
    x = torch.linspace(-reach, reach, 241, dtype=torch.float64)[:, None]
    times = torch.linspace(1e-3, float(score.sde.T), 161, dtype=torch.float64)
    image = torch.stack([score.log_prob(x, t).exp() for t in times], 1)
    image = (image / image.amax(0)).sqrt()
    extent = (0, float(score.sde.T), -reach, reach)
    axes.imshow(image, extent=extent, origin="lower", aspect="auto", cmap="Greys", vmax=1.6)
