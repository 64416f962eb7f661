"""Equal steps in time, and times of one's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdescore as ss
from tests.helpers.strategies import (
    linear_sdes,
    ordered_times,
)

pytestmark = pytest.mark.fast


@given(st.data(), linear_sdes(), st.integers(1, 6))
def test_custom_grid_keeps_your_numbers(data: st.DataObject, sde: ss.LinearSDE, n: int) -> None:
    values = data.draw(ordered_times(sde, n))[::-1]
    if len(set(values)) < n:
        return
    for given_values in (values, tuple(values), torch.tensor(values, dtype=torch.float64)):
        grid = ss.CustomGrid(given_values)
        assert grid.times(sde, None).tolist() == values == grid.times(sde, n).tolist()
    assert grid == ss.CustomGrid(values) and hash(grid) == hash(ss.CustomGrid(values))
    assert eval(repr(grid), {"CustomGrid": ss.CustomGrid}) == grid


def test_custom_grid_may_end_at_zero() -> None:
    assert ss.CustomGrid([1.0, 0.5, 0.0]).times(ss.VPSDE(), None)[-1] == 0


def test_equal_steps_in_time_need_no_log_snr() -> None:
    class Plain(ss.SDE):
        T = 1.0

        def drift(self, x, t):
            return -x

        def diffusion(self, t):
            return torch.tensor(1.0)

    assert ss.UniformGrid().times(Plain(), 3).tolist() == [1.0, 0.5, 0.0]
