"""The look that all figures share."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, without the yellow and sky blue that vanish on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":")
# Font sizes in points.
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 12, 10, 9


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, tied to no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def write_title(figure: Figure, title: str | None) -> None:
    """Write the title, broken into lines that fit the width of the figure."""
    if title is not None:
        lines = textwrap.wrap(title, max(8, int(figure.get_figwidth() / 0.1)))
        # The first line has its room already.
        figure.set_figheight(figure.get_figheight() + 0.2 * (len(lines) - 1))
        figure.suptitle("\n".join(lines), fontsize=TITLE_SIZE)


def look(i: int) -> dict[str, Any]:
    """The i-th curve's colour and dashes: a pair comes back after 28."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}


def write_legend(figure: Figure, axes: Axes, columns: int) -> None:
    """The legend of one panel's curves, below all panels."""
    entries = axes.get_legend_handles_labels()
    looks: dict[str, Any] = {"frameon": False, "fontsize": LABEL_SIZE, "handlelength": 3.0}
    figure.legend(*entries, loc="outside lower center", ncols=columns, **looks)


def name_axes(axes: Axes, across: str, up: str) -> None:
    """The names of what is drawn across and up."""
    axes.set_xlabel(across, fontsize=LABEL_SIZE)
    axes.set_ylabel(up, fontsize=LABEL_SIZE)


def clean(axes: Axes) -> None:
    """A faint grid, small tick labels, no box."""
    axes.tick_params(labelsize=TICK_SIZE)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
