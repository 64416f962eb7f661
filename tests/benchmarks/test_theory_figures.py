"""The theory pages' pictures: each is shown, and what their captions claim holds."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

import sdescore as ss
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def figures(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("theory_figures")


def test_every_picture_is_saved_and_opens_one_page(figures: ModuleType) -> None:
    pages = [page.read_text("utf-8") for page in (ROOT / "docs" / "theory").glob("*.md")]
    saved = {path.stem for path in (ROOT / "docs" / "_static" / "theory").glob("*.png")}
    assert saved == set(figures.FIGURES)
    for name in saved:
        assert sum(f"(../_static/theory/{name}.png)" in page for page in pages) == 1


@pytest.mark.parametrize("name", ["kernels", "learning"])
def test_a_figure_is_white_and_has_named_panels(figures: ModuleType, name: str) -> None:
    figure = figures.FIGURES[name]()
    assert figure.get_facecolor() == (1, 1, 1, 1)
    assert figure.axes and all(panel.get_title() for panel in figure.axes)


def test_finer_steps_see_the_same_brownian_path(figures: ModuleType) -> None:
    paths = {}
    for n in (4, 32):
        times = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        paths[n] = figures.brownian(ss.noise.BrownianNoise(seed=5), times)
    assert torch.allclose(paths[32][::8], paths[4], atol=1e-9)
    assert paths[4].abs().max() > 0.1
