"""Grids: exact ends, falling, and each rule against its paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdescore as ss
from sdescore.grids.spaced import CosineGrid
from sdescore.grids.table import TableGrid
from tests.helpers.state import torch_default, under_each_default
from tests.helpers.strategies import (
    REPRESENTATIVES,
    edm_sdes,
    grids,
    linear_sdes,
    log_uniform,
)

pytestmark = pytest.mark.fast

STEPS = st.one_of(st.sampled_from([1, 2, 3, 1000]), st.integers(1, 60))
RULES = [ss.UniformGrid(), ss.QuadraticGrid(), ss.LogSNRGrid(), ss.KarrasGrid()]


@pytest.mark.guards("T03")
@given(st.data(), linear_sdes(), STEPS)
def test_any_grid_falls_from_T_to_t_min_exactly(
    data: st.DataObject, sde: ss.LinearSDE, n: int
) -> None:
    grid = data.draw(grids(sde))
    if isinstance(grid, ss.LevelGrid):
        n = min(n, sde.levels)
    times = grid.times(sde, n)
    assert times.shape == (n,) and times.dtype == torch.float64
    assert times[0].item() == sde.T
    assert n == 1 or times[-1].item() == sde.t_min
    assert bool((torch.diff(times) < 0).all())


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_thousand_steps_on_every_sde(rule: ss.grids.Grid, name: str) -> None:
    sde = REPRESENTATIVES[name]
    times = rule.times(sde, 1000)
    assert (times[0], times[-1], len(times)) == (sde.T, sde.t_min, 1000)


@given(linear_sdes(), st.integers(2, 200))
def test_uniform_and_quadratic(sde: ss.LinearSDE, n: int) -> None:
    i = np.arange(n) / (n - 1)
    uniform = ss.UniformGrid().times(sde, n).numpy()
    np.testing.assert_allclose(uniform, sde.T + i * (sde.t_min - sde.T), rtol=1e-12, atol=1e-15)
    root = math.sqrt(sde.T) + i * (math.sqrt(sde.t_min) - math.sqrt(sde.T))
    quadratic = ss.QuadraticGrid().times(sde, n).numpy()
    np.testing.assert_allclose(quadratic, root**2, rtol=1e-12, atol=1e-15)


@given(linear_sdes(), st.integers(3, 100))
def test_log_snr_grid_is_equally_spaced(sde: ss.LinearSDE, n: int) -> None:
    if not bool(sde.log_snr(sde.t_min).isfinite()):
        return
    level = sde.log_snr(ss.LogSNRGrid().times(sde, n))
    first, last = level[0].item(), level[-1].item()
    expected = torch.linspace(first, last, n, dtype=torch.float64)
    torch.testing.assert_close(level, expected, rtol=1e-10, atol=1e-9)


@given(edm_sdes(), st.integers(2, 200), log_uniform(1.0, 20.0))
def test_karras_grid_is_equation_5_on_edm(sde: ss.EDMSDE, n: int, rho: float) -> None:
    i = np.arange(n)
    high, low = sde.sigma_max ** (1 / rho), sde.sigma_min ** (1 / rho)
    expected = (high + i / (n - 1) * (low - high)) ** rho
    got = ss.KarrasGrid(rho=rho).times(sde, n).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-11)


@pytest.mark.parametrize("name", ["vp", "subvp", "cosine", "flow", "discrete-vp", "ve"])
def test_karras_grid_spaces_sigma_over_alpha(name: str) -> None:
    sde = REPRESENTATIVES[name]
    alpha, sigma = sde.marginal(ss.KarrasGrid(rho=3.0).times(sde, 20))
    root = (sigma / alpha) ** (1 / 3)
    steps = torch.diff(root)
    torch.testing.assert_close(steps, steps.mean().expand(19), rtol=1e-9, atol=1e-12)


def test_karras_tends_to_log_snr() -> None:
    sde = ss.VPSDE()
    far, limit = ss.KarrasGrid(rho=1e6).times(sde, 30), ss.LogSNRGrid().times(sde, 30)
    torch.testing.assert_close(far, limit, rtol=1e-4, atol=0)


def test_numpy_numbers_are_numbers() -> None:
    for grid in (ss.KarrasGrid(rho=np.float32(3)), CosineGrid(sigma_data=np.float64(0.5))):
        assert all(type(value) is float for value in vars(grid).values())
    assert ss.KarrasGrid(rho=np.int64(7)) == ss.KarrasGrid()
    three = ss.UniformGrid().times(ss.VPSDE(), np.int64(3))
    assert torch.equal(three, ss.UniformGrid().times(ss.VPSDE(), 3))
    # float32 values keep the precision they came with, whatever torch's default dtype
    assert ss.CustomGrid(np.array([1.0, 0.1])).values == (1.0, 0.1)


@under_each_default
def test_torchs_defaults_change_no_time(default) -> None:
    ddpm = ss.DiscreteVPSDE.linear(20)

    def all_times() -> list[torch.Tensor]:
        rules = [*RULES, CosineGrid(), ss.LevelGrid(), TableGrid([0.4, 0.1, 0.01])]
        rules += [ss.CustomGrid([0.9, 0.1, 0.01]), TableGrid([0.9, 0.1], "t")]
        return [
            rule.times(sde, 3)
            for rule in rules
            for sde in (ddpm, ss.VPSDE(), ss.EDMSDE())
            if rule != ss.LevelGrid() or sde is ddpm
        ]

    expected = all_times()
    with torch_default(default):
        got = all_times()
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == torch.float64 and one.device.type == "cpu" and torch.equal(one, other)
