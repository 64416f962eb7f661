"""SDEs are values; what they refuse."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdescore as ss
from tests.helpers.sdes import ID, ONE
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


BAD_PARAMETERS = [
    (ss.VESDE, {"sigma_min": 0.0}, "sigma_min=0.0"),
    (ss.VESDE, {"sigma_min": -1.0}, "sigma_min=-1.0"),
    (ss.VESDE, {"sigma_min": 2.0, "sigma_max": 2.0}, "sigma_min=2.0"),
    (ss.VESDE, {"sigma_max": math.inf}, "sigma_max=inf"),
    (ss.VESDE, {"sigma_min": math.nan}, "sigma_min=nan"),
    (ss.VESDE, {"sigma_min": "0.1"}, "sigma_min='0.1', which is no Python number"),
    (ss.EDMSDE, {"sigma_max": torch.tensor(9.0)}, "tensor(9.), which is no Python number; use"),
    (ss.VPSDE, {"beta_min": -0.1}, "beta_min=-0.1"),
    (ss.VPSDE, {"beta_min": 30.0}, "beta_min=30.0"),
    (ss.VPSDE, {"beta_min": 0.0, "beta_max": 0.0}, "beta_max=0.0"),
    (ss.VPSDE, {"beta_max": math.nan}, "beta_max=nan"),
    (ss.VPSDE, {"beta_max": None}, "beta_max=None"),
    (ss.SubVPSDE, {"beta_min": -0.1}, "beta_min=-0.1"),
    (ss.SubVPSDE, {"beta_max": math.inf}, "beta_max=inf"),
    (ss.CosineVPSDE, {"offset": 0.0}, "offset=0.0"),
    (ss.CosineVPSDE, {"T": 1.0}, "T=1.0"),
    (ss.CosineVPSDE, {"T": 1e-3}, "T=0.001"),
    (ss.CosineVPSDE, {"offset": math.nan}, "offset=nan"),
    (ss.EDMSDE, {"sigma_min": 0.0}, "sigma_min=0.0"),
    (ss.EDMSDE, {"sigma_min": 3.0, "sigma_max": 1.0}, "sigma_min=3.0"),
    (ss.EDMSDE, {"sigma_max": math.inf}, "sigma_max=inf"),
    (ss.RectifiedFlowSDE, {"T": 1.0}, "T=1.0"),
    (ss.RectifiedFlowSDE, {"T": 0.0}, "T=0.0"),
    (ss.RectifiedFlowSDE, {"T": math.nan}, "T=nan"),
]


@pytest.mark.parametrize(("kind", "parameters", "got"), BAD_PARAMETERS)
def test_bad_parameters_are_schedule_errors(kind: type, parameters: dict, got: str) -> None:
    with pytest.raises(ss.errors.ScheduleError, match="expected") as caught:
        kind(**parameters)
    assert got in str(caught.value)


def test_misspelt_and_positional_parameters_are_type_errors() -> None:
    with pytest.raises(TypeError):
        ss.VPSDE(beta_mn=0.1)
    with pytest.raises(TypeError):
        ss.VPSDE(0.1, 20.0)


BAD_MARGINALS = [
    (lambda t: -ONE(t), ID, {}, r"alpha\(t\) > 0"),
    (lambda t: 1 - 2 * t, ID, {}, r"alpha\(t\) > 0"),
    (ONE, lambda t: t - 0.5, {}, r"sigma\(t\) >= 0"),
    (ONE, ONE, {}, "rise"),
    (ONE, lambda t: 1 - t, {}, "rise"),
    (ONE, lambda t: t * math.nan, {}, "nan"),
    (lambda t: 1.0, ID, {}, "float"),
    (lambda t: torch.ones(3), ID, {}, "elementwise"),
    (ONE, ID, {"T": 0.0}, "T=0.0"),
    (ONE, ID, {"T": math.inf}, "T=inf"),
    (ONE, ID, {"T": 1.0, "t_min": 1.0}, "t_min=1.0"),
    (ONE, ID, {"t_min": -0.1}, "t_min=-0.1"),
]


@pytest.mark.parametrize(("alpha", "sigma", "options", "message"), BAD_MARGINALS)
def test_bad_marginals_are_schedule_errors(alpha, sigma, options: dict, message: str) -> None:
    with pytest.raises(ss.errors.ScheduleError, match=message):
        ss.LinearSDE.from_marginal(alpha, sigma, **options)


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
