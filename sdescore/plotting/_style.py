"""The look that all figures share."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from sdescore.errors import ScheduleError

if TYPE_CHECKING:
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
        width = max(8, int(figure.get_figwidth() / 0.1))
        lines = textwrap.wrap(title, width)
        # The first line has its room already.
        figure.set_figheight(figure.get_figheight() + 0.2 * (len(lines) - 1))
        figure.suptitle("\n".join(lines), fontsize=TITLE_SIZE)


def require_at_least_one(name: str, value: int) -> None:
    """Refuse a count below 1."""
    if value < 1:
        raise ScheduleError(f"expected {name} >= 1, got {value}")
