"""The tables of the objectives, as the documentation shows them."""

from __future__ import annotations

import math
from typing import Any

STEPS = (0.003, 0.01, 0.03, 0.1)


def shown_bias(row: dict[str, Any]) -> str:
    """A figure, or the bound that three standard errors give."""
    squared, error = row["bias_squared"], row["bias_squared_standard_error"]
    if squared == error == 0:
        return "0"
    if squared > 3 * error:
        return shown(math.sqrt(squared))
    return f"< {math.sqrt(max(squared, 0) + 3 * error):.2f}"


def shown(value: float) -> str:
    """Two digits, or whole numbers."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def table(report: dict[str, Any], d: int) -> str:
    """One dimension's table, as the documentation shows it."""
    lines = [
        "| model | objective | bias | noise | time | MB |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        if row["d"] == d:
            noise = "–" if row["noise"] is None else shown(row["noise"])
            lines.append(
                f"| {row['model']} | {row['objective']} | {shown_bias(row)} | {noise} | "
                f"{shown(row['time'])} | {shown(row['memory_mb'])} |"
            )
    return "\n".join(lines)


def step_table(report: dict[str, Any]) -> str:
    """The error of finite differences, one column a step."""
    lines = [
        "| model | d | " + " | ".join(f"ε = {e:g}" for e in STEPS) + " |",
        "|---|---|" + "---|" * len(STEPS),
    ]
    for row in report["steps"]:
        cells = " | ".join(f"{row['relative_error'][f'{e:g}']:.0e}" for e in STEPS)
        lines.append(f"| {row['model']} | {row['d']} | {cells} |")
    return "\n".join(lines)
