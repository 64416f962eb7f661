"""The theory pages' pictures of predictors, correctors and samplers."""

from __future__ import annotations

import itertools
import math
import warnings

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from theory_panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    bimodal,
    normal,
    panels,
)
from torch import Tensor

import sdescore as ss

SPECTRUM = 1 / torch.arange(1, 33.0) ** 2


def errors(methods: dict[str, ss.Predictor], counts: list[int], axes: Axes) -> None:
    """Exact W2 of the steps alone, in shares of the data's size, against evaluations."""
    colours = (BLUE, ORANGE, GREEN, PINK, "0.1", "#E69F00", "#56B4E9")
    for (name, predictor), colour in zip(methods.items(), colours, strict=False):
        across, up = [], []
        for n in counts:
            steps = max(2, 1 + (n - 1) // predictor.evaluations)
            times = ss.LogSNRGrid().times(ss.VPSDE(), steps)
            with warnings.catch_warnings():  # too few steps are what the picture shows
                warnings.simplefilter("ignore", ss.errors.StepsWarning)
                sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=predictor, grid=times)
            error = ss.analysis.gaussian_error(sampler, SPECTRUM)
            across.append(sampler.evaluations)
            up.append((error.w2_of_steps / SPECTRUM.sum().sqrt()).item())
        axes.loglog(across, up, "-", color=colour, label=name, lw=1.7)
    axes.set(xlabel="evaluations of the score")
    axes.grid(alpha=0.25)


def predictors() -> Figure:
    """First order falls by a half, second order by a quarter when the steps double."""
    counts = [8, 12, 18, 27, 40, 60, 90, 135, 200, 300, 450]
    figure, axes = panels(1, 2, height=3.1)
    first = {
        "Euler–Maruyama": ss.EulerMaruyama(),
        "reverse diffusion": ss.ReverseDiffusion(),
        "ancestral": ss.Ancestral(),
        "DDIM": ss.DDIM(eta=0.0),
    }
    higher = {
        "DDIM (first order)": ss.DDIM(eta=0.0),
        "stochastic Heun": ss.StochasticHeun(),
        "Heun": ss.Heun(),
        "Runge–Kutta": ss.predictors.RungeKutta4(),
    }
    for panel, methods, title in zip(
        axes, (first, higher), ("first order", "second and fourth order"), strict=True
    ):
        errors(methods, counts, panel)
        panel.set(ylim=(1e-5, 3), title=title)
        panel.legend(fontsize=8.5, frameon=False, loc="lower left")
    axes[0].set_ylabel("$W_2$ of the steps / size of the data")
    return figure


def exponential() -> Figure:
    """The output along a trajectory with its polynomials, and what they leave as an error."""
    figure, axes = panels(1, 2, height=3.1)
    vp = ss.VPSDE()
    score = bimodal(vp, 0.3)
    grid = ss.LogSNRGrid().times(vp, 300)
    fine = ss.PredictorCorrector(vp, predictor=ss.ExponentialAdams(points=2), grid=grid)
    start = torch.tensor([[0.55]], dtype=torch.float64)
    states = list(fine.iterate(score, init=start))[:-1]
    curve = torch.tensor([score.denoise(s.x, s.t).item() for s in states])
    half = vp.half_log_snr(torch.tensor([float(s.t) for s in states], dtype=torch.float64))
    axes[0].plot(half, curve, color="0.15", lw=2.2, label="$\\hat x_0$ on the exact path")
    knots = torch.linspace(-2.6, 1.9, 5)
    index = [int((half - k).abs().argmin()) for k in knots]
    for j, (a, b) in enumerate(itertools.pairwise(index)):
        u = half[a : b + 1]
        axes[0].plot(u, curve[a].expand(len(u)), color=ORANGE, label="one point (DDIM)" * (j == 0))
        if j:
            c = index[j - 1]
            slope = (curve[a] - curve[c]) / (half[a] - half[c])
            name = "two points (DPM-Solver++ 2M)" * (j == 1)
            axes[0].plot(u, curve[a] + slope * (u - half[a]), color=BLUE, ls="--", label=name)
    axes[0].plot(half[index], curve[index], "o", color="0.15", ms=5)
    axes[0].set(xlabel="λ = log(α/σ)", ylabel="denoised state", xlim=(-3.2, 2.5), ylim=(0.28, 1.75))
    axes[0].set_title("one step integrates a polynomial")
    axes[0].legend(fontsize=8.5, frameon=False, loc="upper left")
    adams = ss.ExponentialAdams
    methods: dict[str, ss.Predictor] = {
        "Heun": ss.Heun(),
        "one point (DDIM)": adams(points=1),
        "two points": adams(points=2),
        "three points": adams(points=3),
        "two, corrected (UniPC)": adams(points=2, corrector_points=3),
    }
    errors(methods, [5, 6, 8, 10, 13, 17, 22, 30, 40, 60, 90, 120], axes[1])
    axes[1].set(ylim=(5e-5, 3), title="the error that this leaves")
    axes[1].set_ylabel("$W_2$ of the steps / size of the data")
    axes[1].legend(fontsize=8.5, frameon=False, loc="lower left")
    return figure


def correctors() -> Figure:
    """Chains from a wrong start; and a path with and without momentum."""
    figure, axes = panels(1, 3, height=2.9)
    edm, level = ss.EDMSDE(), 0.5
    score = bimodal(edm, 0.3)
    line = torch.linspace(-3.2, 3.2, 300, dtype=torch.float64)[:, None]
    corrector = ss.Langevin(snr=0.2)
    tau = 2 * corrector.snr**2 * level**2
    x = 2.0 + 0.3 * normal(20_000, 1)
    done = 0
    for steps, colour in ((0, "0.6"), (20, PINK), (200, ORANGE)):
        if steps > done:
            x = ss.langevin.chains(score, x, step=tau, n=steps - done, t=level, seed=steps).x
            done = steps
        heights, edges = torch.histogram(x, bins=80, range=(-3.2, 3.2), density=True)
        axes[0].stairs(heights, edges, color=colour, lw=1.6, label=f"{steps} steps")
    exact = score.log_prob(line, level).exp()
    axes[0].plot(line, exact, color=BLUE, lw=2, ls="--", label="$p_t$")
    axes[0].set(title="Langevin steps at one t", xlabel="x", yticks=[])
    axes[0].legend(fontsize=8.5, frameon=False, loc="upper left")
    wide = ss.GaussianScore([0.0, 0.0], torch.diag(torch.tensor([9.0, 0.09])), ss.VPSDE())

    def field(x: Tensor) -> Tensor:
        return wide(x, 0.0)

    start = torch.tensor([[-5.5, 0.0]], dtype=torch.float64)
    ways = (("unadjusted", "without momentum", ORANGE), ("underdamped", "with momentum", BLUE))
    for panel, (method, name, colour) in zip(axes[1:], ways, strict=True):
        more = {"friction": 0.3} if method == "underdamped" else {}
        size = 0.25 if method == "underdamped" else 0.03
        run = ss.langevin.chains(
            field, start, step=size, n=80, method=method, seed=1, return_path=True, **more
        )
        path = torch.cat([start[None], run.path]) if run.path.shape[0] == 80 else run.path
        panel.plot(path[:, 0, 0], path[:, 0, 1], "-o", color=colour, lw=0.9, ms=2)
        angle = torch.linspace(0, 2 * math.pi, 200)
        for k in (1, 2):
            panel.plot(3 * k * angle.cos(), 0.3 * k * angle.sin(), color=GREY, lw=0.8)
        panel.set(title=f"80 steps {name}", xlim=(-6.6, 6.6), ylim=(-1.1, 1.1), xlabel="x")
    return figure


def sampler() -> Figure:
    """Where grids put ten times, and ten evaluations on two of them."""
    figure = Figure(figsize=(7.6, 2.9), layout="constrained", facecolor="white")
    axes = list(figure.subplots(1, 3, width_ratios=(1.9, 1, 1)))
    vp, moons = ss.VPSDE(), ss.datasets.two_moons(400)
    score = ss.MixtureScore(torch.full((400,), 1 / 400), moons, torch.full((400,), 0.01), vp)
    grids = {
        "uniform in t": ss.UniformGrid(),
        "quadratic": ss.QuadraticGrid(),
        "cosine": ss.CosineGrid(),
        "Karras": ss.KarrasGrid(),
        "log-SNR": ss.LogSNRGrid(),
    }
    for row, (_name, grid) in enumerate(grids.items()):
        across = vp.half_log_snr(grid.times(vp, 10))
        axes[0].plot(across, torch.full((10,), -row), "o-", color=BLUE, ms=5, lw=0.8)
    axes[0].set_yticks([-i for i in range(len(grids))], list(grids))
    axes[0].set(xlabel="λ = log(α/σ), noise (left) to data", title="ten times of each grid")
    axes[0].spines[["top", "right", "left"]].set_visible(False)
    for panel, grid, name in (
        (axes[1], ss.UniformGrid(), "uniform in t"),
        (axes[2], ss.LogSNRGrid(), "log-SNR"),
    ):
        chain = ss.PredictorCorrector(vp, grid=grid, steps=10)
        x = chain.sample(score, (1500, 2), seed=0)
        panel.scatter(*x.T, s=3, color=ORANGE, linewidths=0)
        panel.set(title=name, xticks=[], yticks=[], xlim=(-3.7, 3.7), ylim=(-3, 3))
        panel.set_xlabel("ten evaluations")
    return figure


def exact_error() -> Figure:
    """The three causes against evaluations, and what the steps do to each mode."""
    figure, axes = panels(1, 2, height=3.0)
    vp = ss.VPSDE()
    counts = [4, 5, 6, 8, 10, 13, 17, 22, 30, 40, 60, 90]
    causes: dict[str, list[float]] = {"prior": [], "steps": [], "end": []}
    for n in counts:
        chain = ss.PredictorCorrector(vp, grid=ss.LogSNRGrid(), steps=n)
        error = ss.analysis.gaussian_error(chain, SPECTRUM)
        for name in causes:
            value = getattr(error, f"w2_of_{name}") / SPECTRUM.sum().sqrt()
            causes[name].append(value.item())
    for (name, values), colour in zip(causes.items(), (GREEN, BLUE, ORANGE), strict=True):
        axes[0].loglog(counts, values, color=colour, lw=2, label=f"the {name}")
    axes[0].set(xlabel="evaluations", ylabel="$W_2$ / size of the data", title="three causes")
    axes[0].legend(fontsize=9, frameon=False)
    axes[0].grid(alpha=0.25)
    modes = torch.logspace(0, -4, 9)
    score = ss.GaussianScore(torch.zeros(9), torch.diag(modes), vp)
    ways: list[tuple[str, ss.Predictor, ss.grids.Grid, str]] = [
        ("DDIM, uniform t", ss.DDIM(eta=0.0), ss.UniformGrid(), PINK),
        ("DDIM, log-SNR", ss.DDIM(eta=0.0), ss.LogSNRGrid(), GREEN),
        ("Adams, log-SNR", ss.ExponentialAdams(midpoint=True), ss.LogSNRGrid(), BLUE),
    ]
    for name, predictor, grid, colour in ways:
        chain = ss.PredictorCorrector(vp, predictor=predictor, grid=grid, steps=10)
        ratio = (ss.analysis.gaussian_error(chain, modes).variance / modes).sqrt()
        drawn = chain.sample(score, (20_000, 9), seed=0).std(0) / modes.sqrt()
        axes[1].semilogx(modes.sqrt(), ratio, color=colour, lw=2, label=name)
        axes[1].semilogx(modes.sqrt(), drawn, "o", color=colour, ms=4)
    axes[1].axhline(1, color=GREY, lw=0.8, ls=":")
    axes[1].set(xlabel="standard deviation of a mode", ylabel="of the samples / of the data")
    axes[1].set(title="ten evaluations", ylim=(0, 1.35))
    axes[1].legend(fontsize=8.5, frameon=False, loc="lower right")
    return figure
