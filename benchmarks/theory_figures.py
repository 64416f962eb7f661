"""The pictures at the top of the theory pages, from exact scores and exact errors.

No network is trained, and every seed is fixed:

    python benchmarks/theory_figures.py            # in out/theory
    python benchmarks/theory_figures.py --save     # in docs/_static/theory
    python benchmarks/theory_figures.py scores     # one of them
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from theory_panels import (
    BLUE,
    GREY,
    ORANGE,
    PINK,
    SEED,
    bimodal,
    density_map,
    normal,
    panels,
)
from theory_samplers import correctors, exact_error, exponential, predictors, sampler
from torch import Tensor

import sdescore as ss
from sdescore.fokker_planck.solver import FokkerPlanck
from sdescore.sde.langevin import LangevinSDE


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
