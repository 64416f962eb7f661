"""The panels of the story's pictures."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from torch import Tensor

Field = Callable[[Tensor], Tensor]


def lattice(half_width: float, side: int) -> Tensor:
    """Centres of ``side²`` cells of a square about the origin, the lowest row first."""
    line = half_width * ((2 * torch.arange(side) + 1) / side - 1)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def arrows(axes: Axes, field: Field, half_width: float, side: int = 20) -> None:
    """Directions of a field; lengths by the logarithm, for the sizes differ by decades."""
    x = lattice(half_width, side)
    s = field(x)
    size = s.norm(dim=1, keepdim=True)
    shown = s / size * (1 + size).log()
    axes.quiver(*x.T, *shown.T, color="#222222", width=0.0035, pivot="mid")


def background(
    axes: Axes,
    values: Tensor,
    half_width: float,
    label: str,
    limits: tuple[float, float],
    colours: str = "Blues",
) -> None:
    """Numbers of a lattice as colours."""
    side = math.isqrt(len(values))
    image = axes.imshow(
        values.reshape(side, side),
        origin="lower",
        extent=(-half_width, half_width, -half_width, half_width),
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        alpha=0.9,
    )
    axes.figure.colorbar(image, ax=axes, shrink=0.75, label=label)


def frame(axes: Axes, half_width: float, title: str) -> None:
    """A square panel."""
    axes.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width), aspect="equal")
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)


def dots(axes: Axes, x: Tensor, colour: str = "#D55E00") -> None:
    """Samples."""
    axes.scatter(*x.T, s=2, alpha=0.4, color=colour, linewidths=0)


def smooth(losses: list[float], window: int = 25) -> Tensor:
    """Means over windows, at their own positions."""
    curve = torch.tensor(losses, dtype=torch.float64)
    return curve.unfold(0, min(window, len(curve)), 1).mean(1)
