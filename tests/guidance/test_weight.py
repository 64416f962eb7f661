"""The weight of guidance: its two names, schedules, intervals, and a weight of each sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sdescore as ss

F64 = torch.float64
SDES = [ss.VPSDE(), ss.VESDE(sigma_min=0.01, sigma_max=50.0)]
VP = SDES[0]


class Counted(nn.Module):
    """A Gaussian's score that notes how many samples each call has."""

    def __init__(self, mean: float, variance: float, sde: ss.LinearSDE) -> None:
        super().__init__()
        self.exact, self.sde = ss.GaussianScore([mean, 0.0], variance, sde), sde
        self.calls: list[int] = []

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls.append(len(x))
        return self.exact(x, t) + (0 if label is None else 0.3 * label.to(x)[:, None])


def parts(sde: ss.LinearSDE = VP) -> tuple[Counted, Counted]:
    return Counted(1.5, 0.3, sde), Counted(-0.5, 1.0, sde)


def noise(n: int = 6) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(3), dtype=F64)


def mixed(one: Counted, zero: Counted, x: Tensor, t: Tensor, omega: Any) -> Tensor:
    """Ho & Salimans' eq. 6 in its own letters, ``(1 + w) s₁ − w s₀``."""
    w = torch.as_tensor(omega, dtype=x.dtype).reshape(-1, 1) - 1
    return (1 + w) * one.exact(x, t) - w * zero.exact(x, t)


@pytest.mark.parametrize("omega", [0.0, 0.4, 1.0, 3.5])
def test_the_two_conventions(omega: float) -> None:
    one, zero = parts()
    x, t = noise(), torch.tensor(0.3, dtype=F64)
    expected = mixed(one, zero, x, t, omega)
    for options in ({"omega": omega}, {"w": omega - 1}):
        torch.testing.assert_close(ss.classifier_free(one, zero, **options)(x, t), expected)
    torch.testing.assert_close(ss.classifier_free(one, zero, omega)(x, t), expected)
    zero.calls.clear()
    ss.classifier_free(one, zero, w=0)(x, t)
    assert not zero.calls, "the conditional score alone needs no other"


@pytest.mark.parametrize("sde", SDES, ids=["vp", "ve"])
def test_a_schedule_by_noise_levels_is_linear_in_their_logarithm(sde: ss.LinearSDE) -> None:
    """By numpy's interpolation; the table's levels stand in any order."""
    levels, values = [0.05, 0.5, 4.0], [1.0, 4.0, 2.0]
    table = dict(reversed([*zip(levels, values, strict=True)]))
    one, zero = parts(sde)
    x, t = noise(50), torch.linspace(0.005, 0.98, 50, dtype=F64)
    alpha, sigma = sde.marginal(t)
    omega = np.interp(np.log(sigma / alpha), np.log(levels), values)
    assert len(set(omega.round(6))) > 20 and {1.0, 2.0} <= set(omega)
    expected = mixed(one, zero, x, t, omega)
    zero.calls.clear()
    torch.testing.assert_close(ss.classifier_free(one, zero, table)(x, t), expected)
    assert zero.calls == [int((omega != 1).sum())]
    less = {level: value - 1 for level, value in table.items()}
    torch.testing.assert_close(ss.classifier_free(one, zero, w=less)(x, t), expected)


def test_a_schedule_by_time_is_asked_for_all_times_or_one() -> None:
    one, zero = parts()
    x, times = noise(), torch.linspace(0.1, 0.9, 6, dtype=F64)
    guided = ss.classifier_free(one, zero, lambda t: 1 + 2 * t**2)
    for t in (times, times[2], 0.3):
        values = torch.as_tensor(t, dtype=F64)
        expected = mixed(one, zero, x, values, 1 + 2 * values**2)
        torch.testing.assert_close(guided(x, t), expected)
    torch.testing.assert_close(
        ss.classifier_free(one, zero, w=lambda t: 2.5)(x, times), mixed(one, zero, x, times, 3.5)
    )


def test_an_interval_holds_its_upper_end_alone() -> None:
    """On EDM's SDE the noise ratio is t, exactly."""
    sde, x = ss.EDMSDE(), noise(3)
    one, zero = (ss.GaussianScore([m, 0.0], 1.0, sde) for m in (1.0, -1.0))
    guided = ss.classifier_free(one, zero, 3.0, interval=(0.5, 2.0))
    t = torch.tensor([0.5, 1.0, 2.0], dtype=F64)
    moved = (guided(x, t) - one(x, t)).abs().sum(1)
    assert moved[0] == 0 and (moved[1:] > 0.1).all()


@pytest.mark.parametrize("sde", SDES, ids=["vp", "ve"])
def test_outside_an_interval_the_conditional_score_is_alone(sde: ss.LinearSDE) -> None:
    low, high = 0.1, 2.0
    one, zero = parts(sde)
    guided = ss.classifier_free(one, zero, 3.0, interval=(low, high))
    x, t = noise(40), torch.linspace(0.005, 0.98, 40, dtype=F64)
    alpha, sigma = sde.marginal(t)
    inside = (sigma / alpha > low) & (sigma / alpha <= high)
    assert 5 < inside.sum() < 35
    expected = torch.where(inside[:, None], mixed(one, zero, x, t, 3.0), one.exact(x, t))
    torch.testing.assert_close(guided(x, t), expected)
    assert one.calls == [40] and zero.calls == [int(inside.sum())]
    sampler = ss.PredictorCorrector(sde, steps=20)
    ratio = sde.noise_ratio(sampler.times)
    needed = int(((ratio > low) & (ratio <= high)).sum())
    one.calls.clear()
    zero.calls.clear()
    x = sampler.sample(guided, (3, 2))
    assert 2 < needed < 18 and one.calls[2:] == [3] * 20 and zero.calls[2:] == [3] * needed
    again = ss.classifier_free(one, zero, 3.0, interval=(low, math.inf))
    assert not torch.equal(x, sampler.sample(again, (3, 2)))


def test_an_interval_saves_rows_of_the_shared_call() -> None:
    """One network for both scores: the rows outside are not doubled."""
    net, sizes = ss.MLP(2, hidden=8, classes=3), []
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    model = ss.ScoreModel(net, VP, prediction="epsilon")
    guided = ss.classifier_free(model, model, 2.0, interval=(0.3, 3.0))
    x, t, label = noise(6).float(), torch.linspace(0.01, 1, 6), torch.tensor([0, 1, 2, 0, 1, 2])
    ratio = VP.noise_ratio(t)
    inside = (ratio > 0.3) & (ratio <= 3.0)
    expected = model(x, t, label)
    other = 2 * expected - model(x, t, torch.full((6,), 3))
    sizes.clear()
    found = guided(x, t, label)
    assert sizes == [6 + int(inside.sum())] and 0 < inside.sum() < 6
    expected = torch.where(inside[:, None], other, expected)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for one in (0.001, 0.2):
        sizes.clear()
        guided(x, torch.tensor(one), label)
        assert sizes == [12 if 0.3 < VP.noise_ratio(one) <= 3.0 else 6]


WEIGHTS = torch.tensor([1.0, 4.0, 2.5, 0.0, 1.5, 3.0, 0.2])
SAMPLERS: dict[str, Any] = {
    "chain": ss.PredictorCorrector(VP, predictor=ss.Ancestral(), steps=8),
    "corrector": ss.PredictorCorrector(VP, corrector=ss.Langevin(snr=0.1), steps=5),
    "adaptive": ss.AdaptiveSampler(VP, eta=0.3, rtol=0.3, atol=0.3),
    "flow": ss.ProbabilityFlow(VP, method="rk4", steps=6),
}


@pytest.mark.parametrize("interval", [None, (0.2, 3.0)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_each_sample_has_its_own_weight(name: str, interval: Any) -> None:
    """In any chunk, any range, and where samples finish one by one: as if it were alone with its
    weight as a number. Weights of the wrong row differ by far more than rounding."""
    (one, zero), sampler = parts(), SAMPLERS[name]
    guided = ss.classifier_free(one, zero, "omega", interval=interval)
    label, shape = {"omega": WEIGHTS}, (7, 2)
    x = sampler.sample(guided, shape, label=label, seed=5)
    for chunk in (1, 3):
        torch.testing.assert_close(
            sampler.sample(guided, shape, label=label, seed=5, max_batch=chunk), x
        )
    part = sampler.sample(guided, shape, label=label, seed=5, samples=range(2, 6))
    torch.testing.assert_close(part, x[2:6])
    for i, weight in enumerate(WEIGHTS.tolist()):
        own = ss.classifier_free(one, zero, weight, interval=interval)
        alone = sampler.sample(own, shape, seed=5, samples=range(i, i + 1))
        torch.testing.assert_close(x[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_the_weights_are_no_part_of_the_scores_label() -> None:
    """A dict of conditions goes on without them, and a class by label_part."""
    seen: list[Any] = []

    def score(x: Tensor, t: Tensor, label: Any = None) -> Tensor:
        seen.append(label)
        return -x if label is None else label["shift"] - x

    sampler = ss.PredictorCorrector(VP, steps=2)
    label = {"shift": torch.ones(3, 2), "w": torch.tensor([0.0, 1.0, 2.0])}
    sampler.sample(ss.classifier_free(score, score, w="w"), (3, 2), label=label)
    assert {None if one is None else tuple(one) for one in seen} == {None, ("shift",)}
    model = ss.ScoreModel(ss.MLP(2, hidden=4, classes=3), VP)
    of_class = ss.guidance.label_part(model, "class")
    guided = ss.classifier_free(of_class, model, w="w")
    classes = torch.tensor([0, 1, 2])
    x = sampler.sample(guided, (3, 2), label={"class": classes, "w": torch.full((3,), 1.5)})
    expected = sampler.sample(ss.classifier_free(model, model, 2.5), (3, 2), label=classes)
    torch.testing.assert_close(x, expected)


def test_a_schedule_is_asked_before_the_first_call() -> None:
    """At the times of the sampler: not finite, or of another number, is refused there."""
    one, zero = parts()
    sampler = ss.PredictorCorrector(VP, steps=5)
    for schedule, error in (
        (lambda t: 1 / (t - sampler.times[2]), ss.errors.ParameterError),
        (lambda t: torch.ones(3), ss.errors.ShapeError),
    ):
        for run in (sampler, ss.AdaptiveSampler(VP)):
            if run is sampler or error is ss.errors.ShapeError:
                with pytest.raises(error, match="omega"):
                    run.sample(ss.classifier_free(one, zero, schedule), (4, 2))
    assert not one.calls and not zero.calls


def test_a_graph_has_both_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """While torch compiles, an interval chooses by numbers and not by calls."""
    one, zero = parts()
    guided = ss.classifier_free(one, zero, 3.0, interval=(0.2, 1.0))
    x, t = noise(), torch.linspace(0.02, 1, 6)
    expected = guided(x, t)
    monkeypatch.setattr("sdescore.guidance.weight.is_compiling", lambda: True)
    torch.testing.assert_close(guided(x, t), expected)
    assert zero.calls[0] < zero.calls[1] == 6


def test_the_repr_says_the_weight() -> None:
    one, zero = parts()
    shown = repr(ss.classifier_free(one, zero, w=2.0, interval=(0.1, 3), rescale=0.5))
    assert "w=2.0, interval=(0.1, 3.0), rescale=0.5, batched=True" in shown
    assert " at 0x" not in ss.classifier_free(one, zero, lambda t: t).extra_repr()
