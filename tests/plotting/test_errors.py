"""Plots of exact errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sdescore as ss
from sdescore.plotting import (
    plot_error_against_steps,
    plot_error_by_mode,
)
from tests.helpers.figures import (
    SPECTRUM,
    assert_nothing_is_clipped,
    curves,
    ddim,
    draw,
    title_of,
)


def heun(steps: int) -> ss.PredictorCorrector:
    return ss.PredictorCorrector(ss.VPSDE(), predictor=ss.Heun(), steps=steps)


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
    assert title_of(figure) == "Errors"
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
    assert title_of(figure) == "By mode"
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
