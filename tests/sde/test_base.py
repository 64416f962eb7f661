"""SDEs are values; what they refuse."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdescore as ss
from tests.helpers.strategies import (
    REPRESENTATIVES,
    continuous_sdes,
    log_uniform,
)

pytestmark = pytest.mark.fast


@given(st.one_of(continuous_sdes(), st.just(REPRESENTATIVES["discrete-vp"])))
def test_frozen_hashable_comparable_and_rebuilt_by_repr(sde: ss.LinearSDE) -> None:
    rebuilt = eval(repr(sde), {type(sde).__name__: type(sde)})
    assert rebuilt == sde and hash(rebuilt) == hash(sde) and rebuilt is not sde
    field = dataclasses.fields(sde)[-1].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(sde, field, 0.5)
    sde.marginal(0.5 * sde.T)
    assert rebuilt == sde and hash(rebuilt) == hash(sde)


def test_different_parameters_and_classes_differ() -> None:
    assert ss.VPSDE() != ss.VPSDE(beta_max=19.0)
    assert ss.VPSDE() != ss.SubVPSDE()
    assert len({ss.VPSDE(), ss.VPSDE(), ss.SubVPSDE(), ss.VESDE()}) == 3


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_bad_times_are_time_errors(name: str) -> None:
    sde = REPRESENTATIVES[name]
    x = torch.ones(2, 3)
    for t in (-1e-3, sde.T * 1.001, math.nan, torch.tensor([0.1, -0.1]), "0.5", None):
        for call in (sde.marginal, sde.rates, sde.log_snr, sde.kernel, sde.diffusion):
            with pytest.raises(ss.errors.TimeError, match="expected"):
                call(t)
        with pytest.raises(ss.errors.TimeError):
            sde.drift(x, t)
        with pytest.raises(ss.errors.TimeError):
            sde.perturb(x, t, x)
    with pytest.raises(ss.errors.TimeError, match=r"T = .*got"):
        sde.marginal(sde.T + 1.0)
    for t in (torch.tensor([0.1, 0.2, 0.3]), torch.full((2, 1), 0.1)):
        with pytest.raises(ss.errors.ShapeError, match="got"):
            sde.perturb(x, t, x)


@given(log_uniform(1e-3, 1.0))
def test_a_user_sde_needs_three_members(rate: float) -> None:
    class Logistic(ss.SDE):
        T = 1.0

        def drift(self, x: torch.Tensor, t: float) -> torch.Tensor:
            return rate * x * (1 - x)

        def diffusion(self, t: float) -> torch.Tensor:
            return torch.tensor(0.3)

    sde = Logistic()
    assert sde.t_min == 0.0
    reverse = sde.reverse(lambda x, t: -x)
    x = torch.full((2, 1), 0.5)
    expected = rate * 0.25 + 0.09 * 0.5
    assert reverse.drift(x, 0.5)[0].item() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(TypeError):
        ss.SDE()
