"""Score fields and schedules."""

from __future__ import annotations

import matplotlib.colors
import numpy as np
import pytest
import torch

from sdescore.plotting import (
    plot_schedule,
    plot_score_field,
)
from tests.helpers.figures import (
    EXTENT,
    Flow,
    Spiral,
    assert_nothing_is_clipped,
    draw,
    title_of,
)


class WithDensity(Spiral):
    def log_prob(self, x: torch.Tensor, t: float) -> torch.Tensor:
        return -x[:, 0].square() - 10 * x[:, 1] / t


def test_arrows_are_the_score_where_they_stand():
    figure = plot_score_field(Spiral(), 0.5, EXTENT, arrows=6, resolution=10)
    (quiver,) = figure.axes[0].collections
    x, y = quiver.X.reshape(6, 6), quiver.Y.reshape(6, 6)
    np.testing.assert_allclose(x[0], np.linspace(-1.5, 3.5, 6), rtol=1e-6)
    np.testing.assert_allclose(y[:, 0], np.linspace(-0.75, 1.75, 6), rtol=1e-6)
    np.testing.assert_allclose(quiver.U, (-quiver.X + 2 * quiver.Y) / 0.5, atol=1e-5)
    np.testing.assert_allclose(quiver.V, -3 * quiver.Y / 0.5, atol=1e-5)
    assert (quiver.angles, quiver.scale_units) == ("xy", "xy")
    # The 90 % quantile of the arrows is as long as the smaller side of a cell.
    lengths = np.hypot(quiver.U, quiver.V) / quiver.scale
    assert np.quantile(lengths, 0.9) == pytest.approx(0.5)


def test_background_is_the_log_density_cut_below_or_the_size_of_the_score():
    centres = np.meshgrid(-2 + 6 * (np.arange(10) + 0.5) / 10, -1 + 3 * (np.arange(10) + 0.5) / 10)
    figure = plot_score_field(WithDensity(), 0.5, EXTENT, arrows=3, resolution=10)
    (image,) = figure.axes[0].images
    expected = -(centres[0] ** 2) - 20 * centres[1]
    np.testing.assert_allclose(image.get_array(), expected, atol=1e-4)
    assert (image.origin, tuple(image.get_extent())) == ("lower", EXTENT)
    assert image.get_clim() == pytest.approx((expected.max() - 15, expected.max()), abs=1e-4)
    assert image.colorbar.extend == "min"

    figure = plot_score_field(Spiral(), 0.5, EXTENT, arrows=3, resolution=10)
    (image,) = figure.axes[0].images
    size = np.hypot(-centres[0] + 2 * centres[1], 3 * centres[1]) / 0.5
    np.testing.assert_allclose(image.get_array(), np.log10(size), atol=1e-4)
    assert image.colorbar.extend == "neither"


def test_field_shows_the_data_and_a_vanishing_score():
    data = draw(20, 2).double()
    figure = plot_score_field(lambda x, t: 0 * x, 0.1, EXTENT, data=data, arrows=3, resolution=4)
    dots = figure.axes[0].collections[1].get_offsets()
    np.testing.assert_array_equal(np.asarray(dots), data.numpy())
    assert np.ma.getmaskarray(figure.axes[0].images[0].get_array()).all()
    assert_nothing_is_clipped(figure)


def test_field_leaves_autograd_alone_and_names_the_time():
    net = torch.nn.Linear(2, 2)
    seen = []

    def score(x, t):
        seen.append((torch.is_grad_enabled(), t, x.dtype))
        return net(x)

    t = torch.tensor(0.125)
    figure = plot_score_field(score, t, EXTENT, arrows=2, resolution=2)
    assert all(not on and given is t and kind == torch.float32 for on, given, kind in seen)
    assert "0.125" in title_of(figure)
    assert figure.axes[0].get_xlim() == EXTENT[:2]
    assert figure.axes[0].get_ylim() == EXTENT[2:]


def test_schedule_curves_are_the_schedule_until_they_become_infinite():
    sdes = {"short": Flow(1.0, 0.01), "long": Flow(80.0, 0.002)}
    figure = plot_schedule(sdes, points=50, title="Schedules")
    for panel, count in zip(figure.axes, (50, 50, 49), strict=True):
        assert [line.get_label() for line in panel.lines] == list(sdes)
        for line, sde in zip(panel.lines, sdes.values(), strict=True):
            u = np.linspace(sde.t_min / sde.T, 1.0, 50)[:count]
            np.testing.assert_allclose(line.get_xdata(), u, rtol=1e-12)
    u = np.linspace(0.01, 1.0, 50)
    curves = [np.asarray(panel.lines[0].get_ydata()) for panel in figure.axes]
    np.testing.assert_allclose(curves[0], 1 - u, atol=1e-15)
    np.testing.assert_allclose(curves[1], 3 * u, rtol=1e-12)
    np.testing.assert_allclose(curves[2], 2 * np.log((1 - u[:49]) / (3 * u[:49])), rtol=1e-9)
    assert figure.axes[1].get_yscale() == "log"
    assert_nothing_is_clipped(figure)


def test_twelve_schedules_look_different_and_fit():
    sdes = {f"a schedule number {i}": Flow(1.0 + i, 0.01) for i in range(12)}
    figure = plot_schedule(sdes, points=20)
    lines = figure.axes[0].lines
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(looks) == 12
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(sdes)
    assert_nothing_is_clipped(figure)


def test_line_colours_differ_in_lightness_as_well():
    """Neighbouring colours stay apart for every kind of colour blindness only if their
    luminance or their blue differs: check all pairs of the six."""
    figure = plot_schedule({str(i): Flow(1.0, 0.01) for i in range(6)}, points=3)
    rgb = [matplotlib.colors.to_rgb(line.get_color()) for line in figure.axes[0].lines]
    weights = np.array([0.2126, 0.7152, 0.0722])
    for i, a in enumerate(rgb):
        for b in rgb[:i]:
            assert abs((np.array(a) - b) @ weights) + abs(a[2] - b[2]) > 0.15
