"""Functions of time and place: a score in the plane, the schedules of SDEs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import DivergenceError, ShapeError
from sdescore.plotting import _style
from sdescore.sde.linear import LinearSDE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_schedule", "plot_score_field"]

_DEPTH = 15.0  # nats below the highest log density at which a score field's background ends
_ARROW: dict[str, Any] = {"color": "#222222", "width": 0.0028, "headwidth": 4.0}


def plot_score_field(
    score: Callable[[Tensor, Any], Tensor],
    t: float | Tensor,
    extent: tuple[float, float, float, float],
    data: Tensor | None = None,
    arrows: int = 24,
    resolution: int = 200,
    title: str | None = None,
    device: torch.device | str | None = None,
) -> Figure:
    """A score in the plane as arrows, over the log density (or the size of the score).

    Arrow lengths are proportional; the 90 % quantile is one cell long.

    Parameters
    ----------
    score : callable
        ``score(x, t)`` for x ``(B, 2)``. If it has ``log_prob(x, t)``, the background is
        the log density, down to 15 nats below its maximum; otherwise it is log₁₀ ‖score‖.
    t : float or 0-dim Tensor
        The time, handed to the score as it is.
    extent : tuple[float, float, float, float]
        ``(x_min, x_max, y_min, y_max)``.
    data : Tensor, optional
        Points ``(N, 2)`` to draw on top.
    arrows, resolution : int
        Arrows a side, pixels of the background a side; both sit on centres of cells.
    title : str, optional
        Written above. Default: the time.
    device : torch.device or str, optional
        Where the score is evaluated, in float32. Default: the device of ``data``, or the CPU.

    Raises
    ------
    ShapeError, ParameterError
        ``data`` or the score's output is not ``(N, 2)``; an empty ``extent``, ``arrows`` or
        ``resolution`` below 1.
    DivergenceError
        The score is NaN or infinite at an arrow.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.GaussianScore([0.0, 0.0], 1.0, ss.VPSDE())
    >>> figure = ss.plotting.plot_score_field(score, 0.5, (-3, 3, -3, 3), resolution=40)
    >>> figure.savefig("field.png")  # doctest: +SKIP
    """
    usable = len(extent) == 4 and all(map(checks.is_number, extent))
    usable = usable and extent[0] < extent[1] and extent[2] < extent[3]
    checks.that(usable, "extent (x_min, x_max, y_min, y_max) that rise", f"{extent!r:.200}")
    arrows, resolution = checks.count("arrows", arrows), checks.count("resolution", resolution)
    if data is not None:
        checks.state(data, "data")
        _in_plane(data, "data", len(data))
        device = data.device if device is None else device
    log_prob = getattr(score, "log_prob", None)
    points, pixels = _cells(extent, arrows, device), _cells(extent, resolution, device)
    with torch.no_grad():
        field = score(points, t)
        _in_plane(field, "the score's output", len(points))
        if log_prob is None:
            name, height = r"$\log_{10}\,|s(x, t)|$", score(pixels, t).norm(dim=1).log10()
        else:
            name, height = r"$\log\,p_t(x)$", log_prob(pixels, t)
    bad = (~field.isfinite()).any(1).nonzero().flatten().tolist()
    if bad:
        raise DivergenceError(
            f"expected a finite score at t = {float(t)}, got NaN or infinity at {len(bad)} of "
            f"{len(points)} arrows, first at x = {points[bad[0]].tolist()}; "
            f"try a later time or a smaller extent",
            step=0,
            t=float(t),
            samples=bad,
        )
    height = height.double().cpu().reshape(resolution, resolution)
    # No colour where the logarithm is -inf: it would stretch the scale to nothing.
    finite = height[height.isfinite()]
    height = height.where(height.isfinite(), torch.nan)
    floor = float(finite.max()) - _DEPTH if log_prob is not None and len(finite) else -math.inf
    cut = len(finite) > 0 and float(finite.min()) < floor
    (x, y), (u, v) = points.double().cpu().T, field.double().cpu().T
    longest = float(torch.hypot(u, v).quantile(0.9)) or 1.0
    cell = min(extent[1] - extent[0], extent[3] - extent[2]) / arrows

    figure = _style.new_figure(6.2, 5.2)
    axes = figure.add_subplot()
    shown = axes.imshow(height.numpy(), origin="lower", extent=extent, cmap="Blues", alpha=0.9)
    if cut:
        shown.set_clim(vmin=floor)
    axes.quiver(x, y, u, v, angles="xy", scale_units="xy", scale=longest / cell, **_ARROW)
    if data is not None:
        dots = data.double().cpu()
        axes.scatter(dots[:, 0], dots[:, 1], s=5, color=_style.COLOURS[1], alpha=0.6, linewidths=0)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    _style.name_axes(axes, "$x_1$", "$x_2$")
    axes.tick_params(labelsize=_style.TICK_SIZE)
    bar = figure.colorbar(shown, ax=axes, shrink=0.9, extend="min" if cut else "neither")
    bar.set_label(name, fontsize=_style.LABEL_SIZE)
    bar.ax.tick_params(labelsize=_style.TICK_SIZE)
    _style.write_title(figure, f"Score at $t = {float(t):.3g}$" if title is None else title)
    return figure


def plot_schedule(
    sdes: Mapping[str, LinearSDE], points: int = 400, title: str | None = None
) -> Figure:
    r"""α, σ and log-SNR = log(α²/σ²) of linear SDEs against t/T, from ``t_min`` to T.

    Three panels; σ on a logarithmic axis. Where log-SNR is infinite its curve ends.

    Parameters
    ----------
    sdes : Mapping[str, LinearSDE]
        Label → SDE; read are ``T``, ``t_min``, ``marginal(t)`` and ``log_snr(t)``.
    points : int
        Points a curve, evenly spaced in t.
    title : str, optional
        Written above.

    Raises
    ------
    ShapeError, ParameterError
        No SDEs, or ``points`` below 1.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> figure = ss.plotting.plot_schedule({"VP": ss.VPSDE(), "VE": ss.VESDE()})
    >>> figure.savefig("schedules.png")  # doctest: +SKIP
    """
    points = checks.count("points", points)
    checks.that(bool(sdes), "at least one SDE to plot", "an empty mapping", ShapeError)
    lines = math.ceil(len(sdes) / 5)
    figure = _style.new_figure(10.0, 3.5 + 0.25 * lines)
    panels = figure.subplots(1, 3)
    for i, (label, sde) in enumerate(sdes.items()):
        t = torch.linspace(sde.t_min, sde.T, points, dtype=torch.float64, device="cpu")
        alpha, sigma = sde.marginal(t)
        for axes, curve in zip(panels, (alpha, sigma, sde.log_snr(t)), strict=True):
            there = curve.isfinite()
            drawn = (t / sde.T)[there], curve[there]
            axes.plot(*drawn, label=label, linewidth=1.8, **_style.look(i))
    panels[1].set_yscale("log")
    names = (r"signal $\alpha_t$", r"noise $\sigma_t$", r"$\log(\alpha_t^2/\sigma_t^2)$")
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(name, fontsize=_style.TITLE_SIZE)
        axes.set_xlabel("$t/T$", fontsize=_style.LABEL_SIZE)
        _style.clean(axes)
    _style.write_legend(figure, panels[0], math.ceil(len(sdes) / lines))
    _style.write_title(figure, title)
    return figure


def _in_plane(x: Tensor, name: str, count: int) -> None:
    expected = f"{name} of shape ({count}, 2)"
    checks.that(x.shape == (count, 2), expected, tuple(x.shape), ShapeError)


def _cells(
    extent: tuple[float, float, float, float], side: int, device: torch.device | str | None
) -> Tensor:
    """Centres of ``side × side`` cells, the lowest row first: ``(side², 2)`` float32."""
    x_min, x_max, y_min, y_max = extent
    unit = (torch.arange(side, dtype=torch.float64, device="cpu") + 0.5) / side
    lines = y_min + (y_max - y_min) * unit, x_min + (x_max - x_min) * unit
    points = torch.cartesian_prod(*lines).flip(1)
    return points.to(checks.device(device or "cpu"), torch.float32)
