"""The errors: what each is, and that one name catches them all."""

from __future__ import annotations

import sdescore as ss
from sdescore.errors import (
    DivergenceError,
    IncompatibleError,
    ScheduleError,
    ShapeError,
    TimeError,
)


def test_errors_are_the_built_in_ones_a_caller_would_expect() -> None:
    for error, built_in in (
        (ShapeError, ValueError),
        (TimeError, ValueError),
        (ScheduleError, ValueError),
        (IncompatibleError, TypeError),
        (DivergenceError, RuntimeError),
    ):
        assert issubclass(error, built_in) and issubclass(error, ss.SDEScoreError)
