"""benchmarks/trained.py on a network that is exact, its judge on sets of known distance, and the
page that shows what it saved.

The exact network is that of independent Gaussian pixels, for which every sampler's distribution is
known.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from tests.helpers import ROOT

# diffusers 0.42 on NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

VARIANCE = 0.25


@pytest.fixture(scope="module")
def trained(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("trained")


@pytest.fixture(scope="module")
def models(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("trained_models")


@pytest.fixture(scope="module")
def shown(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("trained_report")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / "trained-cpu.json").read_text())


def normal(n: int, *event: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *event, generator=torch.Generator().manual_seed(seed))


class ExactNet(nn.Module):
    """E[ε | x_t] of pixels N(0, VARIANCE) under a VP SDE, told the log-SNR."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        self.sizes.append(len(x))
        alpha2 = log_snr.sigmoid()
        alpha2, sigma2 = (v.reshape(-1, 1, 1, 1) for v in (alpha2, 1 - alpha2))
        return sigma2.sqrt() * x / (alpha2 * VARIANCE + sigma2)


@pytest.fixture
def subject(models: ModuleType) -> Any:
    model = ss.ScoreModel(ExactNet(), ss.DiscreteVPSDE.linear(), "epsilon", "log_snr")
    data = VARIANCE**0.5 * normal(1600, 1, 2, 2, seed=5)
    seen, held = data[:1200], data[1200:]
    judge = models.Judge(lambda x: x, seen, held, 400)
    return models.Subject("exact", model, "none", seen, held, judge, 400)


# The judge


def test_real_against_real_is_the_mean_over_parts_of_what_was_seen(models: ModuleType) -> None:
    seen, held = normal(1000, 3), normal(250, 3, seed=1)
    judge = models.Judge(lambda x: x, seen, held, 300)
    parts = [seen[:300], seen[300:600], seen[600:900]]  # and 100 that make no part
    for key, metric in (
        ("fd", ss.metrics.frechet_distance),
        ("w2", ss.metrics.sliced_wasserstein),
    ):
        found = torch.tensor([metric(part, held) for part in parts])
        floor = judge.floors[key]
        assert floor["mean"] == pytest.approx(found.mean().item(), rel=1e-6)
        assert floor["std"] == pytest.approx(found.std().item(), rel=1e-4)
        assert floor["parts"] == 3
    read = judge(seen)
    assert read["fd"] == pytest.approx(1.0) and read["w2"] == pytest.approx(1.0)


def test_a_moved_set_reads_its_shift(models: ModuleType) -> None:
    """Equal covariances: FD is ‖m‖², sliced W2 about ‖m‖/√d; means over two equal parts."""
    held, shift = normal(400, 1, 1, 2), torch.tensor([6.0, 8.0])
    judge = models.Judge(lambda x: 2 * x, normal(800, 1, 1, 2, seed=1), held, 400)
    found = judge(torch.cat([held + shift, held + shift]))
    assert found["fd"] * judge.floors["fd"]["mean"] == pytest.approx(4 * 100, rel=1e-5)
    # The pixels', not the embedding's.
    assert found["w2"] * judge.floors["w2"]["mean"] == pytest.approx(10 / math.sqrt(2), rel=0.1)
    held[3] = torch.nan
    assert judge(held) == {"fd": None, "w2": None}


# The models


@pytest.mark.parametrize("off", [0.0, 0.03])
def test_the_first_error_is_that_of_epsilon(models: ModuleType, subject: Any, off: float) -> None:
    """A network that is exact but for a constant added to its ε."""

    class Off(ExactNet):
        def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
            return super().forward(x, log_snr) + off

    wrong = ss.ScoreModel(Off(), subject.model.sde, "epsilon", "log_snr")
    assert models.first_error(wrong, subject.seen, 800) == pytest.approx(off, rel=0.01, abs=1e-4)


def test_the_digits_are_split_and_the_checkpoint_is_used_again(
    models: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    from sdescore.datasets import digits

    monkeypatch.setattr(models, "OUT", tmp_path / "new")
    train, trained_on = models.train_digits, []

    def quick(seen: Tensor, path: Path, recipe: str) -> None:
        trained_on.append(seen)
        train(seen, path, recipe, steps=2)

    monkeypatch.setattr(models, "train_digits", quick)
    first, again = models.digits_subject(), models.digits_subject()
    (seen,) = trained_on
    other = models.SUBJECTS["cosine"]()
    assert torch.equal(other.seen, seen) and torch.equal(other.held, first.held)
    assert isinstance(other.model.sde, ss.CosineVPSDE) and other.model.prediction == "v"
    assert torch.equal(seen, first.seen) and len(first.seen) == 1200
    rows = torch.cat([first.seen, first.held]).flatten(1).tolist()
    assert sorted(rows) == sorted(digits().flatten(1).tolist())
    assert first.checkpoint == again.checkpoint and torch.equal(first.held, again.held)
    assert first.model.sde == ss.DiscreteVPSDE.linear()
    x, t = normal(3, 1, 8, 8), torch.tensor(0.3)
    law = models.digit_mixture().score(first.model.sde)
    torch.testing.assert_close(first.exact(x, t).flatten(1), law(x.flatten(1), t))
    assert not first.model.training and first.judge.floors["fd"]["parts"] == 3
    x, t = normal(2, 1, 8, 8), torch.tensor(0.5)
    with torch.no_grad():
        plain = ss.load(tmp_path / "new" / "digits.safetensors").eval()(x, t)
        torch.testing.assert_close(first.model(x, t), plain, rtol=1e-4, atol=1e-5)


def test_mnist_needs_its_checkpoints(
    models: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "MNIST", tmp_path)
    with pytest.raises(SystemExit, match=r"expected .*ncsn.safetensors; python benchmarks/mnist"):
        models.mnist_subject("ncsn")


# Sampling


def test_peers_ask_the_network_for_tweedies_mean(trained: ModuleType, subject: Any) -> None:
    """Of y = x₀ + s ε: VARIANCE/(VARIANCE + s²) y; in batches, in order, in the state's dtype."""
    asked = trained.Batches(subject.model).score(ss.EDMSDE(sigma_min=1e-6, sigma_max=1e3))
    for s in (0.02, 0.7, 50.0):
        y = (VARIANCE + s**2) ** 0.5 * normal(250, 1, 2, 2).double()
        found = asked.denoise(y, s)
        torch.testing.assert_close(found, VARIANCE / (VARIANCE + s**2) * y, rtol=1e-4, atol=1e-4)
        assert found.dtype == torch.float64
    assert subject.model.net.sizes == [100, 100, 50] * 3


def test_every_method_makes_its_evaluations_and_finds_the_distribution(
    trained: ModuleType, subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exact network leaves the sampler's error: little at 24 evaluations, but of first order."""
    given = []

    def stand_in(sde: ss.LinearSDE, n: int, **options: Any) -> ss.PredictorCorrector:
        given.append((sde, n, options))
        return ss.PredictorCorrector(sde, predictor=ss.DDIM(), grid=ss.LogSNRGrid(), steps=n)

    monkeypatch.setattr(trained.ss, "recommended_sampler", stand_in)
    chosen = trained.methods()
    assert [name for _, name, _ in chosen][: len(trained.OURS)] == list(trained.OURS)
    installed = trained.libraries()
    assert [m[:2] for m in chosen[len(trained.OURS) :]] == [
        who for who in trained.THEIRS if installed[who[0]] is not None
    ]
    for method in chosen:
        found = trained.measure(subject, method, 24)  # raises on another number
        assert found["w2"] < (3.0 if method[1] in ("ancestral, uniform", "DDIM, uniform") else 2.0)
        fitted = method[1].startswith("recommended")
        assert ("times" in found) == ("predictor" in found) == fitted
        assert found["made"]["command"].startswith("python benchmarks/trained.py")
    for sde, n, options in given:
        assert (sde, n, options.pop("seed")) == (subject.model.sde, 24, 0)
        assert torch.equal(options.pop("data"), subject.seen)
    assert [options for _, _, options in given] == [{}, {"score_error": 0.0}, {"weights": True}]


def test_ours_start_where_the_peers_do(trained: ModuleType, subject: Any) -> None:
    """DPM-Solver++ (2M) on equal steps in log-SNR: k-diffusion's and ours are one map."""
    if trained.libraries()["k-diffusion"] is None:
        pytest.skip("k-diffusion is not installed")
    (method,) = trained.methods("dpmpp_2m, exponential")
    predictor = ss.ExponentialAdams(points=2, midpoint=True)
    z = normal(150, 1, 2, 2)
    sampler = trained.on(trained.LOG_SNR, predictor)(subject.model.sde, 8, subject.seen)
    trained_ours = dict(trained.OURS)
    try:
        trained.OURS["twin"] = lambda *_: sampler
        x = trained.ours("twin")[2](subject, z, 8).x
    finally:
        trained.OURS.clear()
        trained.OURS.update(trained_ours)
    torch.testing.assert_close(x, method[2](subject, z, 8).x.float(), rtol=0.0, atol=2e-3)


def test_the_state_starts_at_the_largest_noise(trained: ModuleType) -> None:
    """Without a score nothing moves on a VE SDE: σ(T) z comes out."""
    sde, z = ss.DiscreteVESDE.geometric(sigma_max=30.0, sigma_min=0.1, levels=50), normal(3, 2)
    sampler = trained.on(trained.LOG_SNR, ss.DDIM())(sde, 4, z)
    x = trained.from_noise(sampler, lambda x, t: torch.zeros_like(x), z)
    torch.testing.assert_close(x, 30 * z, rtol=1e-5, atol=0)


def test_the_ladder_is_too_short_for_the_vp_sde() -> None:
    """The ladder of mnist.py: why the NCSN is sampled on its own SDE."""
    sde = ss.DiscreteVESDE.geometric(sigma_max=31.66, sigma_min=0.05, levels=83)
    model = ss.ScoreModel(lambda x, c: torch.zeros_like(x), sde, "epsilon", "log_snr")
    sampler = ss.PredictorCorrector(ss.VPSDE(), predictor=ss.DDIM(), steps=5)
    with pytest.raises(ss.errors.TimeError, match="log-SNR"):
        sampler.sample(model.under(ss.VPSDE()), (2, 3))


def test_distance_to_the_flow(trained: ModuleType, subject: Any) -> None:
    """The flow of Gaussian pixels is x₀ = z √(v/(α² v + σ²)) σ_T; ten steps of DDIM are linear."""
    sde, model = subject.model.sde, subject.model
    sampler = ss.PredictorCorrector(sde, predictor=ss.DDIM(), grid=ss.UniformGrid(), steps=10)
    alpha, sigma = (v.item() for v in sde.marginal(1.0))
    flow = sigma * (VARIANCE / (alpha**2 * VARIANCE + sigma**2)) ** 0.5
    factor = trained.from_noise(sampler, model, torch.ones(1, 1, 2, 2)).mean().item()
    z = normal(150, 1, 2, 2)
    each = abs(factor - flow) * z.flatten(1).square().mean(1).sqrt()
    found = trained.off_flow(sampler, model, z)
    assert abs(factor - flow) > 0.02
    assert found["median"] == pytest.approx(each.median().item(), rel=0.02)
    assert found["rms"] == pytest.approx(each.square().mean().sqrt().item(), rel=0.02)


def test_only_some_cells_are_compared_with_the_flow(
    trained: ModuleType, subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both scores; 400 samples at most."""
    asked = []
    monkeypatch.setattr(trained, "off_flow", lambda *a: asked.append(a) or {"median": 0, "rms": 0})
    compared, plain = trained.ours("Adams 2 midpoint, quadratic"), trained.ours("DDIM, uniform")
    assert "off_flow" not in trained.measure(subject, compared, 4)
    many = dataclasses.replace(subject, samples=500, exact=lambda x, t: -x)
    assert "off_flow" not in trained.measure(many, plain, 4) and not asked
    assert set(trained.measure(many, compared, 4)["off_flow"]) == {"network", "exact"}
    assert [a[1] for a in asked] == [many.model, many.exact]
    assert {len(a[2]) for a in asked} == {400} and asked[0][0].evaluations == 4
    assert "off_flow" not in trained.measure(many, compared, 50)


def test_another_number_of_evaluations_is_refused(trained: ModuleType, subject: Any) -> None:
    def greedy(subject: Any, z: Tensor, n: int) -> Any:
        for _ in range(n + 1):
            subject.model(z, torch.tensor(0.5))
        return trained.Drawn(z)

    with pytest.raises(RuntimeError, match="expected 2000 evaluations of us, greedy, got 2400"):
        trained.measure(subject, ("us", "greedy", greedy), 5)


def test_a_fit_is_timed_apart(
    trained: ModuleType, subject: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0, 17.0, 19.5])  # a cell, its fit, and the end of both
    monkeypatch.setattr(trained.time, "process_time", lambda: next(clock))
    found = trained.measure(subject, trained.ours("DDIM, uniform"), 3)
    assert (found["fit_seconds"], found["cpu_seconds"]) == (7.0, 12.5)


def test_who_runs_where(trained: ModuleType) -> None:
    def at(model: str, method: str) -> list[int]:
        return [n for n in trained.STEPS if trained.runs(model, method, n)]

    best, few = "Adams 2 corrected with 3, log-SNR", [5, 10, 20]
    assert at("digits", "recommended") == at("digits", "vAB, rectified") == [5, 8, 10, 15, 20]
    assert at("digits", best) == at("digits", "ancestral, uniform") == [5, 8, 10, 15, 20, 50, 100]
    assert at("ddpm", "recommended") == at("ncsn", best) == at("ddpm", "vAB, rectified") == few
    assert at("ddpm", best) == at("ddpm", "ancestral, uniform") == [*few, 50]
    assert at("ncsn", "vAB, rectified") == at("ddpm", "DDIM, uniform") == []
    named = (trained.ON_NCSN, trained.NOT_ON_MNIST, trained.LONG, trained.COMPARED)
    known = {*trained.OURS, *(name for _, name in trained.THEIRS)}
    assert set().union(*named) <= known
    assert set(trained.THEIRS) <= {(p.package, p.method) for p in trained.PEERS}


# Keeping, saving


def test_a_cell_is_kept_for_its_checkpoint_and_taken_only_when_asked(
    trained: ModuleType, tmp_path: Path
) -> None:
    path, made = tmp_path / "new" / "cell, 1.json", iter(range(9))

    def make() -> dict[str, int]:
        return {"fd": next(made)}

    found = [
        trained.cached(path, {"checkpoint": key}, make, resume)
        for key, resume in (("a", True), ("a", True), ("a", False), ("b", True), ("b", True))
    ]
    assert [cell["fd"] for cell in found] == [0, 0, 1, 2, 2]
    assert [p.name for p in path.parent.iterdir()] == ["cell, 1.json"]


def test_rows_say_how_they_were_made_and_are_merged(
    trained: ModuleType,
    subject: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """--only --save replaces its rows, and nothing else; a second model's rows stay."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(trained, "OUT", tmp_path / "out")
    monkeypatch.setattr(trained, "HERE", tmp_path / "benchmarks")
    monkeypatch.setattr(trained, "STEPS", (3, 5))
    monkeypatch.setattr(trained, "SUBJECTS", {"digits": lambda: subject, "ncsn": lambda: subject})
    kept_ours = {name: trained.OURS[name] for name in ("DDIM, uniform", "DDIM, log-SNR")}
    monkeypatch.setattr(trained, "OURS", kept_ours)
    monkeypatch.setattr(trained, "THEIRS", ())
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    target = tmp_path / "benchmarks" / "results" / "trained-cpu.json"

    def saved(*arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["trained.py", *arguments])
        trained.main()
        return json.loads(target.read_text())

    first = saved("--save")
    assert [row["method"] for row in first["digits"]["rows"]] == list(kept_ours)
    assert [row["method"] for row in first["ncsn"]["rows"]] == ["DDIM, log-SNR"]
    assert list(first["digits"]["rows"][0]["cells"]) == ["3", "5"]
    assert (tmp_path / "docs/_static/trained/trained.png").read_bytes().startswith(b"\x89PNG")
    second = saved("--only", "uniform", "--save")
    (old, other), (new, same) = first["digits"]["rows"], second["digits"]["rows"]
    assert same == other and second["ncsn"] == first["ncsn"]
    assert [m["command"] for m in old["made"]] == ["python benchmarks/trained.py --save"]
    (made,) = new["made"]
    assert made["command"] == "python benchmarks/trained.py --only uniform --save"
    assert made["date"] and made["torch"] == torch.__version__
    assert new["version"] == ss.__version__
    assert new["cells"]["5"]["fd"] == old["cells"]["5"]["fd"]  # the same again
    for command in (made["command"], "python benchmarks/trained.py --save"):
        assert f"`{command}`" in target.with_suffix(".md").read_text()
    third = saved("--resume", "--save")  # takes the cells, and says that they are older
    assert third["digits"]["rows"] == second["digits"]["rows"]
    fourth = saved("--models", "digits", "--only", "uniform", "--save")
    assert fourth["ncsn"] == third["ncsn"] and len(fourth["digits"]["rows"]) == 2
    with pytest.raises(SystemExit):
        saved("--steps", "5", "--save")
    assert "leave --steps out" in capsys.readouterr().err


def part_of(*rows: tuple[str, str, dict[int, float | None]], **more: Any) -> dict[str, Any]:
    return {
        "title": "one",
        "sde": "VPSDE",
        "checkpoint": "abc",
        "trained_on": 5,
        "held_out": 4,
        "samples": 3,
        "floors": {key: {"mean": 1.0, "std": 0.25, "parts": 3} for key in ("fd", "w2")},
        "reference": None,
        "first_error": 0.0123,
        "rows": [
            {
                "library": library,
                "version": "1",
                "method": method,
                "made": [],
                "cells": {
                    str(n): {"fd": fd, "w2": fd and 2 * fd, "cpu_seconds": 30, "fit_seconds": 60}
                    for n, fd in cells.items()
                },
            }
            for library, method, cells in rows
        ],
        **more,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "xyz"},
        {"samples": 4},
        {"trained_on": 6},
        {"floors": {key: {"mean": 1.01, "std": 0, "parts": 3} for key in ("fd", "w2")}},
    ],
)
def test_rows_that_do_not_compare_are_not_merged(shown: ModuleType, change: dict) -> None:
    saved = {"x": part_of(("a", "m", {5: 1.0}))}
    assert shown.merged({}, saved) == shown.merged(saved, saved) == saved
    with pytest.raises(SystemExit, match="expected"):
        shown.merged(saved, {"x": part_of(("a", "m", {5: 1.0}), **change)})


# Tables and picture


def test_a_table_marks_the_least_of_each_column(shown: ModuleType) -> None:
    part = part_of(("a", "m", {5: 1.5, 20: None}), ("b", "n", {5: 12.34, 20: 123.4}))
    lines = shown.table(part).splitlines()
    assert lines[0] == "| library | method | N = 5 | N = 20 |" and len(lines) == 4
    assert lines[2] == r"| a | m | **1.50** \| **3.00** | – \| – |"
    assert lines[3] == r"| b | n | 12.3 \| 24.7 | **123** \| **247** |"
    assert shown.cell(None) == ""


def test_the_table_of_distances_to_the_flow(shown: ModuleType) -> None:
    part = part_of(("a", "m", {5: 1.0, 8: 1.0}), ("a", "n", {5: 1.0}))
    assert shown.flow_table(part) == ""
    for i, cell in enumerate(part["rows"][0]["cells"].values()):
        cell["off_flow"] = {
            key: {"median": value + i, "rms": value + i + 0.5}
            for key, value in (("network", 3.0), ("exact", 1.0))
        }
    assert shown.flow_table(part).splitlines() == [
        "| score | method | N = 5 | N = 8 |",
        "|---|---|---|---|",
        r"| exact | m | 1.000 \| 1.500 | 2.000 \| 2.500 |",
        r"| network | m | 3.000 \| 3.500 | 4.000 \| 4.500 |",
    ]
    assert shown.flow_table(part) in shown.markdown({"x": part})


def test_costs(shown: ModuleType) -> None:
    part = part_of(("sdescore", "recommended", {5: 1.0, 10: 1.0}), ("b", "n", {5: 1.0, 10: 2.0}))
    assert "took 2 CPU minutes" in shown.cost_sentence({"x": part})
    assert shown.cost_sentence({"x": part}).endswith("fits 4")
    assert shown.fit_table({"x": part}).splitlines()[2] == "| one | 60 | 60 |"


def test_the_best_of_each_library_is_drawn(shown: ModuleType) -> None:
    part = part_of(
        ("sdescore", "recommended", {5: 0.1}),
        ("a", "even", {5: 4.0, 20: 4.0}),
        ("a", "uneven", {5: 1.0, 20: 9.0}),  # a geometric mean of 3
        ("a", "broken", {5: None, 20: 0.1}),
        ("b", "late", {5: 2.0, 20: 2.0, 50: 100.0}),  # beyond 20 does not count
    )
    assert shown.best_peers(part) == [("b", "late"), ("a", "uneven")]


def test_the_picture_shows_the_figures(
    shown: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    drawn, save = [], figure.Figure.savefig
    monkeypatch.setattr(
        figure.Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    own = {"title": "DDPM, ancestral", "evaluations": 250, "fd": 1.5, "w2": 1.0}
    one = part_of(
        ("sdescore", "recommended", {5: 3.0, 20: 1.25}),
        ("sdescore", "not named", {5: 7.0}),
        ("a", "m", {5: 4.0, 20: 2.0}),
        reference=own,
    )
    two = part_of(("sdescore", "recommended", {5: 2.0}), title="two")
    shown.plot({"x": one, "y": two}, tmp_path / "new" / "picture.png")
    (panels,) = (f.axes for f in drawn)
    assert [axes.get_title() for axes in panels] == ["one", "two"]
    lines = {line.get_label(): line for line in panels[0].lines}
    assert list(lines["sdescore: recommended"].get_xdata()) == [5, 20]
    assert list(lines["sdescore: recommended"].get_ydata()) == [3.0, 1.25]
    assert list(lines["a: m"].get_ydata()) == [4.0, 2.0] and "sdescore: not named" not in lines
    heights = [list(line.get_ydata()) for line in panels[0].lines]
    assert [7.0] in heights and [1.5, 1.5] in heights
    assert [t.get_text() for t in panels[0].texts] == ["ancestral, 250 evaluations"]
    (legend,) = drawn[0].legends
    assert [t.get_text() for t in legend.get_texts()] == ["sdescore: recommended", "a: m"]
    assert panels[0].get_yscale() == panels[0].get_xscale() == "log"


# The saved results and the page


ADAMS, RECOMMENDED = "Adams 2 corrected with 3, log-SNR", "recommended"
EXACT, FREE = "recommended, exact score", "recommended, free weights"
MIDPOINT, NOISY = "Adams 2 midpoint, quadratic", "Adams 2, η = 1, log-SNR"
ANCESTRAL, LINSPACE = "ancestral, uniform", "DPM++2M, linspace"


def cells_of(part: dict[str, Any]) -> dict[str, dict[int, dict[str, Any]]]:
    """Method → N → cell."""
    return {
        row["method"]: {int(n): cell for n, cell in row["cells"].items()} for row in part["rows"]
    }


@pytest.fixture(scope="module")
def page() -> str:
    text = (ROOT / "docs" / "howto" / "trained.md").read_text(encoding="utf-8")
    assert (ROOT / "docs" / "_static" / "trained" / "trained.png").is_file()
    assert "(../_static/trained/trained.png)" in text
    return text


def test_the_page_shows_the_saved_results(
    script: Callable[[str], ModuleType], shown: ModuleType, report: dict[str, Any], page: str
) -> None:
    assert list(report) == ["digits", "ddpm", "ncsn", "cosine"]
    for part in report.values():
        assert shown.table(part) in page
        assert f"**{part['title']}.** {shown.floor_sentence(part)}" in page
    for name in ("ddpm", "ncsn"):
        assert shown.reference_sentence(report[name]) in page
    assert shown.flow_table(report["digits"]) in page and shown.fit_table(report) in page
    errors = [f"{part['first_error']:.3f}" for part in report.values()]
    assert f"{', '.join(errors[:-1])} and {errors[-1]}" in page
    assert shown.cost_sentence(report) in page and shown.versions(report) in page
    for part in report.values():
        for row in part["rows"]:
            for made in row["made"]:
                assert script("machine").machine_sentence(made) in page
    saved = (ROOT / "benchmarks" / "results" / "trained-cpu.md").read_text(encoding="utf-8")
    assert saved == shown.markdown(report)


def test_the_saved_cells_are_those_that_are_to_run(
    trained: ModuleType, report: dict[str, Any]
) -> None:
    everyone = [("sdescore", name) for name in trained.OURS] + list(trained.THEIRS)
    for name, part in report.items():
        found = {
            (row["library"], row["method"]): [int(n) for n in row["cells"]] for row in part["rows"]
        }
        expected = {
            who: [n for n in trained.STEPS if trained.runs(name, who[1], n)] for who in everyone
        }
        assert found == {who: steps for who, steps in expected.items() if steps}


def test_the_units_and_references_are_those_of_the_page_on_mnist(report: dict[str, Any]) -> None:
    saved = json.loads((ROOT / "benchmarks" / "results" / "mnist-cpu.json").read_text())
    for name in ("ddpm", "ncsn"):
        own = saved["models"][name]
        for key, long in (("fd", "fd"), ("w2", "sliced_w2")):
            floor = report[name]["floors"][key]
            assert floor["mean"] == pytest.approx(saved["floors"][long]["mean"], rel=1e-3)
            assert report[name]["reference"][key] == own[long]["in_floors"]
        assert report[name]["reference"]["evaluations"] == own["sampling"]["evaluations"]
        assert report[name]["samples"] == saved["budget"]["samples"]


def pair(cell: dict[str, float]) -> str:
    return f"{cell['fd']:.2f} and {cell['w2']:.2f}"


def sentences(report: dict[str, Any]) -> dict[str, str]:
    """The numbers in the page's prose."""
    models = [cells_of(part) for part in report.values()]
    digits, ddpm, ncsn, _ = models
    ends = [
        (cells[name][n]["fd"], cells[name][m]["fd"])
        for cells, name, n, m in (
            (digits, ADAMS, 20, 100),
            (ddpm, ADAMS, 20, 50),
            (ncsn, RECOMMENDED, 10, 20),
        )
    ]
    off = {n: [digits[name][n]["off_flow"] for name in (RECOMMENDED, EXACT)] for n in (5, 10)}
    return {
        "plateau": "an FD of {:.2f} at 20 and {:.2f} at 100 evaluations on the first model, {:.2f} "
        "at 20 and {:.2f} at 50 on the second; `recommended` {:.2f} at 10 and {:.2f} at 20 on the "
        "third".format(*(x for two in ends for x in two)),
        "ode": f"an FD of {min(deterministic(ddpm)):.2f}",
        "ancestral": f"twenty ancestral steps read {pair(ddpm[ANCESTRAL][20])}",
        "eta": f"Adams with η = 1 {pair(ddpm[NOISY][20])}",
        "five": "; ".join(
            f"{cells[RECOMMENDED][5]['fd']:.2f} against {others(cells, 5):.2f}" for cells in models
        ),
        "as if exact": "; ".join(
            f"{digits[EXACT][n]['fd']:.2f} in place of {digits[RECOMMENDED][n]['fd']:.2f} at {n}"
            for n in (5, 10)
        ),
        "first steps": "; ".join(
            "{:.0f} times and {:.0f} times at {}".format(
                *(first_ratio(digits[name][n]) for name in (EXACT, RECOMMENDED)), n
            )
            for n in (5, 10)
        ),
        "off": "; ".join(
            f"{exact['network']['median'] / ours['network']['median']:.1f} times as far at {n}"
            for n, (ours, exact) in off.items()
        ),
        "sizes": f"{report['digits']['samples']} and {report['ddpm']['samples']} samples",
    }


def others(cells: dict[str, dict[int, dict[str, Any]]], n: int, key: str = "fd") -> float:
    """The least figure at ``n`` evaluations of all that are not recommended."""
    rows = [row for name, row in cells.items() if not name.startswith("recommended")]
    return min(row[n][key] for row in rows if n in row and row[n][key] is not None)


def first_ratio(cell: dict[str, Any]) -> float:
    """By how much σ/α falls in the first step, under a DDPM's SDE."""
    alpha, sigma = ss.DiscreteVPSDE.linear().marginal(torch.tensor(cell["times"][:2]).double())
    first, second = (sigma / alpha).tolist()
    return first / second


def deterministic(cells: dict[str, dict[int, dict[str, Any]]]) -> list[float]:
    """FD of all methods but those that draw noise, at all N."""
    noisy = (ANCESTRAL, NOISY)
    return [c["fd"] for name, row in cells.items() if name not in noisy for c in row.values()]


def test_the_prose_has_the_saved_numbers(report: dict[str, Any], page: str) -> None:
    flat = " ".join(page.split())
    for sentence in sentences(report).values():
        assert sentence in flat, sentence


def test_what_the_page_concludes(report: dict[str, Any], shown: ModuleType) -> None:
    models = {name: cells_of(part) for name, part in report.items()}
    digits, ddpm, ncsn, _ = models.values()
    # Enough is ten to twenty.
    for cells, name, n, m in (
        (digits, ADAMS, 20, 100),
        (ddpm, ADAMS, 20, 50),
        (ncsn, RECOMMENDED, 10, 20),
    ):
        assert cells[name][n]["fd"] == pytest.approx(cells[name][m]["fd"], rel=0.03)
    for cells in models.values():
        second = [row[20]["fd"] for name, row in cells.items() if name in SECOND_ORDER]
        assert len(second) >= 3 and max(second) < 1.15 * min(second)
    # Noise.
    for n in (20, 50):
        for name in (ANCESTRAL, NOISY):
            assert ddpm[name][n]["fd"] < 0.8 * min(deterministic(ddpm))
    assert ddpm[ANCESTRAL][20]["w2"] > 1.4 * ddpm[NOISY][20]["w2"]
    assert ddpm[NOISY][20]["w2"] < 1.1 * ddpm[ADAMS][20]["w2"]
    assert ddpm[NOISY][10]["w2"] > 1.5 * ddpm[ADAMS][10]["w2"]
    assert ddpm[NOISY][5]["fd"] > 20 and digits[NOISY][5]["fd"] > 20
    for n in (5, 8, 10, 15, 20, 50, 100):
        for name in (ANCESTRAL, NOISY):
            for key in ("digits", "cosine"):
                assert models[key][name][n]["fd"] > shown.least(report[key], "fd", n)
    # Few evaluations.
    for cells in models.values():
        quiet = {name: row for name, row in cells.items() if name not in (ANCESTRAL, NOISY)}
        for key in ("fd", "w2"):
            assert cells[RECOMMENDED][5][key] < others(cells, 5, key)
        for n in set(cells[RECOMMENDED]) - {5}:
            assert cells[RECOMMENDED][n]["fd"] < 1.04 * others(quiet, n)


def test_what_a_networks_own_error_does(report: dict[str, Any]) -> None:
    digits, ddpm, _, cosine = (cells_of(part) for part in report.values())
    for n in (5, 8, 10, 15, 20):
        ours, exact, other = (
            digits[name][n]["off_flow"] for name in (RECOMMENDED, EXACT, MIDPOINT)
        )
        assert exact["exact"]["median"] < min(ours["exact"]["median"], other["exact"]["median"])
        assert ours["network"]["median"] < exact["network"]["median"]
        assert digits[RECOMMENDED][n]["fd"] < digits[EXACT][n]["fd"]
        assert first_ratio(digits[RECOMMENDED][n]) < first_ratio(digits[EXACT][n])
    for n in (5, 10):
        assert ddpm[RECOMMENDED][n]["fd"] < 0.9 * ddpm[EXACT][n]["fd"]
    for n in (5, 8, 10, 15, 20):
        free, times = (cells[n]["fd"] for cells in (digits[FREE], digits[RECOMMENDED]))
        assert free > 1.1 * times if n == 8 else free == pytest.approx(times, rel=0.04)
    assert cosine[RECOMMENDED][5]["fd"] < 0.95 * cosine[FREE][5]["fd"]
    assert all(cosine[FREE][n]["fd"] < cosine[RECOMMENDED][n]["fd"] for n in (8, 10, 15, 20))


SECOND_ORDER = (
    RECOMMENDED,
    ADAMS,
    "Adams 2, log-SNR",
    MIDPOINT,
    LINSPACE,
    "UniPC, exponential",
    "UniPC, Karras",
    "dpmpp_2m, exponential",
    "dpmpp_2m, Karras",
    "vAB, rectified",
)
