"""Every plot: no global state, and refusals."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import pytest
import torch

from sdescore.errors import DivergenceError
from sdescore.plotting import (
    plot_samples,
    plot_score_field,
)
from tests.helpers.figures import (
    EXTENT,
    assert_nothing_is_clipped,
    draw,
    title_of,
)


@pytest.mark.slow
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
    assert title_of(figure).split() == title.split()
    assert_nothing_is_clipped(figure)
    figure.savefig(io.BytesIO(), format="png")


def test_divergence_names_time_and_arrows():
    def score(x, t):
        return torch.where(x[:, :1] > 2.0, torch.tensor(math.nan), x)

    with pytest.raises(DivergenceError) as caught:
        plot_score_field(score, 0.25, EXTENT, arrows=3, resolution=3)
    assert (caught.value.t, caught.value.samples) == (0.25, [2, 5, 8])
