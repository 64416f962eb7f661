"""The benchmark on networks: its judge, its models, its samplers."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.trained import VARIANCE, ExactNet, normal

# diffusers 0.42 on NumPy 2.


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
    distribution = models.digit_mixture().score(first.model.sde)
    torch.testing.assert_close(first.exact(x, t).flatten(1), distribution(x.flatten(1), t))
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


@pytest.mark.slow
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
    assert [options for _, _, options in given] == [{}, {"score_error": 0.0}, {"fit_weights": True}]


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
