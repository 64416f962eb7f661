"""What a predictor and a corrector have in common: nothing is declared that a tableau says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import sdescore as ss

pytestmark = pytest.mark.fast

SDE = ss.VPSDE()


class TwoStages(ss.Predictor):
    """The midpoint method."""

    order = 2

    def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
        return ss.tableau.runge_kutta(sde, times[:-1], times[1:], (0, 0.5), ((0.5,), (0.0, 1.0)))


def test_cost_is_read_off_the_tableau() -> None:
    assert (TwoStages().evaluations, TwoStages().noises, TwoStages().stochastic) == (2, 0, False)


@pytest.mark.parametrize("base", [ss.Predictor, TwoStages, ss.DDIM])
@pytest.mark.parametrize("name", ["evaluations", "noises", "stochastic"])
def test_cost_cannot_be_declared_beside_a_tableau(base: type, name: str) -> None:
    """A two-stage method that declared one evaluation was accepted."""
    with pytest.raises(ss.errors.IncompatibleError, match=name):
        type("Boastful", (base,), {name: 1, "order": 7, "tableau": TwoStages.tableau})
    if base is not ss.Predictor:
        with pytest.raises(ss.errors.IncompatibleError, match=name):
            type("Boastful", (base,), {name: 1})


@dataclass(frozen=True)
class ByHand(ss.Predictor):
    """Half a step, twice: two evaluations at one time, and no noise."""

    order = 1
    evaluations = 2
    noises = 0

    def step(self, sde, x, score, t, s, z):  # type: ignore[no-untyped-def]
        g2 = sde.rates(t)[1].item()
        for _ in range(2):
            x = x + 0.25 * g2 * (t - s) * score(x)
        return x


def test_a_rule_without_a_tableau_says_what_it_costs() -> None:
    calls = 0

    def score(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -x

    assert not ByHand().is_affine(SDE)
    sampler = ss.PredictorCorrector(SDE, predictor=ByHand(), steps=4, denoise=False)
    sampler.sample(score, (3, 2))
    assert calls == sampler.evaluations == 8
    assert len(sampler.program.spans) == 1
    with pytest.raises(ss.errors.IncompatibleError, match=r"tableau\(\), or step"):
        ByHand().tableau(SDE, torch.tensor([1.0, 0.5], dtype=torch.float64))


def test_a_corrector_with_numbers_for_some_parameters_alone() -> None:
    """Its own cost where no tableau describes it."""

    @dataclass(frozen=True)
    class Sometimes(ss.Langevin):
        exact: bool = True

        @property
        def evaluations(self) -> int:
            return super().evaluations if self.exact else 3

        def is_affine(self, sde: ss.SDE) -> bool:
            return self.exact and super().is_affine(sde)

        def correct(
            self, sde: ss.SDE, x: Tensor, score: ss.ScoreAt, t: float, noises: Iterator[Tensor]
        ) -> Tensor:
            return x + 0 * next(noises) + 0 * (score(x) + score(x) + score(x))

    assert [Sometimes(exact=exact).evaluations for exact in (True, False)] == [1, 3]
    sampler = ss.PredictorCorrector(
        SDE, predictor=ss.ReverseDiffusion(), corrector=Sometimes(exact=False), steps=3
    )
    assert sampler.evaluations == 3 + 2 * 3


def test_a_method_made_for_its_grid_costs_what_its_tableau_says() -> None:
    weights = ((1.0,), (1.5, -0.5), (1.0,))
    assert ss.predictors.Multistep(weights).grid_times == 3
    assert ss.predictors.Multistep(weights).evaluations == 1
    assert ss.DDIM().grid_times is None
