"""What samplers get wrong on Gaussian data: by their cost, and mode by mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from sdescore import checks
from sdescore.analysis.error import GaussianError, gaussian_error, requested
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.plotting._style import (
    LABEL_SIZE,
    clean,
    look,
    new_figure,
    write_legend,
    write_title,
)
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_error_against_steps", "plot_error_by_mode"]

# Errors of standard deviations below this are drawn on a linear scale, those above on a
# logarithmic one.
_SMALL = 0.01
# Characters of a label beyond which the legend has one column.
_LONG = 34

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

    Parameters
    ----------
    recipes : Mapping[str, callable]
        Label → ``recipe(n)``, the sampler of n steps, or None where there is none: its curve
        leaves that n out.
    steps : iterable of int
        The numbers of steps n, >= 1.
    spectrum : Tensor
        ``(M,)``, eigenvalues of the data's covariance.
    data : Tensor
        ``(n, *E)``, in place of ``spectrum``.
    title : str, optional
        Written above.

    Returns
    -------
    Figure
        A curve a recipe, of :attr:`sdescore.analysis.GaussianError.w2` against ``evaluations``.

    Raises
    ------
    ShapeError
        No recipes, no steps, or a bad tensor.
    ParameterError
        A number of steps that is not an integer >= 1, or a bad spectrum.
    IncompatibleError
        A recipe that gives something else, a sampler that has no exact error, or both or none
        of ``spectrum`` and ``data``.
    """
    _require_some(recipes, "recipe")
    counts = [checks.count("steps", n) for n in steps]
    if not counts:
        raise ShapeError("expected at least one number of steps, got none")
    modes = requested(spectrum, data, None)
    curves: dict[str, list[GaussianError]] = {}
    for label, recipe in recipes.items():
        made = [sampler for n in counts if (sampler := recipe(n)) is not None]
        curves[label] = [
            gaussian_error(_sampler(s, label), modes.variance, mean=modes.mean) for s in made
        ]

    figure, axes = _panel()
    for i, (label, errors) in enumerate(curves.items()):
        cost, w2 = [e.evaluations for e in errors], [e.w2.item() for e in errors]
        axes.plot(cost, w2, label=label, marker="o", markersize=3.5, **look(i))
    axes.set_yscale("log")
    _finish(figure, axes, "evaluations of the score a sample", r"$W_2$ to the data")
    write_title(figure, title)
    return figure


def plot_error_by_mode(
    samplers: Mapping[str, PredictorCorrector],
    spectrum: Tensor,
    *,
    wavelength: Tensor | None = None,
    title: str | None = None,
) -> Figure:
    """By how much too wide (+) or too narrow (−) each mode of Gaussian data comes out.

    Parameters
    ----------
    samplers : Mapping[str, PredictorCorrector]
        Label → sampler.
    spectrum : Tensor
        ``(M,)``, eigenvalues of the data's covariance: a power spectrum, where they are
        stationary. A mode of variance 0 is left out.
    wavelength : Tensor, optional
        ``(M,)`` > 0, of the modes, in any unit: drawn with the longest first. Default: the modes
        are numbered from 1 in the order given.
    title : str, optional
        Written above.

    Returns
    -------
    Figure
        A curve a sampler, of :attr:`sdescore.analysis.GaussianError.relative_std`; the ordinate is
        linear between ±1 % and logarithmic beyond.

    Raises
    ------
    ShapeError, ParameterError
        No samplers, a bad spectrum, or wavelengths that do not fit it.
    IncompatibleError
        Something that is no sampler, or a sampler that has no exact error.
    """
    _require_some(samplers, "sampler")
    variance = requested(spectrum, None, None).variance
    if wavelength is not None:
        if not isinstance(wavelength, Tensor) or wavelength.shape != variance.shape:
            got = tuple(wavelength.shape) if isinstance(wavelength, Tensor) else f"{wavelength!r}"
            raise ShapeError(f"expected wavelength of shape {tuple(variance.shape)}, got {got}")
        usable = bool((wavelength.isfinite() & (wavelength > 0)).all())
        checks.that(usable, "finite wavelengths > 0", f"{wavelength!r:.200}")
        wavelength = wavelength.detach().to("cpu", variance.dtype)
        by_length = wavelength.argsort(descending=True)
        variance, where = variance[by_length], wavelength[by_length]
    else:
        where = variance.new_ones(len(variance)).cumsum(0)
    there = variance > 0
    variance, where = variance[there], where[there]
    checks.that(len(variance) > 0, "a mode of variance > 0", f"{spectrum!r:.200}")
    errors = {
        label: gaussian_error(_sampler(s, label), variance).relative_std.detach()
        for label, s in samplers.items()
    }

    figure, axes = _panel()
    axes.axhline(0.0, color="#888888", linewidth=0.8)
    for i, (label, error) in enumerate(errors.items()):
        axes.plot(where.tolist(), error.tolist(), label=label, **look(i))
    axes.set_yscale("symlog", linthresh=_SMALL)
    sizes = [m * 10.0**k for k in range(-2, 3) for m in (1, 3)]
    low, high = axes.get_ylim()
    ticks = [v for v in [-s for s in sizes] + [0.0] + sizes if low <= v <= high]
    axes.set_yticks(ticks, [f"{100 * v:+g} %".replace("-", "−") if v else "0" for v in ticks])
    name = "mode" if wavelength is None else "wavelength"
    _finish(figure, axes, name, "standard deviation of the output,\nover the data's, less 1")
    if wavelength is not None:
        axes.invert_xaxis()
    write_title(figure, title)
    return figure


def _require_some(entries: Mapping[str, object], kind: str) -> None:
    if not entries:
        raise ShapeError(f"expected at least one {kind} to plot, got an empty mapping")


def _sampler(made: object, label: str) -> PredictorCorrector:
    """What is drawn under a label, if it is a sampler."""
    if not isinstance(made, PredictorCorrector):
        raise IncompatibleError(
            f"expected {label!r} to be a PredictorCorrector, got {made!r:.200}; leave it out"
        )
    return made


def _panel() -> tuple[Figure, Axes]:
    figure = new_figure(6.8, 4.6)
    return figure, figure.add_subplot()


def _finish(figure: Figure, axes: Axes, across: str, up: str) -> None:
    """A logarithmic abscissa, the names of both, grid and legend."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [v for k in decades for m in (1, 2, 5) if low <= (v := m * 10.0**k) <= high]
    axes.set_xticks(ticks, [f"{v:g}" for v in ticks])
    axes.minorticks_off()
    axes.set_xlabel(across, fontsize=LABEL_SIZE)
    axes.set_ylabel(up, fontsize=LABEL_SIZE)
    clean(axes)
    labels = axes.get_legend_handles_labels()[1]
    columns = 1 if max(map(len, labels)) > _LONG else 2
    lines = math.ceil(len(labels) / columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * lines)
    write_legend(figure, axes, columns)
