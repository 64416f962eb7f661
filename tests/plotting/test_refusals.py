"""What plots refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

import sdescore as ss
from sdescore.errors import DivergenceError, IncompatibleError, ParameterError, ShapeError
from sdescore.plotting import (
    plot_error_against_steps,
    plot_error_by_mode,
    plot_rows,
    plot_samples,
    plot_schedule,
    plot_score_field,
    plot_trajectory,
)
from tests.helpers.figures import EXTENT, SPECTRUM, Flow, Spiral, ddim
from tests.helpers.refusals import Refusal, rows

IMAGES = torch.zeros(2, 4, 4)

REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "bad input is refused": (
        (lambda: plot_samples(torch.zeros(4, 4)), ShapeError, r"expected (.|\n)*[,;] got"),
        (lambda: plot_samples(torch.zeros(2, 2, 4, 4)), ShapeError, r"expected (.|\n)*[,;] got"),
        (lambda: plot_samples(torch.zeros(0, 4, 4)), ShapeError, r"expected (.|\n)*[,;] got"),
        (
            lambda: plot_samples(torch.zeros(2, 4, 4, dtype=torch.uint8)),
            ShapeError,
            r"expected (.|\n)*[,;] got",
        ),
        (lambda: plot_samples(IMAGES, columns=0), ParameterError, r"expected (.|\n)*[,;] got"),
        (
            lambda: plot_samples(IMAGES, value_range=(1.0, 1.0)),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_samples(IMAGES, value_range=("0", 1.0)),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (lambda: plot_rows({}), ShapeError, r"expected (.|\n)*[,;] got"),
        (lambda: plot_rows({"a": IMAGES}, columns=0), ParameterError, r"expected (.|\n)*[,;] got"),
        (
            lambda: plot_rows({"a": IMAGES, "b": torch.zeros(2, 4, 5)}),
            ShapeError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_rows({"a": IMAGES, "b": torch.zeros(2, 3, 4, 4)}),
            ShapeError,
            r"expected (.|\n)*[,;] got",
        ),
        (lambda: plot_trajectory([], []), ShapeError, r"expected (.|\n)*[,;] got"),
        (lambda: plot_trajectory([IMAGES], [1.0, 0.5]), ShapeError, r"expected (.|\n)*[,;] got"),
        (
            lambda: plot_trajectory([IMAGES, IMAGES[:1]], [1.0, 0.5]),
            ShapeError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_trajectory([IMAGES, torch.zeros(2, 5, 4)], [1.0, 0.5]),
            ShapeError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_score_field(Spiral(), 1.0, (1.0, 0.0, 0.0, 1.0)),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_score_field(Spiral(), 1.0, (0.0, 1.0, math.nan, 1.0)),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_score_field(Spiral(), 1.0, (0.0, 1.0)),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_score_field(Spiral(), 1.0, EXTENT, arrows=0),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_score_field(Spiral(), 1.0, EXTENT, arrows=2.0),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_score_field(Spiral(), 1.0, EXTENT, resolution=0),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_score_field(Spiral(), 1.0, EXTENT, data=torch.zeros(3, 3)),
            ShapeError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_score_field(lambda x, t: x[:, :1], 1.0, EXTENT),
            ShapeError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_score_field(lambda x, t: x / 0, 1.0, EXTENT),
            DivergenceError,
            r"expected (.|\n)*[,;] got",
        ),
        (lambda: plot_schedule({}), ShapeError, r"expected (.|\n)*[,;] got"),
        (
            lambda: plot_error_against_steps({}, [5], SPECTRUM),
            ShapeError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_error_against_steps({"a": ddim}, [], SPECTRUM),
            ShapeError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_error_against_steps({"a": ddim}, [0], SPECTRUM),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_error_against_steps({"a": ddim}, [True], SPECTRUM),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_error_against_steps({"a": ddim}, [5.0], SPECTRUM),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_error_against_steps({"a": ddim}, [5]),
            IncompatibleError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_error_against_steps({"a": ddim}, [5], SPECTRUM[None]),
            ShapeError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_error_against_steps({"a": lambda n: n}, [5], SPECTRUM),
            IncompatibleError,
            r"expected (.|\n)*[,;] got",
        ),
        (lambda: plot_error_by_mode({}, SPECTRUM), ShapeError, r"expected (.|\n)*[,;] got"),
        (
            lambda: plot_error_by_mode({"a": ss.DDIM()}, SPECTRUM),
            IncompatibleError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_error_by_mode({"a": ddim(5)}, -SPECTRUM),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_error_by_mode({"a": ddim(5)}, 0 * SPECTRUM),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_error_by_mode({"a": ddim(5)}, SPECTRUM, wavelength=torch.ones(2)),
            ShapeError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_error_by_mode({"a": ddim(5)}, SPECTRUM, wavelength=2.0),
            ShapeError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_error_by_mode({"a": ddim(5)}, SPECTRUM, wavelength=torch.zeros(3)),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
        (
            lambda: plot_schedule({"a": Flow(1.0, 0.1)}, points=0),
            ParameterError,
            r"expected (.|\n)*[,;] got",
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
