"""What the figures hold, compared with the data that went in."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from dataclasses import dataclass

import matplotlib.colors
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

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


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def picture(figure) -> np.ndarray:
    (axes,) = figure.axes
    (image,) = axes.images
    return np.asarray(image.get_array())


def tile(canvas: np.ndarray, row: int, column: int, h: int, w: int) -> np.ndarray:
    """The tile at a place, from the rule of the layout: gaps of max(1, size // 14) pixels."""
    y, x = row * (h + max(1, h // 14)), column * (w + max(1, w // 14))
    return canvas[y : y + h, x : x + w]


def assert_nothing_is_clipped(figure) -> None:
    """What is drawn, labels included, lies within the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(canvas.get_renderer()), figure.get_size_inches()
    assert -0.01 <= drawn.x0 <= drawn.x1 <= width + 0.01
    assert -0.01 <= drawn.y0 <= drawn.y1 <= height + 0.01


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
    assert figure.get_suptitle() == "VP"
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


# Fields


class Spiral:
    """A score that is no gradient, so that no component or axis can be mixed up."""

    def __call__(self, x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.stack([-x[:, 0] + 2 * x[:, 1], -3 * x[:, 1]], 1) / t


class WithDensity(Spiral):
    def log_prob(self, x: torch.Tensor, t: float) -> torch.Tensor:
        return -x[:, 0].square() - 10 * x[:, 1] / t


EXTENT = (-2.0, 4.0, -1.0, 2.0)


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
    assert "0.125" in figure.get_suptitle()
    assert figure.axes[0].get_xlim() == EXTENT[:2]
    assert figure.axes[0].get_ylim() == EXTENT[2:]


# Schedules


@dataclass(frozen=True)
class Flow:
    """α = 1 - t/T, σ = 3 t/T: log-SNR is -inf at T."""

    T: float
    t_min: float

    def marginal(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 1 - t / self.T, 3 * t / self.T

    def log_snr(self, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = self.marginal(t)
        return 2 * (alpha.log() - sigma.log())


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


# Exact errors

SPECTRUM = torch.tensor([4.0, 0.3, 0.01], dtype=torch.float64)


def ddim(steps: int, **options) -> ss.PredictorCorrector:
    return ss.PredictorCorrector(
        ss.VPSDE(), predictor=ss.DDIM(eta=0.0), grid=ss.LogSNRGrid(), steps=steps, **options
    )


def heun(steps: int) -> ss.PredictorCorrector:
    return ss.PredictorCorrector(ss.VPSDE(), predictor=ss.Heun(), steps=steps)


def curves(figure) -> dict[str, tuple[list[float], list[float]]]:
    """Label → abscissae and ordinates, of the lines that the legend names."""
    (axes,), (legend,) = figure.axes, figure.legends
    found = {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if not line.get_label().startswith("_")
    }
    assert [text.get_text() for text in legend.get_texts()] == list(found)
    return found


def test_error_against_steps_is_the_exact_w2_against_what_a_sample_costs():
    figure = plot_error_against_steps(
        {"DDIM": ddim, "Heun": heun}, (3, 7, 20), SPECTRUM, title="Errors"
    )
    found = curves(figure)
    assert found["DDIM"][0] == [3, 7, 20]
    assert found["Heun"][0] == [5, 13, 39]  # two evaluations a move, and the last denoise
    for label, recipe in (("DDIM", ddim), ("Heun", heun)):
        oracle = [ss.analysis.gaussian_error(recipe(n), SPECTRUM).w2.item() for n in (3, 7, 20)]
        assert found[label][1] == pytest.approx(oracle, rel=1e-12)
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5", "10", "20"]
    assert axes.get_xticks().tolist() == [5, 10, 20]
    assert figure.get_suptitle() == "Errors"
    assert_nothing_is_clipped(figure)


def test_error_against_steps_takes_data_with_their_mean():
    data = draw(50, 2, 2).double() * 0.3 + 30
    figure = plot_error_against_steps({"DDIM": ddim}, [4], data=data)
    oracle = ss.analysis.gaussian_error(ddim(4), data=data).w2.item()
    assert curves(figure)["DDIM"][1] == pytest.approx([oracle], rel=1e-9)
    centred = plot_error_against_steps({"DDIM": ddim}, [4], data=data - data.mean(0))
    assert curves(centred)["DDIM"][1][0] != pytest.approx(oracle, rel=1e-2)


def test_a_recipe_may_leave_a_number_of_steps_out():
    figure = plot_error_against_steps(
        {"all": ddim, "few": {5: ddim(5)}.get, "none": lambda n: None}, (5, 10), SPECTRUM
    )
    found = curves(figure)
    assert [found[label][0] for label in ("all", "few", "none")] == [[5, 10], [5], []]
    assert found["few"][1] == found["all"][1][:1]


def test_error_by_mode_is_the_relative_standard_deviation():
    samplers = {"DDIM": ddim(10), "Heun": heun(5)}
    figure = plot_error_by_mode(samplers, SPECTRUM, title="By mode")
    for label, (where, error) in curves(figure).items():
        assert where == [1, 2, 3]
        oracle = ss.analysis.gaussian_error(samplers[label], SPECTRUM).relative_std
        assert error == pytest.approx(oracle.tolist(), rel=1e-12)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    # Symmetric about no error, linear up to one per cent.
    scale = axes.yaxis.get_transform()
    near = scale.transform([-0.01, 0.0, 0.005, 0.01])
    np.testing.assert_allclose(near / near[-1], [-1, 0, 0.5, 1], atol=1e-12)
    assert scale.transform([0.3]) < 10 * near[-1]
    assert scale.transform([-0.3]) == -scale.transform([0.3])
    texts = [tick.get_text() for tick in axes.get_yticklabels()]
    labels = dict(zip(texts, axes.get_yticks(), strict=True))
    assert labels["0"] == 0
    for text, y in labels.items():
        if text != "0":
            assert float(text.replace("−", "-").removesuffix(" %")) == pytest.approx(100 * y)
    assert figure.get_suptitle() == "By mode"
    assert_nothing_is_clipped(figure)


def test_error_by_wavelength_is_drawn_with_the_longest_first():
    wavelength = torch.tensor([8.0, 32.0, 2.0])
    figure = plot_error_by_mode({"DDIM": ddim(10)}, SPECTRUM, wavelength=wavelength)
    where, error = curves(figure)["DDIM"]
    assert where == [32, 8, 2]
    oracle = ss.analysis.gaussian_error(ddim(10), SPECTRUM).relative_std.tolist()
    assert error == pytest.approx([oracle[1], oracle[0], oracle[2]], rel=1e-12)
    (axes,) = figure.axes
    left, right = axes.get_xlim()
    assert left > right
    assert axes.get_xlabel() == "wavelength"


@pytest.mark.parametrize("wavelength", [None, torch.tensor([4.0, 3.0, 2.0])])
def test_a_mode_without_variance_is_left_out(wavelength):
    spectrum = torch.tensor([4.0, 0.0, 0.01])
    figure = plot_error_by_mode({"DDIM": ddim(10)}, spectrum, wavelength=wavelength)
    where, error = curves(figure)["DDIM"]
    assert where == ([1, 3] if wavelength is None else [4, 2])
    oracle = ss.analysis.gaussian_error(ddim(10), spectrum).relative_std[[0, 2]].tolist()
    assert error == pytest.approx(oracle, rel=1e-12)


@pytest.mark.parametrize(
    "label", ["short", "a label of a sampler that says all of its parameters, ten"]
)
def test_seven_errors_look_different_and_fit(label):
    samplers = {f"{label} {i}": ddim(5 + i) for i in range(7)}
    recipes = {name: {6: sampler}.get for name, sampler in samplers.items()}
    for figure in (
        plot_error_by_mode(samplers, SPECTRUM),
        plot_error_against_steps(recipes, [6], SPECTRUM),
    ):
        lines = [line for line in figure.axes[0].lines if not line.get_label().startswith("_")]
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 7
        assert list(curves(figure)) == list(samplers)
        assert_nothing_is_clipped(figure)


# All of them


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
