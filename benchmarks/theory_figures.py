"""The pictures at the top of the theory pages, from exact scores and exact errors.

No network is trained, and every seed is fixed:

    python benchmarks/theory_figures.py            # in out/theory
    python benchmarks/theory_figures.py --save     # in docs/_static/theory
    python benchmarks/theory_figures.py scores     # one of them
"""

from __future__ import annotations

import argparse
import itertools
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import sdescore as ss
from sdescore.fokker_planck.solver import FokkerPlanck
from sdescore.sde.langevin import LangevinSDE

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "0.45"
SEED = 3


def panels(rows: int, columns: int, width: float = 7.6, height: float = 2.9) -> tuple[Figure, list]:
    """A white figure of equal panels without a box, readable at 600 pixels."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
    return figure, axes


def bimodal(sde: ss.LinearSDE, std: float = 0.15) -> ss.MixtureScore:
    """Two modes on a line, a third of the weight on the left one."""
    return ss.MixtureScore([0.35, 0.65], [[-1.0], [1.0]], [std**2, std**2], sde)


def normal(*shape: int, seed: int = SEED) -> Tensor:
    """Standard normal numbers of a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def density_map(axes: Axes, score: ss.MixtureScore, reach: float, flip: bool = False) -> None:
    """log p_t(x) over time (across) and x (up), in grey."""
    x = torch.linspace(-reach, reach, 241, dtype=torch.float64)[:, None]
    times = torch.linspace(1e-3, float(score.sde.T), 161, dtype=torch.float64)
    image = torch.stack([score.log_prob(x, t).exp() for t in times], 1)
    image = (image / image.amax(0)).sqrt()
    extent = (0, float(score.sde.T), -reach, reach)
    axes.imshow(image, extent=extent, origin="lower", aspect="auto", cmap="Greys", vmax=1.6)


def sde() -> Figure:
    """Paths of the VP and of the VE SDE over their densities."""
    figure, axes = panels(1, 2)
    for panel, kind, reach in ((axes[0], ss.VPSDE(), 3.2), (axes[1], ss.VESDE(sigma_max=5.0), 11)):
        score = bimodal(kind)
        density_map(panel, score, reach)
        start = torch.tensor([-1.05, -0.9, 0.9, 0.95, 1.1], dtype=torch.float64)[:, None]
        path = ss.simulate(kind, start, steps=400, seed=SEED, return_path=True)[..., 0]
        times = torch.linspace(0, 1, len(path))
        for i in range(path.shape[1]):
            panel.plot(times, path[:, i], color=ORANGE if i < 2 else BLUE, lw=0.9)
        name = "VP (DDPM): the signal shrinks" if reach < 5 else "VE (NCSN): the noise grows"
        panel.set(title=name, xlabel="t, from data (0) to noise (1)", ylabel="x")
    return figure


def kernels() -> Figure:
    """The mean ± 2 standard deviations of the kernel, the transition and the bridge."""
    vp, x0, xs, xt, (s, t) = ss.VPSDE(), 1.5, 1.2, -0.6, (0.15, 0.6)
    figure, axes = panels(1, 3, height=2.6)
    times = torch.linspace(1e-4, 1, 200, dtype=torch.float64)

    def tube(panel: Axes, u: Tensor, mean: Tensor, std: Tensor) -> None:
        panel.fill_between(u, mean - 2 * std, mean + 2 * std, color=BLUE, alpha=0.2, lw=0)
        panel.plot(u, mean, color=BLUE)

    alpha, sigma = vp.marginal(times)
    tube(axes[0], times, alpha * x0, sigma)
    after = times[times >= s]
    step = vp.transition(torch.full_like(after, s), after)
    tube(axes[1], after, step.scale * xs, step.variance.sqrt())
    axes[1].axvline(s, color=GREY, lw=0.8, ls=":")
    between = times[times < t]
    bridge = vp.bridge(between, torch.full_like(between, t))
    known = torch.full((len(between), 1), xt, dtype=torch.float64)
    middle = bridge(known, x0=torch.full_like(known, x0))
    tube(axes[2], between, middle.mean[:, 0], middle.variance.sqrt().flatten())
    dots: list[tuple[Axes, list[tuple[float, float, str]], str]] = [
        (axes[0], [(0, x0, "$x_0$")], "kernel: $x_t$ given $x_0$"),
        (axes[1], [(s, xs, "$x_s$")], "transition: $x_t$ given $x_s$"),
        (axes[2], [(0, x0, "$x_0$"), (t, xt, "$x_t$")], "bridge: $x_s$ given $x_t$, $x_0$"),
    ]
    for panel, points, title in dots:
        for across, up, name in points:
            panel.plot(across, up, "o", color=ORANGE, ms=7, zorder=3)
            panel.annotate(name, (across, up), (6, 7), textcoords="offset points", fontsize=12)
        panel.set(title=title, xlabel="time", ylim=(-2.6, 2.9), xlim=(-0.03, 1))
    axes[0].set_ylabel("x")
    return figure


def scores() -> Figure:
    """The score field of three clusters at three noise levels."""
    figure, axes = panels(1, 3, height=2.9)
    edm = ss.EDMSDE()
    means = [[-2.0, -1.0], [2.0, -1.2], [0.2, 1.8]]
    score = ss.MixtureScore([0.4, 0.3, 0.3], means, [0.05, 0.05, 0.05], edm)
    fine, coarse = (torch.linspace(-3.6, 3.6, n, dtype=torch.float64) for n in (181, 15))
    for panel, level in zip(axes, (0.3, 1.0, 3.0), strict=True):
        grid = torch.cartesian_prod(fine, fine)
        image = score.log_prob(grid, level).exp().reshape(181, 181).T
        panel.imshow(image.sqrt(), extent=(-3.6, 3.6, -3.6, 3.6), origin="lower", cmap="Blues")
        x = torch.cartesian_prod(coarse, coarse)
        arrow = level * score(x, level)
        arrow = arrow / (1 + arrow.norm(dim=1, keepdim=True))
        arrow = arrow / arrow.norm(dim=1).max()
        panel.quiver(*x.T, *arrow.T, color="0.15", scale=17, width=0.006)
        panel.set(title=f"noise level σ = {level:g}", xticks=[], yticks=[])
    return figure


def learning() -> Figure:
    """The noisy targets of denoising score matching, and their mean; and the least loss."""
    figure, axes = panels(1, 2)
    vp, t = ss.VPSDE(), 0.12
    score, (alpha, sigma) = bimodal(vp), vp.marginal(t)
    x0, noise = score.sample(6000, seed=SEED), normal(6000, 1)
    x, target = alpha * x0 + sigma * noise, -noise / sigma
    axes[0].plot(x[:1500], target[:1500], ".", color="0.7", ms=2.5, label="targets, $-ε/σ$")
    line = torch.linspace(-2, 2, 200, dtype=torch.float64)[:, None]
    axes[0].plot(line, score(line, t), color=BLUE, lw=2.5, label="exact score")
    edges = torch.linspace(-1.8, 1.8, 25, dtype=torch.float64)
    cells = torch.bucketize(x[:, 0].contiguous(), edges)
    means = torch.stack([target[cells == i].mean() for i in range(1, len(edges))])
    centres = (edges[1:] + edges[:-1]) / 2
    axes[0].plot(centres, means, "o", color=ORANGE, ms=4.5, label="mean of the targets in a bin")
    axes[0].set(xlabel="$x_t$", ylabel="score", ylim=(-7, 12), xlim=(-2, 2))
    axes[0].set_title("least squares finds the mean")
    axes[0].legend(fontsize=8.5, frameon=False, loc="upper right")
    times = torch.linspace(2e-3, 1, 60, dtype=torch.float64)
    least = []
    for u in times:
        a, s = vp.marginal(u)
        states = a * x0 + s * noise
        left = score.covariance(states, u)[:, 0, 0].mean()
        least.append((0.5 * (a / s) ** 2 * left).item())
    axes[1].plot(times, least, color=BLUE, lw=2)
    axes[1].axhline(0.5, color=GREY, ls=":", lw=1)
    axes[1].text(0.55, 0.515, "d/2", color=GREY)
    axes[1].set(xlabel="t", ylabel="loss, weight σ²", ylim=(0, 0.56), xlim=(0, 1))
    axes[1].set_title("loss of a perfect score: not 0")
    return figure


def reversal() -> Figure:
    """Ways back from the same noise at three η, over the same densities."""
    figure, axes = panels(1, 3, height=2.8)
    vp = ss.VPSDE()
    score = bimodal(vp)
    start = torch.linspace(-1.8, 1.8, 7, dtype=torch.float64)[:, None]
    names = ("η = 0: the ODE", "η = ½", "η = 1: the reverse SDE")
    for panel, eta, name in zip(axes, (0.0, 0.5, 1.0), names, strict=True):
        density_map(panel, score, 2.6)
        sampler = ss.PredictorCorrector(vp, predictor=ss.EulerMaruyama(eta=eta), steps=600)
        states = list(sampler.iterate(score, init=start, seed=SEED))
        path = torch.cat([state.x for state in states], 1)[:, :-1]
        times = sampler.times[1:][: path.shape[1]]
        for i, row in enumerate(path):
            panel.plot(times, row, lw=1, color=(ORANGE, BLUE)[int(row[-1] > 0)], alpha=0.9)
            panel.plot(1.0, start[i], "o", ms=3, color="0.2")
        panel.set(title=name, xlabel="t", xlim=(1.02, 0), ylim=(-2.6, 2.6))
    axes[0].set_ylabel("x")
    return figure


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


def noise() -> Figure:
    """One Brownian path on finer and finer times."""
    figure, axes = panels(1, 1, height=2.6)
    for points, colour, width in ((1024, "0.75", 0.8), (32, BLUE, 1.2), (4, ORANGE, 1.8)):
        source = ss.noise.BrownianNoise(seed=5)
        times = torch.linspace(0, 1, points + 1, dtype=torch.float64)
        path = brownian(source, times)
        axes[0].plot(times, path, "-o", color=colour, lw=width, ms=0 if points > 99 else 4)
        axes[0].plot([], [], color=colour, label=f"{points} steps")
    axes[0].set(xlabel="time", ylabel="$W$", title="one seed, one path, three step sizes")
    axes[0].legend(frameon=False, fontsize=9)
    return figure


def brownian(source: ss.noise.BrownianNoise, times: Tensor) -> Tensor:
    """W at rising times, from what the source hands to each step of a simulation of dx = dw."""
    still = ss.LinearSDE.from_marginal(lambda t: 1 + 0 * t, lambda t: (t + 1e-12).sqrt())
    zero = torch.zeros(1, 1, dtype=torch.float64)
    path = ss.simulate(still, zero, times=times.tolist(), noise=source, return_path=True)
    return path[:, 0, 0]


def fokker_planck() -> Figure:
    """A density in a double well, on its way to Boltzmann's."""
    figure, axes = panels(1, 2, height=2.8)
    for panel, temperature in zip(axes, (0.3, 0.1), strict=True):
        well = LangevinSDE(lambda x: x - x**3 + 0.1, temperature=temperature)
        fp = FokkerPlanck(well, bounds=((-2.6, 2.6),), cells=(260,))
        times = [0.0, 1.0, 3.0, 9.0]
        start = fp.density(lambda x: -((x[:, 0] + 1.0) ** 2) / 0.02)
        run = fp.solve(start, times=times, tolerance=1e-3)
        x = (torch.arange(260) + 0.5) * 0.02 - 2.6
        shades = ("0.8", "#E69F00", ORANGE, PINK)
        for t, row, shade in zip(times, run.density, shades, strict=True):
            panel.plot(x, row, color=shade, lw=1.7, label=f"t = {t:g}")
        panel.plot(x, fp.stationary(), "--", color=BLUE, lw=1.7, label="Boltzmann")
        panel.set(title=f"temperature {temperature:g}", xlabel="x", ylim=(0, 2), xlim=(-2.2, 2.2))
    axes[0].set_ylabel("density")
    axes[0].legend(fontsize=8.5, frameon=False, loc="upper right")
    return figure


def low_density() -> Figure:
    """Two modes: the data, plain Langevin dynamics and annealed Langevin dynamics, true scores."""
    figure, axes = panels(1, 3, height=2.9)
    weights, means, spread = [0.2, 0.8], [[-5.0, -5.0], [5.0, 5.0]], [1.0, 1.0]
    clean = ss.MixtureScore(weights, means, spread, ss.VPSDE())
    data, start = clean.sample(2000, seed=SEED), 16 * torch.rand(2000, 2, generator=seeded()) - 8
    plain = ss.langevin.chains(lambda x: clean(x, 0.0), start, step=0.1, n=500, seed=SEED).x
    ladder = ss.DiscreteVESDE.from_data(data.float(), sigma_min=0.1, levels=24)
    annealed = ss.PredictorCorrector(
        ladder,
        predictor=ss.NoPredictor(),
        corrector=ss.AnnealedLangevin(epsilon=0.2 * ladder.sigmas[-1] ** 2, steps=100),
        corrector_first=True,
    )
    noisy = ss.MixtureScore(weights, means, spread, ladder)
    x = annealed.sample(noisy, (2000, 2), seed=SEED)
    ways = (("data", data), ("plain Langevin", plain), ("annealed Langevin", x))
    for panel, (name, points) in zip(axes, ways, strict=True):
        share = (points.sum(1) < 0).double().mean().item()
        panel.scatter(*points.T, s=2, color=ORANGE, linewidths=0)
        panel.text(-7.5, -1.2, f"{share:.0%}", fontsize=14, color=BLUE)
        panel.set(title=name, xticks=[], yticks=[], xlim=(-9, 9), ylim=(-9, 9))
    return figure


def seeded() -> torch.Generator:
    """A generator of this page's seed."""
    return torch.Generator().manual_seed(SEED)


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


FIGURES: dict[str, Callable[[], Figure]] = {
    "sde": sde,
    "kernels": kernels,
    "scores": scores,
    "learning": learning,
    "reversal": reversal,
    "predictors": predictors,
    "exponential": exponential,
    "correctors": correctors,
    "sampler": sampler,
    "noise": noise,
    "fokker_planck": fokker_planck,
    "low_density": low_density,
    "exact_error": exact_error,
}


def main() -> None:
    """Draw all, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(FIGURES))
    parser.add_argument("--save", action="store_true", help="into docs/_static/theory")
    options = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    folder = root / ("docs/_static/theory" if options.save else "out/theory")
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        FIGURES[name]().savefig(folder / f"{name}.png", dpi=130)


if __name__ == "__main__":
    main()
