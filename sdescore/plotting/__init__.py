"""Pictures: sample grids, rows per sampler, trajectories, score fields, schedules, exact errors.

Every function returns a :class:`matplotlib.figure.Figure` that no window or global state
knows of, so all of them work without a display; save it with
``figure.savefig("out.png", dpi=200)``. Colours are those of Okabe and Ito (2008), lines
also differ in their dashes, and maps are perceptually uniform: nothing is told by hue alone.
"""

from __future__ import annotations

from sdescore.plotting.errors import plot_error_against_steps, plot_error_by_mode
from sdescore.plotting.fields import plot_schedule, plot_score_field
from sdescore.plotting.images import plot_rows, plot_samples, plot_trajectory

__all__ = [
    "plot_error_against_steps",
    "plot_error_by_mode",
    "plot_rows",
    "plot_samples",
    "plot_schedule",
    "plot_score_field",
    "plot_trajectory",
]
