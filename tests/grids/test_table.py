"""The cosine grid and tables of noise levels: against closed forms and numpy.interp."""

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
from tests.helpers.strategies import REPRESENTATIVES, linear_sdes, log_uniform, ordered_times

VP, EDM = ss.VPSDE(), ss.EDMSDE()
# A table such as Align Your Steps prints for a DDPM's 1000 levels.
PRINTED = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]


def ratio(sde: ss.LinearSDE, times: torch.Tensor) -> torch.Tensor:
    alpha, sigma = sde.marginal(times)
    return sigma / alpha


# CosineGrid.


@given(linear_sdes(), st.integers(1, 60), log_uniform(0.05, 5.0))
def test_cosine_grid_takes_equal_angles(sde: ss.LinearSDE, n: int, sigma_data: float) -> None:
    grid = CosineGrid(sigma_data)
    if not bool(sde.log_snr(sde.t_min).isfinite()):
        with pytest.raises(ss.errors.ScheduleError, match="finite log-SNR"):
            grid.times(sde, n + 1)
        return
    times = grid.times(sde, n)
    assert times.shape == (n,) and times.dtype == torch.float64 and times[0].item() == sde.T
    if n == 1:
        return
    assert times[-1].item() == sde.t_min and bool((times.diff() < 0).all())
    angles = torch.atan(ratio(sde, times) / sigma_data)
    expected = np.linspace(angles[0].item(), angles[-1].item(), n)
    np.testing.assert_allclose(angles.numpy(), expected, rtol=0, atol=1e-10)


def test_cosine_grid_is_uniform_on_the_cosine_schedule() -> None:
    """α = cos(πt/2), σ = sin(πt/2): the angle is πt/2."""
    schedule = ss.LinearSDE.from_marginal(
        lambda t: torch.cos(0.5 * math.pi * t), lambda t: torch.sin(0.5 * math.pi * t), T=0.99
    )
    got = CosineGrid().times(schedule, 30)
    torch.testing.assert_close(got, ss.UniformGrid().times(schedule, 30), rtol=1e-11, atol=1e-13)


def test_cosine_grid_on_edm_is_a_tangent() -> None:
    ends = np.arctan(np.array([80.0, 0.002]) / 0.5)
    expected = 0.5 * np.tan(np.linspace(*ends, 25))
    np.testing.assert_allclose(CosineGrid(sigma_data=0.5).times(EDM, 25), expected, rtol=1e-10)


# TableGrid.


def interpolated(levels: np.ndarray, n: int) -> np.ndarray:
    """σ/α, log-linear in the index, by numpy."""
    places = np.linspace(0, len(levels) - 1, n)
    return np.exp(np.interp(places, np.arange(len(levels)), np.log(levels)))


@given(st.data(), linear_sdes(), st.integers(2, 6), st.integers(1, 40))
def test_tables_of_every_quantity_are_log_linear(
    data: st.DataObject, sde: ss.LinearSDE, size: int, n: int
) -> None:
    own = torch.tensor(data.draw(ordered_times(sde, size))[::-1], dtype=torch.float64)
    levels = ratio(sde, own).numpy()
    if (np.diff(levels) > -1e-6 * levels[1:]).any():
        return
    for quantity, values in (
        ("t", own),
        ("noise_ratio", levels.tolist()),
        ("log_snr", tuple(-2 * np.log(levels))),
    ):
        grid = TableGrid(values, quantity=quantity)
        times = grid.times(sde, n)
        assert times.shape == (n,) and times.dtype == torch.float64
        assert n == 1 or bool((times.diff() < 0).all())
        got = ratio(sde, times).numpy()
        np.testing.assert_allclose(got, interpolated(levels, n), rtol=1e-8)
        np.testing.assert_allclose(ratio(sde, grid.times(sde, None)), levels, rtol=1e-8)
        assert torch.equal(grid.times(sde, None), grid.times(sde, size))
        assert eval(repr(grid), {"TableGrid": TableGrid}) == grid
        assert hash(grid) == hash(TableGrid(list(values), quantity))
    grid = TableGrid(own, "t")
    assert torch.equal(grid.times(sde, None), own)  # without a detour over log-SNR
    assert grid.times(sde, n)[0] == own[0] and grid.times(sde, n + 1)[-1] == own[-1]


def test_a_printed_table_on_a_ddpm() -> None:
    """Its largest level is rounded up past the chain's own, 14.6146, and is taken for that."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    sde = ss.DiscreteVPSDE(betas=betas)
    assert 0.9999 * PRINTED[0] < ratio(sde, torch.tensor(1.0)).item() < PRINTED[0]
    grid = TableGrid(PRINTED)
    for n in (None, 6, 25):
        times = grid.times(sde, n)
        assert times[0].item() == pytest.approx(1.0, abs=1e-12) and times[0] <= 1
        expected = PRINTED if n is None else interpolated(np.array(PRINTED), n)
        np.testing.assert_allclose(ratio(sde, times), expected, rtol=1e-4)
    sampler = ss.PredictorCorrector(sde, ss.DDIM(), grid=grid)
    assert sampler.evaluations == 11
    assert ss.PredictorCorrector(sde, ss.DDIM(), grid=grid, steps=20).evaluations == 20
    distribution = ss.GaussianScore([1.0], 0.04, sde)
    x = sampler.sample(distribution, shape=(4000, 1))
    assert (x.mean() - 1).abs() < 0.03 and 0.14 < x.std() < 0.22


@pytest.mark.parametrize(
    ("sde", "inside", "outside"),
    [
        (EDM, [80.0 * 1.0009, 1.0], [80.0 * 1.0011, 1.0]),
        (ss.VESDE(), [1.0, 0.01 / 1.0009], [1.0, 0.01 / 1.0011]),
        (ss.RectifiedFlowSDE(T=0.9), [9.0 * 1.0009, 1.0], [9.0 * 1.0011, 1.0]),
    ],
    ids=repr,
)
def test_ends_past_the_range(sde: ss.LinearSDE, inside: list[float], outside: list[float]) -> None:
    ends = ratio(sde, torch.tensor([0.0, sde.T], dtype=torch.float64))
    low, high = ends.tolist()
    for quantity, given_as in (("noise_ratio", float), ("log_snr", lambda r: -2 * math.log(r))):
        times = TableGrid([given_as(r) for r in inside], quantity).times(sde, 5)
        expected = min(high, max(low, inside[0])), min(high, max(low, inside[-1]))
        np.testing.assert_allclose(ratio(sde, times[[0, -1]]), expected, rtol=1e-9)
        with pytest.raises(
            ss.errors.TimeError, match=f"{quantity} between .* the range of {type(sde).__name__}"
        ):
            TableGrid([given_as(r) for r in outside], quantity).times(sde, 5)
    with pytest.raises(ss.errors.TimeError, match=f"between {high:g} and {low:g}"):
        TableGrid(outside).times(sde, 5)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_table_of_two_levels_is_a_log_snr_grid(name: str) -> None:
    sde = REPRESENTATIVES[name]
    ends = sde.t_min if bool(sde.log_snr(sde.t_min).isfinite()) else 1e-3
    grid = TableGrid([sde.T, ends], "t")
    level = sde.log_snr(grid.times(sde, 9))
    np.testing.assert_allclose(level, np.linspace(level[0].item(), level[-1].item(), 9), atol=1e-9)


def test_a_table_of_times_may_end_at_zero_where_the_log_snr_is_finite() -> None:
    assert TableGrid([1.0, 0.0], "t").times(ss.VESDE(), 2).tolist() == [1.0, 0.0]
