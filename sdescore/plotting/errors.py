"""What samplers get wrong on Gaussian data: by their cost, and mode by mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore import checks
from sdescore.analysis.error import GaussianOutput, gaussian_error, requested
from sdescore.errors import ShapeError
from sdescore.plotting import _style
from sdescore.samplers.predictor_corrector.exact import Spectrum
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_error_against_steps", "plot_error_by_mode"]

_SMALL = 0.01  # errors of standard deviations below this are drawn on a linear scale
_LONG = 34  # characters of a label beyond which the legend has one column

Recipe = Callable[[int], PredictorCorrector | None]


def plot_error_against_steps(
    recipes: Mapping[str, Recipe],
    steps: Iterable[int],
    spectrum: Tensor | None = None,
    *,
    data: Tensor | None = None,
    title: str | None = None,
) -> Figure:
    """The exact W2 of samplers on Gaussian data against what a sample costs, both logarithmic.

    A curve a recipe, of :attr:`sdescore.analysis.GaussianOutput.w2` against ``evaluations``.

    Parameters
    ----------
    recipes : Mapping[str, callable]
        Label → ``recipe(n)``, the sampler of n steps, or None where there is none: its curve
        leaves that n out.
    steps : iterable of int
        The numbers of steps n, >= 1.
    spectrum, data
        As in :func:`sdescore.analysis.gaussian_error`.
    title : str, optional
        Written above.

    Raises
    ------
    ShapeError, ParameterError
        No recipes, no steps, a number of steps that is not an integer >= 1, or a bad tensor.
    IncompatibleError
        A recipe that gives something else, a sampler that has no exact error, or both or none
        of ``spectrum`` and ``data``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> def ddim(steps):
    ...     return ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=steps)
    >>> spectrum = torch.logspace(0, -3, 30)
    >>> figure = ss.plotting.plot_error_against_steps({"DDIM": ddim}, [10, 20, 40], spectrum)
    >>> figure.savefig("steps.png")  # doctest: +SKIP
    """
    checks.that(bool(recipes), "at least one recipe to plot", "an empty mapping", ShapeError)
    counts = [checks.count("steps", n) for n in steps]
    checks.that(bool(counts), "at least one number of steps", "none", ShapeError)
    modes = requested(spectrum, data, None)
    figure, axes = _panel()
    for i, (label, recipe) in enumerate(recipes.items()):
        made = [sampler for n in counts if (sampler := recipe(n)) is not None]
        errors = [_error(sampler, label, modes) for sampler in made]
        cost, w2 = [e.evaluations for e in errors], [e.w2.item() for e in errors]
        axes.plot(cost, w2, label=label, marker="o", markersize=3.5, **_style.look(i))
    axes.set_yscale("log")
    _finish(figure, axes, "evaluations of the score a sample", r"$W_2$ to the data", title)
    return figure


def plot_error_by_mode(
    samplers: Mapping[str, PredictorCorrector],
    spectrum: Tensor,
    *,
    wavelength: Tensor | None = None,
    title: str | None = None,
) -> Figure:
    """By how much too wide (+) or too narrow (−) each mode of Gaussian data comes out.

    A curve a sampler, of :attr:`sdescore.analysis.GaussianOutput.relative_std`; the ordinate is
    linear between ±1 % and logarithmic beyond.

    Parameters
    ----------
    samplers : Mapping[str, PredictorCorrector]
        Label → sampler.
    spectrum : Tensor
        As in :func:`sdescore.analysis.gaussian_error`. A mode of variance 0 is left out.
    wavelength : Tensor, optional
        ``(M,)`` > 0, of the modes, in any unit: drawn with the longest first. Default: the modes
        are numbered from 1 in the order given.
    title : str, optional
        Written above.

    Raises
    ------
    ShapeError, ParameterError
        No samplers, a bad spectrum, or wavelengths that do not fit it.
    IncompatibleError
        Something that is no sampler, or a sampler that has no exact error.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=20)
    >>> spectrum = torch.logspace(0, -3, 30)
    >>> figure = ss.plotting.plot_error_by_mode({"DDIM": sampler}, spectrum)
    >>> figure.savefig("modes.png")  # doctest: +SKIP
    """
    checks.that(bool(samplers), "at least one sampler to plot", "an empty mapping", ShapeError)
    modes = requested(spectrum, None, None)
    where = torch.ones_like(modes.variance).cumsum(0)
    if wavelength is not None:
        fits = isinstance(wavelength, Tensor) and wavelength.shape == modes.variance.shape
        expected = f"wavelength of shape {tuple(modes.variance.shape)}"
        checks.that(fits, expected, getattr(wavelength, "shape", wavelength), ShapeError)
        usable = bool((wavelength.isfinite() & (wavelength > 0)).all())
        checks.that(usable, "finite wavelengths > 0", f"{wavelength!r:.200}")
        where = wavelength.detach().to("cpu", torch.float64)
    drawn = where.argsort(descending=wavelength is not None)
    drawn = drawn[modes.variance[drawn] > 0]
    checks.that(len(drawn) > 0, "a mode of variance > 0", f"{spectrum!r:.200}")

    figure, axes = _panel()
    axes.axhline(0.0, color="#888888", linewidth=0.8)
    for i, (label, sampler) in enumerate(samplers.items()):
        error = _error(sampler, label, modes).relative_std.detach()
        axes.plot(where[drawn].tolist(), error[drawn].tolist(), label=label, **_style.look(i))
    axes.set_yscale("symlog", linthresh=_SMALL)
    sizes = [m * 10.0**k for k in range(-2, 3) for m in (1, 3)]
    low, high = axes.get_ylim()
    ticks = [v for v in [-s for s in sizes] + [0.0] + sizes if low <= v <= high]
    axes.set_yticks(ticks, [f"{100 * v:+g} %".replace("-", "−") if v else "0" for v in ticks])
    name = "mode" if wavelength is None else "wavelength"
    _finish(figure, axes, name, "standard deviation of the output,\nover the data's, less 1", title)
    if wavelength is not None:
        axes.invert_xaxis()
    return figure


def _error(made: object, label: str, modes: Spectrum) -> GaussianOutput:
    """The error of what is drawn under a label, if it is a sampler."""
    example = "ss.PredictorCorrector(sde, steps=10)"
    sampler = checks.instance(repr(label), made, PredictorCorrector, example)
    return gaussian_error(sampler, modes.variance, mean=modes.mean)


def _panel() -> tuple[Figure, Axes]:
    figure = _style.new_figure(6.8, 4.6)
    return figure, figure.add_subplot()


def _finish(figure: Figure, axes: Axes, across: str, up: str, title: str | None) -> None:
    """A logarithmic abscissa, the names of both, grid, legend and title."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [v for k in decades for m in (1, 2, 5) if low <= (v := m * 10.0**k) <= high]
    axes.set_xticks(ticks, [f"{v:g}" for v in ticks])
    axes.minorticks_off()
    _style.name_axes(axes, across, up)
    _style.clean(axes)
    labels = axes.get_legend_handles_labels()[1]
    columns = 1 if max(map(len, labels)) > _LONG else 2
    figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(len(labels) / columns))
    _style.write_legend(figure, axes, columns)
    _style.write_title(figure, title)
