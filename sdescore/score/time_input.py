"""What a network is given as time: one of the names in use, or a function of t.

A network of integer levels has no value between two of them. With ``snap`` it is given the nearest
one, and its output is read as a prediction at that level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError, TimeError
from sdescore.sde.linear import LinearSDE

TimeFunction = Callable[[Tensor], Tensor]
"""From float64 times ``()`` or ``(n,)`` to the network's, of the same shape."""

LEVELS = ("level", "continuous_level")
TIME_INPUTS = ("t", "999t", *LEVELS, "sigma", "log_sigma", "log_snr", "quarter_log_sigma")


def require_time_input(time_input: object, snap: object, sde: LinearSDE) -> None:
    """Refuse a time input that is neither a name nor a function, or does not fit the SDE."""
    if not callable(time_input) or isinstance(time_input, type):
        expected = f"time_input as a function of t, or one of {', '.join(TIME_INPUTS)}"
        known = isinstance(time_input, str) and time_input in TIME_INPUTS
        checks.that(known, expected, f"{time_input!r:.100}", IncompatibleError)
    checks.that(
        time_input not in LEVELS or hasattr(sde, "level"),
        f"a discrete SDE for time_input={time_input!r}",
        f"{type(sde).__name__}; use DiscreteVPSDE or DiscreteVESDE, or another time input",
        IncompatibleError,
    )
    if time_input in ("log_snr", "quarter_log_sigma"):
        expected = f"alpha_T > 0 for time_input={time_input!r}, which is infinite at 0"
        got = f"a {type(sde).__name__} with alpha_T = 0; pass time_input='t'"
        checks.that(sde.marginal(sde.T)[0].item() > 0, expected, got, IncompatibleError)
    checks.flag("snap", snap)  # type: ignore[arg-type]
    got = f"time_input={time_input!r:.100}, which takes any time; leave snap out"
    whole = not snap or time_input == "level"
    checks.that(whole, "time_input='level' for snap=True", got, IncompatibleError)


def value_of(function: TimeFunction, t: Tensor) -> Tensor:
    """What a user's function makes of times, refused unless it is one real number for each.

    Whole numbers become int64, others float64.
    """
    value: object = function(t)
    expected = f"time_input(t) to return a real tensor of t's shape {tuple(t.shape)}"
    if not isinstance(value, Tensor):
        got = f"{type(value).__name__}; compute with torch, such as lambda t: 1000 * t"
        checks.refuse(expected, got, IncompatibleError)
    numbers = not value.is_complex() and value.dtype != torch.bool
    checks.that(numbers, expected, value.dtype, IncompatibleError)
    checks.that(value.shape == t.shape, expected, tuple(value.shape), ShapeError)
    return value.to(torch.float64 if value.is_floating_point() else torch.int64)


def nearest_level_time(sde: LinearSDE, t: Tensor) -> Tensor:
    """The time of the level of a discrete SDE that is nearest to each time, like ``t``."""
    discrete: Any = sde
    index = discrete.level(t).round().long()
    expected = "times no more than half a level below the SDE's first, for snap=True"
    got = f"t down to {t.min().item() if t.numel() else 0.0:g}; end the grid earlier"
    checks.that(not bool((index < 0).any()), expected, got, TimeError)
    times: Tensor = discrete.level_times().to(t.device)
    return times[index]
