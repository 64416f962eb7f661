"""What grids refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.errors import IncompatibleError, ScheduleError, TimeError
from sdescore.grids.spaced import CosineGrid
from sdescore.grids.table import TableGrid
from tests.helpers.refusals import Refusal, each, rows
from tests.helpers.strategies import EPS

pytestmark = pytest.mark.fast

RULES = [ss.UniformGrid(), ss.QuadraticGrid(), ss.LogSNRGrid(), ss.KarrasGrid()]

EDM, VP = ss.EDMSDE(), ss.VPSDE()
ENDLESS = ss.LinearSDE.from_marginal(lambda t: 1 - t, torch.clone, T=0.9, t_min=0.0)


class Plain(ss.SDE):
    """An SDE that is not known to be linear."""

    T = 1.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.tensor(1.0)


REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "bad numbers of steps": (
        *(
            (
                lambda n=n, rule=rule: rule.times(ss.DiscreteVPSDE.linear(20), n),
                ScheduleError,
                rf"integer steps >= 1.*{re.escape(repr(n))}",
            )
            for n in [0, -3, 2.5, True, "10"]
            for rule in [*RULES, ss.LevelGrid()]
        ),
    ),
    "other bad grids": (
        *each(lambda rule: rule.times(ss.VPSDE(), None), ScheduleError, "got none", RULES),
        (
            lambda: ss.LevelGrid().times(ss.DiscreteVPSDE.linear(20), 21),
            ScheduleError,
            "at most 20; got steps=21",
        ),
        (lambda: ss.LevelGrid().times(ss.VPSDE(), 5), IncompatibleError, "VPSDE"),
        *(
            (lambda rho=rho: ss.KarrasGrid(rho=rho), ScheduleError, f"rho={rho}")
            for rho in (0.0, -1.0, math.nan, math.inf)
        ),
        *each(
            lambda values: ss.CustomGrid(values),
            ScheduleError,
            "one-dimensional sequence",
            ([], 0.5, [[1.0, 0.5]], [1.0, math.nan], torch.tensor([1.0 + 1.0j])),
        ),
        *each(
            lambda values: ss.CustomGrid(values).times(ss.VPSDE(), None),
            ScheduleError,
            "falling",
            ([0.5, 1.0], [1.0, 1.0, 0.5]),
        ),
        *each(
            lambda values: ss.CustomGrid(values).times(ss.VPSDE(), None),
            TimeError,
            "grid times",
            ([1.5, 0.5], [1.0, -0.1]),
        ),
        (lambda: ss.CustomGrid([1.0, 0.5]).times(ss.VPSDE(), 3), ScheduleError, "got 3"),
    ),
    "bad tables": (
        (
            lambda: TableGrid([1.0, 0.5], quantity="sigma"),
            IncompatibleError,
            "noise_ratio, log_snr, t; got 'sigma'",
        ),
        *each(
            TableGrid,
            ScheduleError,
            "at least 2 finite",
            ([1.0], [1.0, math.nan], [math.inf, 1.0]),
        ),
        *each(
            TableGrid,
            ScheduleError,
            "a table of noise_ratio as a one-dimensional",
            ([], 0.5, [[1.0, 0.5]]),
        ),
        *each(TableGrid, ScheduleError, "a table of t", ("abc", [1.0, "x"], None), ["t"]),
        *each(TableGrid, ScheduleError, "leave a last 0 out", ([10.0, 1.0, 0.0], [1.0, -1.0])),
        *each(TableGrid, ScheduleError, "strictly falling", ([1.0, 2.0], [2.0, 1.0, 1.0])),
        *each(
            TableGrid,
            ScheduleError,
            "strictly rising log_snr",
            ([3.0, -3.0], [1.0, 1.0]),
            ["log_snr"],
        ),
        *each(
            lambda n: TableGrid([10.0, 1.0]).times(EDM, n),
            ScheduleError,
            "integer steps >= 1",
            (0, -1, True, 2.0, "2"),
        ),
        *each(
            lambda values: TableGrid(values, "t").times(VP, 4),
            TimeError,
            "<= T",
            ([1.5, 0.5], [0.5, -0.1]),
        ),
        (lambda: TableGrid([1.0, 0.0], "t").times(VP, 4), TimeError, "finite log-SNR"),
        # Both of the first are taken for the end.
        (lambda: TableGrid([80.05, 80.01, 1.0]).times(EDM, None), ScheduleError, "falling"),
    ),
    "an sde without a finite log snr": (
        *each(
            lambda rule: rule.times(ENDLESS, 5),
            ScheduleError,
            "inf",
            (ss.LogSNRGrid(), ss.KarrasGrid()),
        ),
    ),
    "an sde without a log snr": (
        *each(
            lambda grid: grid.times(Plain(), 5),
            IncompatibleError,
            "Plain",
            (TableGrid([10.0, 1.0]), CosineGrid(), ss.LogSNRGrid(), ss.KarrasGrid()),
        ),
    ),
    "points too dense to differ are refused": (
        (
            lambda: ss.UniformGrid().times(ss.EDMSDE(sigma_min=1.0, sigma_max=1.0 + 8 * EPS), 100),
            ScheduleError,
            "fewer steps",
        ),
    ),
    "bad sigma data": (
        *(
            (
                lambda value=value: CosineGrid(value),
                ScheduleError,
                rf"sigma_data.*{re.escape(repr(value))}",
            )
            for value in [0.0, -1.0, math.nan, math.inf, "1", None]
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
