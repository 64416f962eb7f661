"""Readers of figures that the tests of the plots share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

import sdescore as ss


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_nothing_is_clipped(figure) -> None:
    """What is drawn, labels included, lies within the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn, (width, height) = figure.get_tightbbox(canvas.get_renderer()), figure.get_size_inches()
    assert -0.01 <= drawn.x0 <= drawn.x1 <= width + 0.01
    assert -0.01 <= drawn.y0 <= drawn.y1 <= height + 0.01


def title_of(figure) -> str:
    """The title above all panels; matplotlib before 3.8 has no ``get_suptitle``."""
    return figure._suptitle.get_text()


class Spiral:
    """A score that is no gradient, so that no component or axis can be mixed up."""

    def __call__(self, x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.stack([-x[:, 0] + 2 * x[:, 1], -3 * x[:, 1]], 1) / t


EXTENT = (-2.0, 4.0, -1.0, 2.0)


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


SPECTRUM = torch.tensor([4.0, 0.3, 0.01], dtype=torch.float64)


def ddim(steps: int, **options) -> ss.PredictorCorrector:
    return ss.PredictorCorrector(
        ss.VPSDE(), predictor=ss.DDIM(eta=0.0), grid=ss.LogSNRGrid(), steps=steps, **options
    )


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
