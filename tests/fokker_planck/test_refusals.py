"""Refusals of the Fokker–Planck room."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.errors import (
    DivergenceError,
    IncompatibleError,
    ParameterError,
    ScheduleError,
    ShapeError,
    TimeError,
)
from sdescore.fokker_planck.solver import FokkerPlanck
from sdescore.sde.langevin import LangevinSDE
from tests.helpers.callers import SETTINGS
from tests.helpers.densities import (
    Wells,
    double_well,
    gaussian,
)
from tests.helpers.refusals import Refusal, each, rows


def broken(name: str, value: object) -> ss.SDE:
    """:class:`Wells` with one method replaced."""
    return type("Broken", (Wells,), {name: lambda self, *_: value})()


FINE = {"times": [0.0, 0.5]}

P0 = torch.ones(10)

BAD_SOLVES = [
    (ParameterError, FINE | {"steps": 0}),
    (ParameterError, FINE | {"steps": True}),
    (ParameterError, FINE | {"steps": 2.0}),
    (ParameterError, FINE | {"tolerance": 0.0}),
    (ParameterError, FINE | {"tolerance": 1.0}),
    (ParameterError, FINE | {"tolerance": math.nan}),
    (ParameterError, FINE | {"max_wall_mass": 0.0}),
    (ParameterError, FINE | {"max_wall_mass": 1.1}),
    (ParameterError, FINE | {"max_products": 0}),
    (ParameterError, FINE | {"max_products": 1e6}),
    (ScheduleError, {"times": [0.0]}),
    (ScheduleError, {"times": 0.5}),
    (ScheduleError, {"times": "ab"}),
    (ScheduleError, {"times": ["a", 1.0]}),
    (TimeError, {"times": [0.0, 0.5, 0.5]}),
    (TimeError, {"times": [0.5, 0.0]}),
    (TimeError, {"times": [0.0, 1.5]}),
    (TimeError, {"times": [-0.1, 0.5]}),
    (ScheduleError, {"times": [0.0, math.nan]}),
    (TimeError, FINE | {"sde": ss.VPSDE().reverse(lambda x, t: -x)}),
    (ShapeError, FINE | {"p0": P0[:9]}),
    (ShapeError, FINE | {"p0": P0[:, None]}),
    (ShapeError, FINE | {"p0": None}),
    (ShapeError, FINE | {"p0": [1.0] * 10}),
    (ShapeError, FINE | {"p0": lambda x: x}),
    (ShapeError, FINE | {"p0": lambda x: 0.0}),
    (ParameterError, FINE | {"p0": P0 - 1.5}),
    (ParameterError, FINE | {"p0": torch.tensor([-1e-3] + [1.0] * 9)}),
    (ParameterError, FINE | {"p0": 0 * P0}),
    (ParameterError, FINE | {"p0": P0 * math.nan}),
    (ParameterError, FINE | {"p0": P0 * math.inf}),
    (ParameterError, FINE | {"p0": lambda x: x[:, 0] * math.nan}),
    (ParameterError, FINE | {"p0": lambda x: x[:, 0] * 0 - math.inf}),
    (ParameterError, FINE | {"p0": lambda x: x[:, 0] * 0 + math.inf}),
    (ShapeError, FINE | {"sde": broken("drift", torch.zeros(9))}),
    (ShapeError, FINE | {"sde": broken("diffusion", torch.ones(2))}),
    (ParameterError, FINE | {"sde": broken("diffusion", -1.0)}),
    (ParameterError, FINE | {"sde": broken("diffusion", math.nan)}),
]

LINE = ((-1.0, 1.0),)

BAD_BOXES = [
    (IncompatibleError, (ss.VPSDE, LINE, (10,))),
    (IncompatibleError, ("vp", LINE, (10,))),
    (ShapeError, (ss.VPSDE(), [(-1.0, 1.0)], (10,))),
    (ShapeError, (ss.VPSDE(), (-1.0, 1.0), (10,))),
    (ShapeError, (ss.VPSDE(), ((-1.0, 0.0, 1.0),), (10,))),
    (ShapeError, (ss.VPSDE(), LINE, 10)),
    (ShapeError, (ss.VPSDE(), LINE, (10, 10))),
    (ShapeError, (ss.VPSDE(), (), ())),
    (ShapeError, (ss.VPSDE(), LINE * 4, (3,) * 4)),
    (ParameterError, (ss.VPSDE(), ((1.0, -1.0),), (10,))),
    (ParameterError, (ss.VPSDE(), ((1.0, 1.0),), (10,))),
    (ParameterError, (ss.VPSDE(), ((-math.inf, 1.0),), (10,))),
    (ParameterError, (ss.VPSDE(), LINE, (2,))),
    (ParameterError, (ss.VPSDE(), LINE, (10.0,))),
    (ParameterError, (ss.VPSDE(), LINE, (True,))),
]

REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "bad boxes are refused": (
        *(
            (lambda given=given: FokkerPlanck(*given), error, "expected")
            for error, given in BAD_BOXES
        ),
    ),
    "what is no density is refused": (
        *each(
            lambda p, method: method(p),
            ShapeError,
            "expected densities",
            [None, torch.ones(9), torch.ones(10, 9), torch.tensor(1.0)],
            (FokkerPlanck(Wells(), LINE, (10,)).mass, FokkerPlanck(Wells(), LINE, (10,)).moments),
        ),
    ),
    "langevin refuses a score of another shape and foreign times": (
        (
            lambda: LangevinSDE(lambda x: x.sum(1)).drift(torch.zeros(2, 3), 0.0),
            ShapeError,
            "the score",
        ),
        (lambda: LangevinSDE(torch.neg).diffusion(10.1), TimeError, "expected"),
    ),
    "wells that nothing connects have no one distribution": (
        (
            lambda: FokkerPlanck(
                LangevinSDE(double_well, temperature=0.0), ((-2.0, 2.0),), (40,)
            ).stationary(),
            IncompatibleError,
            "one stationary density",
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize(("error", "given"), BAD_SOLVES)
def test_bad_solves_are_refused(error: type[Exception], given: dict[str, object]) -> None:
    options = {"p0": P0, "max_wall_mass": 1.0} | given
    sde, p0 = options.pop("sde", Wells()), options.pop("p0")
    fp = FokkerPlanck(sde, ((-3.0, 3.0),), (10,))
    with pytest.raises(error, match="expected"):
        fp.solve(p0, **options)


def test_a_drift_that_is_not_finite_names_the_place() -> None:
    wall = LangevinSDE(lambda x: 1 / (x - 1.0))
    fp = FokkerPlanck(wall, ((-2.0, 2.0),), (4,))
    with pytest.raises(DivergenceError, match=r"1 of 3 faces, such as x = \[1.0\]") as caught:
        fp.generator(0.5)
    assert caught.value.samples == [2]
    assert caught.value.t == 0.5
    for sde in (wall, Wells()):
        with pytest.raises(TimeError):
            FokkerPlanck(sde, ((-2.0, 2.0),), (4,)).generator(11.0)


@pytest.mark.parametrize("times", [[0.0, 1.001], [1e-9, 0.5, -1e-9], [0.0, 0.5, 0.4], [0.0]])
def test_bad_times_are_refused_before_anything_is_evaluated(times: list[float]) -> None:
    class Untouched(Wells):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            pytest.fail("the drift was evaluated")

    fp = FokkerPlanck(Untouched(), ((-2.0, 2.0),), (40,))
    with pytest.raises((TimeError, ScheduleError), match="expected"):
        fp.solve(gaussian(0.0, 0.01), times=times)


def test_numpy_scalars_are_numbers() -> None:
    box = ((np.float32(-3.0), np.int64(3)),), (np.int64(10),)
    fp = FokkerPlanck(Wells(), *box)
    assert repr(fp.bounds) == "((-3.0, 3.0),)"
    assert repr(fp.cells) == "(10,)"
    options = {"steps": np.int64(2), "max_wall_mass": np.float64(1), "max_products": np.int32(999)}
    assert fp.solve(P0, times=[0.0, 0.5], **options).density.shape == (2, 10)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_no_setting_of_the_caller_changes_a_density(setting: Callable[[], Any]) -> None:
    def solved() -> list[Tensor]:
        fp = FokkerPlanck(ss.VPSDE(), ((-3.0, 3.0), (-2.0, 2.0)), (12, 9))
        found = fp.solve(lambda x: -x.square().sum(1), times=[0.0, 0.2], max_wall_mass=1.0)
        return [
            found.density,
            found.wall_mass,
            found.time_error,
            fp.stationary(),
            *fp.moments(found.density),
        ]

    plain = solved()
    with setting():
        assert all(map(torch.equal, solved(), plain))


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_what_has_no_mass_has_no_moments(bad: float) -> None:
    fp = FokkerPlanck(Wells(), LINE, (10,))
    p = torch.ones(2, 10)
    p[1] = bad
    with pytest.raises(ParameterError, match="expected densities with a finite mass > 0"):
        fp.moments(p)


def test_a_float32_network_is_told_to_be_float64() -> None:
    net = torch.nn.Linear(1, 1)
    fp = FokkerPlanck(LangevinSDE(net), LINE, (10,))
    for run in (
        lambda: fp.generator(0.5),
        lambda: fp.solve(gaussian(0.0, 0.01), times=[0.0, 0.5]),
        lambda: fp.density(lambda x: net(x)[:, 0]),
    ):
        with pytest.raises(ShapeError, match=r"expected .* float64.*use \.double\(\)"):
            run()

    net.double()
    assert fp.generator(0.5).shape == (10, 10)


def test_the_dtype_decides_and_not_the_words_of_an_error() -> None:
    """A network may word its refusal of float64 in any way, and other errors may say "double"."""

    def single(x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("another number of bits")
        return -x

    with pytest.raises(ShapeError, match=r"expected the SDE's drift .* float64"):
        FokkerPlanck(LangevinSDE(single), LINE, (10,)).generator(0.5)

    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("the double well ran out of something")

    with pytest.raises(RuntimeError, match="ran out of something") as caught:
        FokkerPlanck(LangevinSDE(broken), LINE, (10,)).generator(0.5)
    assert not isinstance(caught.value, ss.SDEScoreError)
