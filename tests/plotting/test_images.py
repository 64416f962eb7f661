"""Grids and trajectories of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sdescore.plotting import (
    plot_rows,
    plot_samples,
    plot_trajectory,
)
from tests.helpers.figures import (
    assert_nothing_is_clipped,
    draw,
    title_of,
)


def picture(figure) -> np.ndarray:
    (axes,) = figure.axes
    (image,) = axes.images
    return np.asarray(image.get_array())


def tile(canvas: np.ndarray, row: int, column: int, h: int, w: int) -> np.ndarray:
    """The tile at a place, from the rule of the layout: gaps of max(1, size // 14) pixels."""
    y, x = row * (h + max(1, h // 14)), column * (w + max(1, w // 14))
    return canvas[y : y + h, x : x + w]


# Images


def test_grid_holds_every_image_mapped_to_zero_one():
    x = 3 * draw(7, 1, 8, 10)
    figure = plot_samples(x, columns=3, value_range=(-2.0, 4.0))
    canvas = picture(figure)
    assert canvas.shape == (3 * 8 + 2, 3 * 10 + 2)
    expected = np.clip((x.double().numpy()[:, 0] + 2) / 6, 0, 1)
    for i in range(7):
        np.testing.assert_allclose(tile(canvas, i // 3, i % 3, 8, 10), expected[i], rtol=1e-12)
    # Nothing else is drawn: gaps and the two empty places are white.
    assert canvas.sum() == pytest.approx(expected.sum() + canvas.size - 7 * 80)
    (image,) = figure.axes[0].images
    assert image.get_clim() == (0.0, 1.0)
    assert image.get_cmap().name == "gray"
    assert image.get_interpolation() == "nearest"


def test_grid_of_colour_images_keeps_the_channels():
    x = draw(4, 3, 30, 28).clamp(-1, 1)
    canvas = picture(plot_samples(x, columns=2))
    assert canvas.shape == (2 * 30 + 2, 2 * 28 + 2, 3)
    for i in range(4):
        expected = (x[i].double().permute(1, 2, 0).numpy() + 1) / 2
        np.testing.assert_allclose(tile(canvas, i // 2, i % 2, 30, 28), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("n", "shape"), [(1, (1, 1)), (2, (1, 2)), (5, (2, 3)), (9, (3, 3)), (10, (3, 4))]
)
def test_default_grid_is_as_wide_as_high_or_a_little_wider(n, shape):
    canvas = picture(plot_samples(draw(n, 4, 4)))
    assert tuple((k + 1) // 5 for k in canvas.shape) == shape


def test_black_and_white_are_the_ends_of_the_range_on_the_page():
    """Render and read pixels: the extremes of the range come out black and white."""
    x = torch.tensor([[-1.0, 1.0], [-5.0, 5.0]]).unsqueeze(0)
    figure = plot_samples(x)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    axes = figure.axes[0]
    for i in range(2):
        for j in range(2):
            px, py = axes.transData.transform((j, i))
            assert pixels[pixels.shape[0] - 1 - int(py), int(px)].tolist() == [255 * j] * 3


def test_rows_are_labelled_and_hold_the_first_images():
    rows = {"real digits": draw(9, 1, 8, 8), "Euler–Maruyama + Langevin, 2 steps": draw(3, 8, 8)}
    figure = plot_rows(rows, columns=5, value_range=(-3, 3), title="VP")
    canvas, axes = picture(figure), figure.axes[0]
    assert canvas.shape == (17, 44)
    for i, (x, shown) in enumerate(zip(rows.values(), (5, 3), strict=True)):
        images = np.clip((x.double().reshape(-1, 8, 8).numpy() + 3) / 6, 0, 1)
        for j in range(shown):
            np.testing.assert_allclose(tile(canvas, i, j, 8, 8), images[j], rtol=1e-12)
        assert (canvas[i * 9 : i * 9 + 8, shown * 9 :] == 1).all()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(rows)
    assert axes.get_yticks().tolist() == [3.5, 12.5]  # the middle of rows 0…7 and 9…16
    assert title_of(figure) == "VP"
    assert_nothing_is_clipped(figure)


@pytest.mark.parametrize("label", ["a", "a label that is much longer than its row of images"])
def test_labels_take_their_own_room(label):
    """Images are 0.55 inches high, whatever stands beside them."""
    figure = plot_rows({label: draw(2, 8, 8), "b": draw(2, 8, 8)})
    FigureCanvasAgg(figure).draw()
    height = figure.axes[0].get_window_extent().height / figure.dpi
    assert height == pytest.approx(2 * 0.55, rel=0.1)


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), None])
def test_trajectory_has_samples_down_and_times_across(value_range):
    times = [1.0, 0.25, 0.001]
    states = [scale * draw(2, 1, 6, 6, seed=i) for i, scale in enumerate((50.0, 5.0, 0.5))]
    figure = plot_trajectory(states, times, value_range=value_range, title="VE")
    canvas, axes = picture(figure), figure.axes[0]
    for j, state in enumerate(states):
        values = state.double().numpy()
        low, high = value_range or (values.min(), values.max())
        for i in range(2):
            expected = np.clip((values[i, 0] - low) / (high - low), 0, 1)
            np.testing.assert_allclose(tile(canvas, i, j, 6, 6), expected, rtol=1e-12)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "0.25", "0.001"]
    assert axes.get_xticks().tolist() == [2.5, 9.5, 16.5]
    assert_nothing_is_clipped(figure)


def test_trajectory_takes_stacked_states_and_constant_columns():
    states = torch.stack([torch.zeros(2, 4, 4), draw(2, 4, 4)])
    stacked = plot_trajectory(states, torch.tensor([1.0, 0.0]), value_range=None)
    listed = plot_trajectory(list(states), [1.0, 0.0], value_range=None)
    np.testing.assert_array_equal(picture(stacked), picture(listed))
    assert (tile(picture(stacked), 0, 0, 4, 4) == 0.5).all()
