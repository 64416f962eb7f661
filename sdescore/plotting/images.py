"""Images: a grid of samples, a labelled row per sampler, a strip over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError
from sdescore.plotting._style import LABEL_SIZE, TICK_SIZE, new_figure, write_title

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
    """A grid of images, row by row, as one picture with values in [0, 1], one pixel a pixel.

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

    Raises
    ------
    ShapeError, ParameterError
        Not images, or none; ``columns`` below 1, or an empty ``value_range``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> figure = ss.plotting.plot_samples(ss.datasets.digits()[:16])
    >>> figure.savefig("samples.png")  # doctest: +SKIP
    """
    images = _images(x, "x")
    square = math.isqrt(len(images) - 1) + 1
    columns = checks.count("columns", square if columns is None else columns)
    rows = list(torch.split(images, columns))
    return _grid(rows, [value_range] * columns, title, tile=0.55)[0]


def plot_rows(
    rows: Mapping[str, Tensor],
    columns: int = 12,
    value_range: tuple[float, float] = (-1.0, 1.0),
    title: str | None = None,
) -> Figure:
    """A labelled row of images for every entry, e.g. real data on top and then each sampler.

    Picture, ``value_range``, ``title`` and errors are as in :func:`plot_samples`; no rows, or
    images of different sizes, are a ShapeError.

    Parameters
    ----------
    rows : Mapping[str, Tensor]
        Label → images as in :func:`plot_samples`, all of one size; N may differ.
    columns : int
        Images shown of each entry, the first ones; where there are fewer the row ends early.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> x = ss.datasets.digits()
    >>> figure = ss.plotting.plot_rows({"first": x[:12], "next": x[12:24]})
    >>> figure.savefig("rows.png")  # doctest: +SKIP
    """
    columns = checks.count("columns", columns)
    checks.that(bool(rows), "at least one row of images", "an empty mapping", ShapeError)
    images = [_images(x, f"rows[{label!r}]")[:columns] for label, x in rows.items()]
    ranges = [value_range] * max(map(len, images))
    figure, axes = _grid(images, ranges, title, 0.55, left=max(map(_text_width, rows)) + 0.1)
    axes.set_yticks(_centres(images, 0), list(rows), fontsize=LABEL_SIZE)
    return figure


def plot_trajectory(
    states: Sequence[Tensor] | Tensor,
    times: Sequence[float] | Tensor,
    value_range: tuple[float, float] | None = (-1.0, 1.0),
    title: str | None = None,
) -> Figure:
    """How samples form: one row a sample, one column a time.

    Picture and errors are as in :func:`plot_samples`; no states, shapes that differ, or not one
    time per state, are a ShapeError.

    Parameters
    ----------
    states : sequence of Tensor, or Tensor
        S states ``(B, H, W)`` or ``(B, C, H, W)``, or the same stacked, in the order shown.
    times : sequence of float, or Tensor
        The S times, written above the columns.
    value_range : tuple[float, float], optional
        As in :func:`plot_samples`. ``None``: the extremes of each column, which keeps the
        early, noisy states of a variance-exploding process legible.
    title : str, optional
        Written above.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore(torch.zeros(1, 8, 8), 1.0, sde)
    >>> states = list(ss.PredictorCorrector(sde, steps=5).iterate(score, (3, 1, 8, 8)))
    >>> figure = ss.plotting.plot_trajectory([s.x for s in states], [s.t for s in states])
    >>> figure.savefig("trajectory.png")  # doctest: +SKIP
    """
    columns = [_images(state, f"states[{i}]") for i, state in enumerate(states)]
    times = [float(t) for t in times]
    fits = 0 < len(columns) == len(times)
    got = f"{len(columns)} states and {len(times)} times"
    checks.that(fits, "one time for each of at least one state", got, ShapeError)
    shapes = sorted({tuple(column.shape) for column in columns})
    checks.that(len(shapes) == 1, "the same samples in every state", f"shapes {shapes}", ShapeError)
    ranges = [_extremes(c) if value_range is None else value_range for c in columns]
    figure, axes = _grid(list(torch.stack(columns, 1)), ranges, title, tile=0.72, top=0.4)
    axes.set_xticks(_centres(columns, 1), [f"{t:.3g}" for t in times], fontsize=TICK_SIZE)
    axes.set_xlabel("time $t$", fontsize=LABEL_SIZE)
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0)
    return figure


def _images(x: Tensor, name: str) -> Tensor:
    """``(N, H, W)`` or ``(N, C, H, W)`` as float64 ``(N, C, H, W)`` on the CPU."""
    checks.state(x, name)
    images = x.unsqueeze(1) if x.ndim == 3 else x
    usable = images.ndim == 4 and images.shape[1] in (1, 3) and images.numel() > 0
    expected = f"{name} of shape (N, H, W) or (N, C, H, W) with C = 1 or 3 and N >= 1"
    checks.that(usable, expected, tuple(x.shape), ShapeError)
    return images.detach().to(device="cpu", dtype=torch.float64)


def _extremes(images: Tensor) -> tuple[float, float]:
    low, high = images.min().item(), images.max().item()
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
    ranges: Sequence[tuple[float, float]],
    title: str | None,
    tile: float,
    left: float = 0.0,
    top: float = 0.0,
) -> tuple[Figure, Axes]:
    """One picture of all rows of images; every column has its own range of values.

    ``tile``, ``left`` and ``top`` are inches: the height of an image, and room for labels.
    """
    sizes = sorted({tuple(x.shape[1:]) for x in rows})
    checks.that(len(sizes) == 1, "images of one size (C, H, W)", sizes, ShapeError)
    channels, height, width = sizes[0]
    for low, high in ranges:
        checks.number("high end of value_range", high, above=checks.number("low end", low))
    below, beside = _gap(height), _gap(width)
    size = channels, len(rows), height + below, len(ranges), width + beside
    canvas = torch.ones(size, dtype=torch.float64, device="cpu")
    for i, row in enumerate(rows):
        for j, (image, (low, high)) in enumerate(zip(row, ranges, strict=False)):
            shade = ((image - low) / (high - low)).clamp(0.0, 1.0)
            canvas[:, i, :height, j, :width] = shade
    canvas = canvas.flatten(3).flatten(1, 2)[:, :-below, :-beside]
    figure = new_figure(
        len(ranges) * tile * width / height + left + 0.1,
        len(rows) * tile + top + (0.1 if title is None else 0.4),
    )
    axes = figure.add_subplot()
    pixels = canvas.permute(1, 2, 0) if channels == 3 else canvas[0]
    axes.imshow(pixels.numpy(), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    # The layout measures labels against the axes before square pixels shrink them, so the
    # sides that carry labels must not move.
    axes.set_anchor("NW")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    write_title(figure, title)
    return figure, axes
