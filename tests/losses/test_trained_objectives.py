"""Objectives in the training loop."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.losses import (
    Loss,
    at_levels,
    finite_difference_loss,
    implicit_loss,
    sliced_loss,
)
from sdescore.losses.times import ImportanceTimes
from tests.helpers.levels import level_model
from tests.helpers.objectives import (
    F64,
    draw,
    untouched,
)

DATA = 0.5 * draw(32, 2, dtype=torch.float32) + 1.0


def run(
    model: ss.ScoreModel, path: Path | None = None, **options: Any
) -> ss.training.TrainingResult:
    settings: dict[str, Any] = {"steps": 8, "batch_size": 8, "warmup": 2, "progress": False}
    return ss.train(model, DATA, **(settings | {"path": path} | options))


@pytest.mark.parametrize("kind", ["mlp", "energy"])
@pytest.mark.parametrize(
    "objective",
    [
        implicit_loss,
        functools.partial(sliced_loss, reduced_variance=True),
        functools.partial(finite_difference_loss, weighting="likelihood"),
        at_levels(implicit_loss),
    ],
    ids=["implicit", "sliced", "differences", "lifted"],
)
def test_a_resumed_run_ends_in_the_same_bits(kind: str, objective: Any, tmp_path: Path) -> None:
    whole, halves = level_model(kind=kind), level_model(kind=kind)
    one = run(whole, objective=objective, schedule="constant")
    file = tmp_path / "m.safetensors"
    first = run(halves, file, objective=objective, steps=3, schedule="constant")
    again = level_model(seed=1, kind=kind)
    second = run(again, file, objective=objective, resume=True, schedule="constant")
    assert one.losses == first.losses + second.losses and len(second.losses) == 5
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_objective_is_another_run(tmp_path: Path) -> None:
    file, one = tmp_path / "m.safetensors", sliced_loss
    run(level_model(), file, objective=one, steps=2)
    others = (None, functools.partial(one, weighting="likelihood"), implicit_loss, at_levels(one))
    for other in others:
        with pytest.raises(ss.errors.CheckpointError, match="objective"):
            run(level_model(), file, objective=other, resume=True)
    plain = tmp_path / "plain.safetensors"
    run(level_model(), plain, steps=2, schedule="constant")
    with pytest.raises(ss.errors.CheckpointError, match="objective"):
        run(level_model(), plain, objective=one, resume=True)
    run(level_model(), plain, resume=True, schedule="constant")


def test_the_loop_calls_the_objective_by_its_names() -> None:
    """Times of the loop's distribution, its generator and its labels; importance weights are
    applied."""
    seen: list[dict[str, Any]] = []

    def objective(
        model: ss.ScoreModel,
        x0: Tensor,
        t: Tensor,
        generator: torch.Generator,
        label: Tensor | None,
    ) -> Loss:
        seen.append({"x0": x0, "t": t, "label": label})
        return ss.denoising_loss(model, x0, t=t, label=label, generator=generator)

    labels = torch.arange(32) % 2
    ours = run(level_model(), objective=objective, labels=labels)
    theirs = run(level_model(), labels=labels)
    assert ours.losses == theirs.losses
    assert seen[0]["label"].shape == (8,) and seen[0]["t"].dtype == F64
    for times in (ImportanceTimes(), ImportanceTimes(stratified=True)):
        ours = run(level_model(), objective=objective, times=times, clip=None)
        theirs = run(level_model(), times=times, clip=None)
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-5)
    assert seen[-1]["label"] is None


def test_objectives_the_loop_cannot_use_are_refused() -> None:
    touched = level_model()
    touched.forward = untouched  # type: ignore[method-assign]
    for bad in (3, "sliced", ss.MLP, max, lambda model, x0, t: None):
        with pytest.raises(ss.errors.IncompatibleError, match="objective="):
            run(touched, objective=bad)
    with pytest.raises(ss.errors.IncompatibleError, match="at_levels"):
        run(touched, objective=lambda score, x: None)
    value = torch.zeros(8, requires_grad=True)
    for detached in (
        Loss(torch.zeros(8), torch.zeros(())),
        Loss(value, value.mean().detach()),
    ):
        with pytest.raises(ss.errors.IncompatibleError, match="without a gradient"):
            run(touched, objective=lambda *args, bad=detached, **named: bad)
    with pytest.raises(ss.errors.IncompatibleError, match="no weighting="):
        run(touched, objective=sliced_loss, weighting="likelihood")
    for bad_loss in (
        torch.zeros(()),
        (torch.zeros(8), torch.zeros(())),
        Loss(torch.zeros(3), torch.zeros(())),
        Loss(torch.zeros(8), torch.zeros(8)),
        Loss(None, None),
    ):
        with pytest.raises(ss.errors.IncompatibleError, match="to return a Loss"):
            run(touched, objective=lambda model, x0, t, generator, label, bad=bad_loss: bad)


def test_training_by_implicit_score_matching_finds_a_gaussian() -> None:
    """No noise is ever compared: the learned score at t is −(x − αm)/(α²s² + σ²).

    At 8 other seeds the errors were 0.7 to 3.2 %; half or twice the trace makes 25 % and more.
    """
    torch.manual_seed(0)
    model = ss.ScoreModel(
        ss.MLP(2, hidden=16, depth=1), ss.VPSDE(), time_input="log_snr", prediction="epsilon"
    )
    data = 1.0 + 0.5 * draw(8000, 2, seed=1, dtype=torch.float32)
    options = {"steps": 300, "batch_size": 256, "lr": 1e-2, "ema_decay": 0.985}
    options |= {"progress": False, "standardize": False}
    trained = ss.train(model, data, objective=implicit_loss, **options).model
    exact = ss.GaussianScore(torch.ones(2), 0.25, ss.VPSDE())
    for t in (0.1, 0.4):
        alpha, sigma = (c.item() for c in ss.VPSDE().marginal(t))
        x = alpha * (1 + 0.5 * draw(500, 2, seed=2, dtype=torch.float32))
        x = x + sigma * draw(500, 2, seed=3, dtype=torch.float32)
        with torch.no_grad():
            wanted = exact(x, t)
            error = (trained(x, t) - wanted).square().mean() / wanted.square().mean()
        assert error < 0.08


def test_the_flow_takes_the_sphere_too() -> None:
    """∇s = −I: any probe of squared length d gives the trace without error.

    Fewer than 21 estimates that coincide would not say so: their standard error is NaN.
    """
    flow = ss.ProbabilityFlow(ss.VPSDE(), t_min=0.1)
    x = draw(4, 3)
    exact, sphere = (
        flow.log_likelihood(
            lambda x, t: -x, x, divergence=kind, probe_distribution="sphere", probes=21
        )
        for kind in ("exact", "hutchinson")
    )
    torch.testing.assert_close(exact.log_prob, sphere.log_prob)
    assert sphere.standard_error.max() < 1e-6
