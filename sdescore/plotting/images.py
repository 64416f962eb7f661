"""Images: a grid of samples, a labelled row per sampler, a strip over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.plotting._style import (
    LABEL_SIZE,
    TICK_SIZE,
    new_figure,
    write_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_rows", "plot_samples", "plot_trajectory"]


def plot_samples(
    x: Tensor,
    columns: int | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    title: str | None = None,
) -> Figure:
    """A grid of images, row by row.

    Parameters
    ----------
    x : Tensor
        Images ``(N, H, W)`` or ``(N, C, H, W)``, C = 1 (grey) or 3 (RGB).
    columns : int, optional
        Images a row. Default: the smallest number that makes the grid at least as wide
        as high.
    value_range : tuple[float, float]
        Values shown as black and as white; values outside are clipped.
    title : str, optional
        Written above.

    Returns
    -------
    Figure
        Its only image holds the grid with values in [0, 1], one pixel a pixel.

    Raises
    ------
    ShapeError
        Not images, or none.
    ParameterError
        ``columns`` below 1, or an empty ``value_range``.
    """
    images = _images(x, "x")
    if columns is None:
        columns = next(k for k in range(1, len(images) + 1) if k * k >= len(images))
    columns = checks.count("columns", columns)
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    figure, _ = _grid(rows, columns, [value_range] * columns, title, tile=0.55)
    return figure


def plot_rows(
    rows: Mapping[str, Tensor],
    columns: int = 12,
    value_range: tuple[float, float] = (-1.0, 1.0),
    title: str | None = None,
) -> Figure:
    """A labelled row of images for every entry, e.g. real data on top and then each sampler.

    Parameters
    ----------
    rows : Mapping[str, Tensor]
        Label → images ``(N, H, W)`` or ``(N, C, H, W)`` of one size; N may differ.
    columns : int
        Images shown of each entry, the first ones; where there are fewer the row ends early.
    value_range : tuple[float, float]
        Values shown as black and as white; values outside are clipped.
    title : str, optional
        Written above.

    Returns
    -------
    Figure
        Its only image holds all rows with values in [0, 1].

    Raises
    ------
    ShapeError
        No rows, not images, or images of different sizes.
    ParameterError
        ``columns`` below 1, or an empty ``value_range``.
    """
    columns = checks.count("columns", columns)
    if not rows:
        raise ShapeError("expected at least one row of images, got an empty mapping")
    images = [_images(x, f"rows[{label!r}]")[:columns] for label, x in rows.items()]
    columns = max(map(len, images))
    margin = max(map(_text_width, rows)) + 0.1
    figure, axes = _grid(images, columns, [value_range] * columns, title, 0.55, left=margin)
    axes.set_yticks(_centres(images, 0), list(rows), fontsize=LABEL_SIZE)
    return figure


def plot_trajectory(
    states: Sequence[Tensor] | Tensor,
    times: Sequence[float] | Tensor,
    value_range: tuple[float, float] | None = (-1.0, 1.0),
    title: str | None = None,
) -> Figure:
    """How samples form: one row a sample, one column a time.

    Parameters
    ----------
    states : sequence of Tensor, or Tensor
        S states ``(B, H, W)`` or ``(B, C, H, W)``, or the same stacked, in the order shown.
    times : sequence of float, or Tensor
        The S times, written above the columns.
    value_range : tuple[float, float], optional
        Values shown as black and as white. ``None``: the extremes of each column, which
        keeps the early, noisy states of a variance-exploding process legible.
    title : str, optional
        Written above.

    Returns
    -------
    Figure
        Its only image holds the strip with values in [0, 1].

    Raises
    ------
    ShapeError
        No states, not images, sizes that differ, or not one time per state.
    ParameterError
        An empty ``value_range``.
    """
    columns = [_images(state, f"states[{i}]") for i, state in enumerate(states)]
    times = [float(t) for t in times]
    if not columns or len(columns) != len(times):
        raise ShapeError(
            f"expected one time for each of at least one state, got {len(columns)} states "
            f"and {len(times)} times"
        )
    if len({len(column) for column in columns}) > 1:
        raise ShapeError(
            f"expected the same samples in every state, got batches of {list(map(len, columns))}"
        )
    ranges = [_extremes(c) if value_range is None else value_range for c in columns]
    strip = list(torch.stack(_one_size(columns), 1))
    figure, axes = _grid(strip, len(times), ranges, title, tile=0.72, top=0.4)
    labels = [f"{t:.3g}" for t in times]
    axes.set_xticks(_centres(columns, 1), labels, fontsize=TICK_SIZE)
    axes.set_xlabel("time $t$", fontsize=LABEL_SIZE)
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    return figure


def _images(x: Tensor, name: str) -> Tensor:
    """``(N, H, W)`` or ``(N, C, H, W)`` as float64 ``(N, C, H, W)`` on the CPU."""
    checks.state(x, name)
    images = x.unsqueeze(1) if x.ndim == 3 else x
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.numel() == 0:
        raise ShapeError(
            f"expected {name} of shape (N, H, W) or (N, C, H, W) with C = 1 or 3 and N >= 1, "
            f"got {tuple(x.shape)}"
        )
    return images.detach().to(device="cpu", dtype=torch.float64)


def _one_size(images: list[Tensor]) -> list[Tensor]:
    sizes = {tuple(x.shape[1:]) for x in images}
    if len(sizes) > 1:
        raise ShapeError(f"expected images of one size (C, H, W), got {sorted(sizes)}")
    return images


def _extremes(images: Tensor) -> tuple[float, float]:
    low, high = float(images.min()), float(images.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _text_width(label: str) -> float:
    """Width in inches of a row's label."""
    from matplotlib.textpath import TextPath

    return float(TextPath((0.0, 0.0), label or " ", size=LABEL_SIZE).get_extents().width) / 72


def _gap(size: int) -> int:
    return max(1, size // 14)


def _centres(images: list[Tensor], axis: int) -> list[float]:
    """Pixel coordinates of the centres of the tiles along rows (0) or columns (1)."""
    size = images[0].shape[2 + axis]
    return [i * (size + _gap(size)) + (size - 1) / 2 for i in range(len(images))]


def _grid(
    rows: list[Tensor],
    columns: int,
    ranges: Sequence[tuple[float, float]],
    title: str | None,
    tile: float,
    left: float = 0.0,
    top: float = 0.0,
) -> tuple[Figure, Axes]:
    """One picture of all rows of images; every column has its own range of values.

    ``tile``, ``left`` and ``top`` are inches: the height of an image, and room for labels.
    """
    channels, height, width = _one_size(rows)[0].shape[1:]
    for low, high in ranges:
        checks.number("high end of value_range", high, above=checks.number("low end", low))
    down, across = height + _gap(height), width + _gap(width)
    shape = channels, len(rows) * down - _gap(height), columns * across - _gap(width)
    canvas = torch.ones(shape, dtype=torch.float64, device="cpu")
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            low, high = ranges[j]
            y, x = i * down, j * across
            shade = ((image - low) / (high - low)).clamp(0.0, 1.0)
            canvas[:, y : y + height, x : x + width] = shade
    figure = new_figure(
        columns * tile * width / height + left + 0.1,
        len(rows) * tile + top + (0.1 if title is None else 0.4),
    )
    axes = figure.add_subplot()
    pixels = canvas.permute(1, 2, 0) if channels == 3 else canvas[0]
    axes.imshow(pixels.numpy(), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    # The layout measures labels against the axes before square pixels shrink them, so the
    # sides that carry labels must not move.
    axes.set_anchor("NW")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    write_title(figure, title)
    return figure, axes
