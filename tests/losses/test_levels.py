"""Objectives at noise levels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdescore as ss
from sdescore.checks import part_name
from sdescore.losses import (
    Loss,
    at_levels,
    explicit_loss,
    finite_difference_loss,
    implicit_loss,
    sliced_loss,
)
from tests.helpers.levels import level_model
from tests.helpers.objectives import (
    F64,
    X,
    draw,
    true_score,
    untouched,
)


def test_with_a_time_an_objective_is_that_of_noised_data() -> None:
    """By its own call, and lifted by at_levels, against noise and probes drawn by hand."""
    model, x0 = level_model(), draw(6, 2, dtype=torch.float32)
    t = torch.linspace(0.1, 1.0, 6, dtype=F64)
    label = torch.tensor([0, 1, 2, 1, 0, 2])
    for weighting, power in (("sigma2", 2), (lambda sde, t: sde.marginal(t)[1] ** 3, 3)):
        direct = functools.partial(sliced_loss, weighting=weighting, probes=2)
        lifted = at_levels(sliced_loss, weighting, options={"probes": 2})
        got, same = (
            loss(model, x0, t=t, label=label, generator=torch.Generator().manual_seed(1))
            for loss in (direct, lifted)
        )
        assert torch.equal(got.per_sample, same.per_sample)
        generator = torch.Generator().manual_seed(1)
        alpha, sigma = model.sde.marginal(t)
        noise = torch.randn(6, 2, generator=generator)
        x_t = (alpha[:, None] * x0 + sigma[:, None] * noise).float()
        v = torch.randn(2, 6, 2, generator=generator)
        by_hand = sliced_loss(lambda x: model(x, t, label), x_t, probes=v)
        expected = sigma.float() ** power * by_hand.per_sample
        torch.testing.assert_close(got.per_sample, expected, rtol=1e-4, atol=1e-5)
    unlabelled = direct(model, x0, t=t, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(unlabelled.per_sample, got.per_sample)
    # An energy with labels: differences see it, and them, through its log density alone.
    energy = level_model(kind="energy")
    value, bare, zero = (
        finite_difference_loss(
            energy, x0, t=t, label=y, generator=torch.Generator().manual_seed(1)
        ).per_sample
        for y in (label, None, torch.zeros_like(label))
    )
    torch.testing.assert_close(zero, bare)
    torch.testing.assert_close(value[label == 0], bare[label == 0])
    assert not torch.isclose(value[label > 0], bare[label > 0]).any()
    called = []
    energy.forward = lambda *given: called.append(given)  # type: ignore[method-assign]
    finite_difference_loss(energy, x0, t=t, label=label)
    assert not called
    got = explicit_loss(
        model,
        x0,
        lambda x, t: 0 * x,
        t=t,
        label=label,
        generator=torch.Generator().manual_seed(1),
    )
    s = model(x_t, t, label)
    torch.testing.assert_close(got.per_sample, 0.5 * sigma.float() ** 2 * s.square().sum(1))


@pytest.mark.parametrize(("t", "wanted"), [(0.0, -0.362), (1.0, -0.5)])
@pytest.mark.parametrize("kind", ["energy", "score"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_step_of_differences_follows_the_level(
    t: float, wanted: float, kind: str, dtype: torch.dtype
) -> None:
    """Two points 2σ_min from 0, where a step of 0.03 is three σ_min and one of 0.005 half."""
    sde = ss.VESDE(sigma_min=0.01, sigma_max=50.0)
    exact = ss.EmpiricalScore(torch.tensor([[-0.02], [0.02]], dtype=F64), sde)

    class Score:
        def __init__(self) -> None:
            self.sde = sde

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            return exact(x, t)

    score = exact if kind == "energy" else Score()
    x0 = torch.tensor([[-0.02], [0.02]], dtype=dtype).repeat(10_000, 1)
    times = torch.full((20_000,), t)
    signs = torch.ones(1, *x0.shape, dtype=dtype)

    def value(objective: Callable[..., Loss], **options: Any) -> float:
        seeded = [torch.Generator().manual_seed(0) for _ in range(2)]
        direct = objective(score, x0, t=times, generator=seeded[0], **options)
        lifted = at_levels(objective, options=options)(score, x0, t=times, generator=seeded[1])
        assert torch.equal(direct.per_sample, lifted.per_sample)
        return direct.mean.item()

    implicit = value(implicit_loss)
    assert implicit == pytest.approx(wanted, abs=0.02)
    assert value(finite_difference_loss, probes=signs) == pytest.approx(implicit, rel=2e-3)
    # One step for all levels, and of a partial, is the user's own affair.
    one = {"energy": 0.03, "score": 0.005}[kind]
    fixed = value(finite_difference_loss, probes=signs, epsilon=one)
    assert fixed == value(functools.partial(finite_difference_loss, epsilon=one), probes=signs)
    if t == 0:
        assert abs(fixed - implicit) > {"energy": 0.2, "score": 0.02}[kind]


def test_labels_are_for_scores_that_take_them() -> None:
    """Neither an exact score nor a network without labels, in any loss that hands them on."""
    sde, t, label = ss.VPSDE(), torch.full((3,), 0.5), torch.zeros(3, dtype=torch.int64)
    exact = ss.GaussianScore(torch.zeros(2), 1.0, sde)
    losses = [
        lambda score, label: at_levels(sliced_loss)(score, X, t=t, label=label),
        lambda score, label: finite_difference_loss(score, X, t=t, label=label),
        lambda score, label: ss.denoising_loss(score, X, t=t, label=label),
    ]
    for loss in losses:
        assert loss(exact, None).mean.isfinite()
        for score in (exact, ss.ScoreModel(nn.Bilinear(2, 1, 2), sde, prediction="epsilon")):
            with pytest.raises(ss.errors.IncompatibleError, match="leave the label out"):
                loss(score, label)
        for bad in (label[:2], label.float(), [0, 0, 0], label[:, None]):
            with pytest.raises(ss.errors.ShapeError, match="one label per sample"):
                loss(level_model(), bad)


class Guided:
    """A score that takes labels, and its log density, which may or may not."""

    sde = ss.VPSDE()

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return -x * (1 + label[:, None])


def test_a_labelled_score_has_a_density_if_it_had_one() -> None:
    class Whole(Guided):
        def log_density(self, x: Tensor, t: Tensor) -> Tensor:
            return -0.5 * x.square().sum(1)

    t, label = torch.full((3,), 0.5), torch.tensor([0, 1, 2])
    got, wanted = (
        loss(
            Guided(),
            X,
            t=t,
            label=label,
            generator=torch.Generator().manual_seed(0),
            probes=torch.ones(1, 3, 2),
        ).per_sample
        for loss in (finite_difference_loss, sliced_loss)
    )
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ss.errors.IncompatibleError, match="leave the label out"):
        finite_difference_loss(Whole(), X, t=t, label=label)


def test_times_and_generators_that_do_not_fit_are_refused_at_every_level() -> None:
    model, lifted = level_model(), at_levels(sliced_loss)
    model.forward = untouched  # type: ignore[method-assign]
    for t in (torch.full((4,), 0.5), torch.full((3, 1), 0.5)):
        with pytest.raises(ss.errors.ShapeError, match="one time"):
            lifted(model, X, t=t)
    for t in (torch.full((3,), 2.0), torch.full((3,), math.nan)):
        with pytest.raises(ss.errors.TimeError, match="expected"):
            lifted(model, X, t=t)
    calls: list[Callable[[Any], object]] = [
        lambda g: lifted(model, X, t=0.5, generator=g),
        lambda g: ss.denoising_loss(model, X, generator=g),
        lambda g: ss.denoising_loss(model, X, t=0.5, noise=X, generator=g),
        lambda g: ss.losses.UniformTimes().sample(model.sde, 3, g),
    ]
    for call in calls:
        with pytest.raises(ss.errors.IncompatibleError, match="expected generator"):
            call(3)


def test_an_objective_of_one_s_own_is_lifted_too() -> None:
    """``generator`` is handed to one that has it, with or without a default."""
    seen: list[torch.Generator] = []

    def draws(score: Any, x: Tensor, *, generator: torch.Generator) -> Loss:
        seen.append(generator)
        return implicit_loss(score, x)

    def plain(score: Any, x: Tensor) -> Loss:
        return implicit_loss(score, x)

    model, t = level_model(), torch.full((3,), 0.5)
    values = [
        at_levels(o)(model, X, t=t, generator=torch.Generator().manual_seed(2)).mean
        for o in (implicit_loss, draws, plain)
    ]
    assert values[0] == values[1] == values[2] and len(seen) == 1


def test_at_levels_has_a_name_without_an_address() -> None:
    lifted = at_levels(
        sliced_loss, ss.losses.sigma2, options={"probes": 2, "probe_distribution": "sphere"}
    )
    assert repr(lifted) == (
        "at_levels(sliced_loss, sigma2, options={'probe_distribution': 'sphere', 'probes': 2})"
    )
    assert lifted == at_levels(
        sliced_loss, ss.losses.sigma2, options={"probe_distribution": "sphere", "probes": 2}
    )
    partial = functools.partial(lifted, 3, label=None)
    assert part_name(partial) == f"{lifted!r}(3, label=None)"
    for score in (true_score, torch.zeros(2), lambda x: x):
        assert "0x" not in repr(at_levels(explicit_loss, options={"target": score}))
    assert "sigma2" in repr(at_levels(implicit_loss))
