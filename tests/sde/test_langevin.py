"""Langevin's equation as an SDE."""

from __future__ import annotations

import math

import pytest
import torch

import sdescore as ss
from sdescore.sde.langevin import LangevinSDE
from tests.helpers.densities import (
    F64,
    double_well,
)


def test_langevin_is_score_and_temperature() -> None:
    sde = LangevinSDE(double_well, temperature=0.32, T=3.0)
    x = torch.randn(4, 2, 3)
    assert torch.equal(sde.drift(x, 0.5), x - x**3)
    assert sde.drift(x.double(), torch.zeros(4)).dtype == F64
    assert sde.diffusion(0.5).item() == pytest.approx(0.8)
    assert sde.diffusion(torch.zeros(4)).shape == (4,)
    assert sde.T == 3.0
    assert sde == LangevinSDE(double_well, temperature=0.32, T=3.0)
    assert hash(sde) == hash(LangevinSDE(double_well, temperature=0.32, T=3.0))
    reverse = sde.reverse(lambda x, t: (x - x**3) / 0.32)  # in equilibrium: the drift turns round
    assert torch.allclose(reverse.drift(x, 0.5), x**3 - x, atol=1e-5)


def test_langevin_without_temperature_is_the_gradient_flow() -> None:
    cold = LangevinSDE(torch.neg, temperature=0.0, T=1.0)
    x = ss.simulate(cold, torch.ones(3, 2, dtype=F64), steps=1000)
    assert torch.allclose(x, torch.full_like(x, math.exp(-1)), atol=1e-3)


@pytest.mark.parametrize(
    ("error", "given"),
    [
        (ss.errors.IncompatibleError, {"score": 3.0}),
        (ss.errors.IncompatibleError, {"score": ss.EnergyModel}),
        (
            ss.errors.IncompatibleError,
            {"score": ss.ScoreModel(torch.nn.Identity(), ss.VPSDE(), prediction="epsilon")},
        ),
        (ss.errors.IncompatibleError, {"score": ss.GaussianScore([0.0], 1.0, ss.VPSDE())}),
        (ss.errors.ScheduleError, {"temperature": torch.tensor(1.0)}),
        (ss.errors.ScheduleError, {"temperature": -0.1}),
        (ss.errors.ScheduleError, {"temperature": math.inf}),
        (ss.errors.ScheduleError, {"temperature": "hot"}),
        (ss.errors.ScheduleError, {"T": 0.0}),
        (ss.errors.ScheduleError, {"T": math.nan}),
    ],
)
def test_bad_langevin_equations_are_refused(
    error: type[Exception], given: dict[str, object]
) -> None:
    score = given.pop("score", torch.neg)
    with pytest.raises(error, match="expected"):
        LangevinSDE(score, **given)
