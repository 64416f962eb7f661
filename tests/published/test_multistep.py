"""Multistep samplers of papers: their orders, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

import sdescore as ss
from sdescore.errors import IncompatibleError, ParameterError, ScheduleError, TimeError


@pytest.mark.parametrize(
    "predictor",
    [
        *(ss.published.DPMSolverPlusPlus(order) for order in (1, 2, 3)),
        *(ss.published.UniPC(order) for order in (1, 2)),
    ],
    ids=repr,
)
def test_the_order_is_at_least_the_declared_one(predictor: ss.Predictor) -> None:
    found = ss.analysis.order(predictor, ss.VPSDE(), steps=64)
    assert found > predictor.order - 0.15


@pytest.mark.parametrize("make", [ss.published.dpm_solver_plus_plus, ss.published.unipc])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 2, "order": 3}, ScheduleError, "steps >= 3"),
        ({"order": 0}, ParameterError, "order"),
        ({"order": 5}, ParameterError, "order"),
        ({"skip_type": "uniform"}, IncompatibleError, "skip_type"),
        ({"t_end": 1.0}, TimeError, "t_end < 1"),
        ({"lower_order_final": 1}, ParameterError, "lower_order_final"),
        ({"denoise_to_zero": None}, ParameterError, "denoise_to_zero"),
    ],
)
def test_refusals(make: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(ss.VPSDE(), **options)
