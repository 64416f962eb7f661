"""The benchmark on exact scores: peers, ours, tables and picture."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import sdescore as ss

# diffusers 0.42 on NumPy 2.


SDE = ss.VPSDE()


@pytest.fixture(scope="module")
def peers(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("peers")


def normal(n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


# Peers and ours


def test_the_denoiser_of_the_peers_is_tweedies_mean(peers: ModuleType, targets: ModuleType) -> None:
    """E[x₀ | y] = y + s² ∇ log p(y), the gradient by autodiff of the mixture blurred by s."""
    target = targets.anisotropic()
    y = (3 * normal(20, target.dim)).double().requires_grad_()
    s = 0.7
    blurred = MixtureSameFamily(
        Categorical(target.weights),
        MultivariateNormal(target.means, target.covariances + s**2 * torch.eye(10).double()),
    )
    (score,) = torch.autograd.grad(blurred.log_prob(y).sum(), y)
    denoise = peers.denoiser(target)
    torch.testing.assert_close(denoise(y.detach(), s), y.detach() + s**2 * score)
    assert denoise.calls == 1


def test_the_peers_levels_are_those_of_the_sde(peers: ModuleType) -> None:
    def level(t: float) -> float:  # σ/α from the integral of β, 0.1 t + 19.9 t²/2
        return math.sqrt(math.expm1(0.1 * t + 9.95 * t**2))

    assert peers.noise_levels(SDE) == pytest.approx((level(1e-3), level(1.0)))
    kept = torch.tensor(peers.betas(SDE), dtype=torch.float64).neg().add(1).cumprod(0)
    times = torch.linspace(1e-3, 1, 1000, dtype=torch.float64).tolist()
    expected = [1 / (1 + level(t) ** 2) for t in times]
    torch.testing.assert_close(kept, torch.tensor(expected, dtype=torch.float64))


def test_a_wrong_count_is_refused(peers: ModuleType, targets: ModuleType) -> None:
    def idle(denoise: Any, z: Tensor, *_: Any) -> Tensor:
        return denoise(z, 1.0)

    peer = peers.Peer("nobody", "idle", idle)
    with pytest.raises(RuntimeError, match="expected 5 evaluations of nobody, idle, got 1"):
        peer.sample(targets.ring(), normal(4, 2), SDE, 5, 0)


@pytest.mark.slow
def test_every_installed_peer_makes_its_evaluations_and_finds_the_ring(
    peers: ModuleType, targets: ModuleType
) -> None:
    """At 41 evaluations all of them put their samples within a few stds of a mode."""
    installed = [p for p in peers.PEERS if peers.libraries()[p.package] is not None]
    if not installed:
        pytest.skip("no peer is installed")
    ring, z = targets.ring(), normal(200, 2)
    for peer in installed:
        for n in (5, 6):
            x = peer.sample(ring, z, SDE, n, 0)  # raises on another number of evaluations
            assert x.shape == z.shape and x.isfinite().all(), peer.method
            assert peer.evaluations(n) == n - (peer.odd and n == 6)
        x = peer.sample(ring, z, SDE, 41, 0)
        far = torch.cdist(x.double(), ring.means).amin(1)
        assert far.quantile(0.95) < 1.0, f"{peer.package}: {peer.method}"
        modes = torch.cdist(x.double(), ring.means).argmin(1).unique()
        assert len(modes) == 8, f"{peer.package}: {peer.method}"


def test_two_libraries_agree_on_one_method(peers: ModuleType, targets: ModuleType) -> None:
    """DPM-Solver++(2M) and Heun of diffusers and of k-diffusion, from one noise on one grid."""
    installed = peers.libraries()
    if None in (installed["diffusers"], installed["k-diffusion"]):
        pytest.skip("diffusers or k-diffusion is not installed")
    named = {(p.package, p.method): p for p in peers.PEERS}
    target, z = targets.anisotropic(), normal(50, 10)
    for one, other in (
        ("DPM++2M, exponential", "dpmpp_2m, exponential"),
        ("DPM++2M, Karras", "dpmpp_2m, Karras"),
        ("Heun, Karras", "heun, Karras"),
    ):
        a = named["diffusers", one].sample(target, z, SDE, 15, 0)
        b = named["k-diffusion", other].sample(target, z, SDE, 15, 0)
        torch.testing.assert_close(a, b, rtol=0.0, atol=0.02)


def test_ours_start_where_the_peers_do(accuracy: ModuleType, peers: ModuleType) -> None:
    """DDIM on the exponential grid is Euler in σ/α: diffusers' and ours are one map."""
    if peers.libraries()["diffusers"] is None:
        pytest.skip("diffusers is not installed")
    named = {(p.package, p.method): p for p in peers.PEERS}
    ring = accuracy.TARGETS["ring"]()
    z = normal(50, 2)
    ours, calls, _ = accuracy.sample_ours("DDIM", accuracy.OURS["DDIM, log-SNR"], ring, z, 10)
    assert calls == 10
    theirs = named["diffusers", "Euler, exponential"].sample(ring, z, SDE, 10, 0)
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.02)


def test_ours_that_takes_too_many_evaluations_is_refused(accuracy: ModuleType) -> None:
    def greedy(sde: ss.LinearSDE, n: int, data: Tensor) -> ss.PredictorCorrector:
        return ss.PredictorCorrector(sde, predictor=ss.DDIM(), steps=n + 1)

    with pytest.raises(RuntimeError, match="at most 5 evaluations of greedy, got 6"):
        accuracy.sample_ours("greedy", greedy, accuracy.TARGETS["ring"](), normal(4, 2), 5)


@pytest.mark.parametrize(
    ("method", "stages"),
    [("DDIM, log-SNR", 1), ("stochastic Heun, log-SNR", 2), ("SEEDS-3, log-SNR", 3)],
)
def test_ours_make_as_many_evaluations_as_fit(
    accuracy: ModuleType, method: str, stages: int
) -> None:
    ring = accuracy.TARGETS["ring"]()
    for n in (5, 6, 7, 8, 10):
        _, calls, _ = accuracy.sample_ours(method, accuracy.OURS[method], ring, normal(4, 2), n)
        assert calls == max(k for k in range(1, n + 1) if (k - 1) % stages == 0)


def test_a_fit_sees_draws_of_its_own_and_is_timed_apart(
    accuracy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = accuracy.TARGETS["ring"]()
    fitted_to, clock = [], [0.0]
    monkeypatch.setattr(accuracy.time, "process_time", lambda: clock[0])

    def slow(sde: ss.LinearSDE, n: int, data: Tensor) -> ss.PredictorCorrector:
        fitted_to.append(data)
        clock[0] += 0.3
        return ss.PredictorCorrector(sde, predictor=ss.DDIM(), steps=n)

    chosen = [("sdescore", "slow", lambda *a: accuracy.sample_ours("slow", slow, *a))]
    (row,) = accuracy.run(["ring"], (5,), 100, chosen)["ring"]["rows"]
    assert row["cells"]["5"]["fit_seconds"] == 0.3 and row["cells"]["5"]["cpu_seconds"] == 0
    (data,) = fitted_to
    assert data.shape == (4000, 2) and data.dtype == torch.float64
    assert torch.equal(data, ring.sample(4000, seed=999))  # 1000 to 1008 are the judge's


def test_fitted_recipes_pass_data_and_evaluations_on(
    accuracy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def grid(*args: Any, **options: Any) -> ss.grids.Grid:
        seen.append((*args, options))
        return ss.LogSNRGrid()

    data = normal(10, 2)
    monkeypatch.setattr(accuracy.ss, "optimal_grid", grid)
    monkeypatch.setattr(accuracy.ss, "recommended_sampler", grid)
    accuracy.OURS["recommended, exact score"](SDE, 7, data)
    accuracy.OURS["recommended, default"](SDE, 7, data)
    for name in ("Adams 2 corrected with 3", "Adams 3"):
        with pytest.raises(ss.errors.ScheduleError):  # the stand-in has no number of times
            accuracy.OURS[f"{name}, optimal grid"](SDE, 7, data)
    options = {"data": data, "score_error": 0.0, "seed": 0}
    default = {"data": data, "seed": 0}
    adams = [ss.ExponentialAdams(points=p, corrector_points=q) for p, q in ((2, 3), (3, 0))]
    recommended = [(SDE, 7, options), (SDE, 7, default)]
    assert seen == [*recommended, *((SDE, a, 7, options) for a in adams)]


def test_who_runs_where(accuracy: ModuleType) -> None:
    at = {name: [n for n in accuracy.STEPS if accuracy.runs(name, n)] for name in accuracy.OURS}
    for kind in ("exact score", "default"):
        assert at[f"recommended, {kind}"] == [5, 8, 10, 15, 20]
    few = [name for name in at if name.endswith("optimal grid") and at[name] == [5, 10]]
    noisy = [name for name in at if at[name] == [5, 8, 10, 15, 20, 50]]
    assert len(few) == 2 and len(noisy) == 4 and "Euler–Maruyama, log-SNR" in noisy
    assert at["DDIM, log-SNR"] == [5, 8, 10, 15, 20, 50, 100]
    assert at["ancestral, log-SNR"] == list(accuracy.STEPS)
    known = {*accuracy.OURS, *(p.method for p in accuracy.PEERS)}
    assert set(accuracy.LONG) <= known and set(accuracy.FITTED) <= set(accuracy.OURS)


def test_a_run_fills_every_cell_and_the_table(accuracy: ModuleType) -> None:
    assert [name for _, name, _ in accuracy.methods("sdescore")] == list(accuracy.OURS)
    chosen = [m for m in accuracy.methods("sdescore") if accuracy.runs(m[1], 6)]
    report = accuracy.run(["ring"], (5, 6), 200, chosen)
    part = report["ring"]
    for row in part["rows"]:
        assert [0 < row["cells"][n]["evaluations"] <= int(n) for n in row["cells"]] == [True] * 2
    text = accuracy_report(accuracy).table(part, (5, 500))
    assert text.count("\n| sdescore |") == len(chosen)


def accuracy_report(accuracy: ModuleType) -> ModuleType:
    return sys.modules[accuracy.markdown.__module__]


def test_inside_the_bar_needs_both_figures_on_every_target(accuracy: ModuleType) -> None:
    def part(*cells: tuple[float | None, float | None]) -> dict[str, Any]:
        rows = [
            {"library": "a", "method": str(i), "cells": {"5": {"w2": w, "nll": g}}}
            for i, (w, g) in enumerate(cells)
        ]
        return {"w2_bar_in_floors": 1.3, "rows": rows}

    good = (1.29, -0.049)
    first = part(good, good, (1.31, 0.0), (1.0, 0.051), (1.0, -0.051), (None, None), good)
    second = part(good, (2.0, 0.0), good, good, good, good, good)
    assert accuracy.inside({"x": first, "y": second}, (5,)) == {"5": ["a: 0", "a: 6"]}
    assert accuracy.inside({"x": first}, (5, 8))["8"] == []


# Tables and picture


def made_up(cells: dict[tuple[str, str], tuple[float, float]]) -> dict[str, Any]:
    """A report of one target with the same figures at every N."""
    steps = (5, 8, 10, 15, 20)
    rows = [
        {
            "library": library,
            "method": method,
            "cells": {str(n): {"w2": w2, "nll": nll, "nll_error": 0.02} for n in steps},
        }
        for (library, method), (w2, nll) in cells.items()
    ]
    return {"targets": {"one": {"title": "one", "w2_bar_in_floors": 2.0, "rows": rows}}}


CELLS = {
    ("sdescore", "recommended, exact score"): (1.0, -0.01),
    ("sdescore", "recommended, default"): (2.0, -0.1),
    ("sdescore", "ancestral, log-SNR"): (9.0, 0.5),
    ("sdescore", "DDIM, log-SNR"): (7.0, 0.5),
    ("a", "smooth"): (1.0, -0.2),  # 4 bars by its gap
    ("a", "even"): (6.0, 0.1),  # 3 bars by its W2
    ("b", "good"): (2.0, 0.05),  # 1 bar by both
    ("b", "bad"): (2.0, 0.06),
}


def test_contenders_are_the_best_of_each_library(accuracy: ModuleType) -> None:
    module, report = accuracy_report(accuracy), made_up(CELLS)
    assert module.outside(report, ("a", "smooth")) == pytest.approx(4.0)
    assert module.outside(report, ("a", "even")) == pytest.approx(3.0)
    assert module.outside(report, ("b", "good")) == pytest.approx(1.0)
    names = [method for _, method in module.contenders(report)]
    ours = ["recommended, default", "DDIM, log-SNR", "ancestral, log-SNR"]
    assert names == ["recommended, exact score", "good", "even", *ours]
    report["targets"]["one"]["rows"][6]["cells"]["8"] = {"w2": None, "nll": None}
    assert module.outside(report, ("b", "good")) == math.inf
    assert ("b", "bad") in module.contenders(report)


def test_the_readmes_table(script: Callable[[str], ModuleType]) -> None:
    lines = script("tables").accuracy_table(made_up(CELLS), (5, 10)).splitlines()
    assert lines[0] == "| method | one, N = 5 | one, N = 10 |" and len(lines) == 2 + 6 + 2
    assert lines[2] == r"| sdescore: recommended, exact score | 1.00 \| -0.010 | 1.00 \| -0.010 |"
    assert lines[-1] == r"| the bar | 2.00 \| ±0.050 | 2.00 \| ±0.050 |"
    assert lines[-2] == r"| the best figure of any peer | 1.00 \| +0.050 | 1.00 \| +0.050 |"


def test_the_picture_shows_the_figures(
    accuracy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    save = figure.Figure.savefig
    monkeypatch.setattr(
        figure.Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    accuracy.plot(made_up(CELLS), tmp_path / "new" / "accuracy.png")
    assert (tmp_path / "new" / "accuracy.png").stat().st_size > 10_000
    top, bottom = drawn[0].axes
    for axes, index in ((top, 0), (bottom, 1)):
        lines = {line.get_label(): line for line in axes.get_lines()}
        for who in (("sdescore", "recommended, exact score"), ("b", "good"), ("a", "even")):
            line = lines[": ".join(who)]
            assert list(line.get_xdata()) == [5, 8, 10, 15, 20]
            expected = max(abs(CELLS[who][index]), 0.02)  # a gap is at least its standard error
            assert set(line.get_ydata()) == {expected}
        assert len(lines) == len(CELLS)
    assert len({line.get_color() for line in top.get_lines()}) == 6 + 1  # and grey
