"""A grid of the levels of a table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdescore as ss
from tests.helpers.strategies import (
    discrete_sdes,
)

pytestmark = pytest.mark.fast


@given(st.data(), discrete_sdes())
def test_level_grid_picks_integers_of_the_table(data: st.DataObject, sde: ss.LinearSDE) -> None:
    table = sde.level_times().tolist()
    full = ss.LevelGrid().times(sde, None)
    assert full.tolist() == sorted(table, reverse=True)
    n = data.draw(st.integers(1, sde.levels))
    times = ss.LevelGrid().times(sde, n)
    assert set(times.tolist()) <= set(table)
    level = sde.level(times)
    assert torch.equal(level, level.round()) and len(level.unique()) == n
    if n > 1:  # evenly spread: each pick is the level nearest to an equal division
        ranks = torch.tensor([sorted(table, reverse=True).index(t) for t in times.tolist()])
        exact = torch.arange(n) * (sde.levels - 1) / (n - 1)
        assert bool(((ranks - exact).abs() <= 0.5 + 1e-9).all())
        assert level.max() == sde.levels - 1 and level.min() == 0


def test_a_chain_of_one_level_has_a_grid_of_one_step() -> None:
    sde = ss.DiscreteVPSDE(betas=(0.5,))
    assert ss.LevelGrid().times(sde, None).tolist() == [1.0]
    with pytest.raises(ss.errors.ScheduleError, match="falling"):
        ss.UniformGrid().times(sde, 2)
