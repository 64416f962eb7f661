"""Every plot: no global state, and refusals."""

from __future__ import annotations

import io
import math
import subprocess
import sys

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
from tests.helpers.figures import (
    EXTENT,
    SPECTRUM,
    Flow,
    Spiral,
    assert_nothing_is_clipped,
    ddim,
    draw,
)


def test_no_display_and_no_global_state_is_touched():
    code = """
import sys, torch, sdescore.plotting as p
assert "matplotlib" not in sys.modules
figure = p.plot_samples(torch.zeros(2, 4, 4), title="t")
figure.savefig(sys.stdout.buffer, format="png")
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.startswith(b"\x89PNG")


@pytest.mark.parametrize("title", ["short", "a title that is much longer than two small tiles are"])
def test_titles_are_broken_to_fit(title):
    figure = plot_samples(draw(2, 4, 4), title=title)
    assert figure.get_suptitle().split() == title.split()
    assert_nothing_is_clipped(figure)
    figure.savefig(io.BytesIO(), format="png")


IMAGES = torch.zeros(2, 4, 4)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: plot_samples(torch.zeros(4, 4)), ShapeError),
        (lambda: plot_samples(torch.zeros(2, 2, 4, 4)), ShapeError),
        (lambda: plot_samples(torch.zeros(0, 4, 4)), ShapeError),
        (lambda: plot_samples(torch.zeros(2, 4, 4, dtype=torch.uint8)), ShapeError),
        (lambda: plot_samples(IMAGES, columns=0), ParameterError),
        (lambda: plot_samples(IMAGES, value_range=(1.0, 1.0)), ParameterError),
        (lambda: plot_samples(IMAGES, value_range=("0", 1.0)), ParameterError),
        (lambda: plot_rows({}), ShapeError),
        (lambda: plot_rows({"a": IMAGES}, columns=0), ParameterError),
        (lambda: plot_rows({"a": IMAGES, "b": torch.zeros(2, 4, 5)}), ShapeError),
        (lambda: plot_rows({"a": IMAGES, "b": torch.zeros(2, 3, 4, 4)}), ShapeError),
        (lambda: plot_trajectory([], []), ShapeError),
        (lambda: plot_trajectory([IMAGES], [1.0, 0.5]), ShapeError),
        (lambda: plot_trajectory([IMAGES, IMAGES[:1]], [1.0, 0.5]), ShapeError),
        (lambda: plot_trajectory([IMAGES, torch.zeros(2, 5, 4)], [1.0, 0.5]), ShapeError),
        (lambda: plot_score_field(Spiral(), 1.0, (1.0, 0.0, 0.0, 1.0)), ParameterError),
        (lambda: plot_score_field(Spiral(), 1.0, (0.0, 1.0, math.nan, 1.0)), ParameterError),
        (lambda: plot_score_field(Spiral(), 1.0, (0.0, 1.0)), ParameterError),
        (lambda: plot_score_field(Spiral(), 1.0, EXTENT, arrows=0), ParameterError),
        (lambda: plot_score_field(Spiral(), 1.0, EXTENT, arrows=2.0), ParameterError),
        (lambda: plot_score_field(Spiral(), 1.0, EXTENT, resolution=0), ParameterError),
        (lambda: plot_score_field(Spiral(), 1.0, EXTENT, data=torch.zeros(3, 3)), ShapeError),
        (lambda: plot_score_field(lambda x, t: x[:, :1], 1.0, EXTENT), ShapeError),
        (lambda: plot_score_field(lambda x, t: x / 0, 1.0, EXTENT), DivergenceError),
        (lambda: plot_schedule({}), ShapeError),
        (lambda: plot_error_against_steps({}, [5], SPECTRUM), ShapeError),
        (lambda: plot_error_against_steps({"a": ddim}, [], SPECTRUM), ShapeError),
        (lambda: plot_error_against_steps({"a": ddim}, [0], SPECTRUM), ParameterError),
        (lambda: plot_error_against_steps({"a": ddim}, [True], SPECTRUM), ParameterError),
        (lambda: plot_error_against_steps({"a": ddim}, [5.0], SPECTRUM), ParameterError),
        (lambda: plot_error_against_steps({"a": ddim}, [5]), IncompatibleError),
        (lambda: plot_error_against_steps({"a": ddim}, [5], SPECTRUM[None]), ShapeError),
        (lambda: plot_error_against_steps({"a": lambda n: n}, [5], SPECTRUM), IncompatibleError),
        (lambda: plot_error_by_mode({}, SPECTRUM), ShapeError),
        (lambda: plot_error_by_mode({"a": ss.DDIM()}, SPECTRUM), IncompatibleError),
        (lambda: plot_error_by_mode({"a": ddim(5)}, -SPECTRUM), ParameterError),
        (lambda: plot_error_by_mode({"a": ddim(5)}, 0 * SPECTRUM), ParameterError),
        (
            lambda: plot_error_by_mode({"a": ddim(5)}, SPECTRUM, wavelength=torch.ones(2)),
            ShapeError,
        ),
        (lambda: plot_error_by_mode({"a": ddim(5)}, SPECTRUM, wavelength=2.0), ShapeError),
        (
            lambda: plot_error_by_mode({"a": ddim(5)}, SPECTRUM, wavelength=torch.zeros(3)),
            ParameterError,
        ),
        (lambda: plot_schedule({"a": Flow(1.0, 0.1)}, points=0), ParameterError),
    ],
)
def test_bad_input_is_refused(call, error):
    with pytest.raises(error, match=r"expected (.|\n)*[,;] got"):
        call()


def test_divergence_names_time_and_arrows():
    def score(x, t):
        return torch.where(x[:, :1] > 2.0, torch.tensor(math.nan), x)

    with pytest.raises(DivergenceError) as caught:
        plot_score_field(score, 0.25, EXTENT, arrows=3, resolution=3)
    assert (caught.value.t, caught.value.samples) == (0.25, [2, 5, 8])
