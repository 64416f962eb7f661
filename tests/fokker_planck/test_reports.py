"""What a solve reports, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sdescore as ss
from sdescore.fokker_planck.solver import FokkerPlanck
from tests.helpers.densities import (
    F64,
    Linear,
    Still,
    Wells,
    gaussian,
)


def test_a_box_that_is_too_small_is_refused() -> None:
    fp = FokkerPlanck(ss.VPSDE(), ((-2.0, 2.0),), (40,))
    with pytest.raises(ss.errors.ParameterError, match="widen the bounds"):
        fp.solve(gaussian(0.0, 0.01), times=[0.0, 1.0])
    free = fp.solve(gaussian(0.0, 0.01), times=[0.0, 0.1, 1.0], max_wall_mass=1.0)
    walls = free.wall_mass.tolist()
    assert walls == sorted(walls)
    edge = free.density[2][[0, -1]].sum().item() * 0.1
    assert walls[-1] == pytest.approx(edge, rel=1e-12)  # the widest is the last
    assert walls[0] < 1e-20
    limit = walls[-1]
    assert fp.solve(gaussian(0.0, 0.01), times=[0.0, 0.1, 1.0], max_wall_mass=limit).products
    with pytest.raises(ss.errors.ParameterError):
        fp.solve(gaussian(0.0, 0.01), times=[0.0, 1.0], max_wall_mass=0.9 * limit)


def test_the_wall_is_watched_between_the_times_and_at_the_start() -> None:
    """A bump that swings to the wall and back, and one that begins there."""

    class Swinging(Still):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.full_like(x, 2 * math.pi * math.cos(2 * math.pi * float(t)))

    fp = FokkerPlanck(Swinging(g=0.1), ((-1.5, 1.5),), (90,))
    start = gaussian(0.0, 0.01)
    for steps in (None, 10):
        with pytest.raises(ss.errors.ParameterError, match="at t = 0"):
            fp.solve(start, times=[0.0, 1.0], steps=steps)
    with pytest.raises(ss.errors.ParameterError, match="at t = 0;"):
        fp.solve(gaussian(1.5, 0.01), times=[0.0, 0.1])
    with pytest.raises(ss.errors.ParameterError, match=r"at t = 0\.25;"):
        fp.solve(start, times=[0.0, 1.0], steps=4)
    run = fp.solve(start, times=[0.0, 1.0], steps=10, max_wall_mass=1.0)
    at_end = run.density[1][[0, -1]].sum().item() * 3 / 90
    assert run.wall_mass[1].item() > 1.5 * at_end


def test_too_much_work_is_refused_before_it_is_done() -> None:
    fp = FokkerPlanck(ss.VPSDE(), ((-6.0, 6.0),), (300,))
    with pytest.raises(ss.errors.DivergenceError, match="max_products = 1000") as caught:
        fp.solve(gaussian(0.0, 1.0), times=[0.0, 1.0], max_products=1000)
    assert 0 <= caught.value.t < 1
    fast = Linear(((-1e300,),))
    with pytest.raises(ss.errors.DivergenceError, match="max_products"):
        FokkerPlanck(fast, ((-1.0, 1.0),), (10,)).solve(gaussian(0.0, 0.01), times=[0.0, 1.0])
    run = fp.solve(gaussian(0.0, 1.0), times=[0.0, 0.1], steps=1)
    again = fp.solve(gaussian(0.0, 1.0), times=[0.0, 0.1], steps=1, max_products=run.products)
    assert again.products == run.products
    q = abs(fp.generator(0.05).diagonal()).max()
    assert run.products == pytest.approx(0.1 * q + 9 * math.sqrt(0.1 * q), rel=0.1)


def test_moments_and_mass_of_a_density() -> None:
    fp = FokkerPlanck(Linear(((0.0, 0.0), (0.0, 0.0))), ((0.0, 3.0), (0.0, 4.0)), (3, 4))
    p = torch.zeros(2, 3, 4, dtype=F64)
    p[0, 1, 2] = 5.0
    p[1, 0, 0], p[1, 2, 3] = 1.0, 3.0
    assert fp.mass(p).tolist() == [5.0, 4.0]
    mean, covariance = fp.moments(p)
    assert torch.equal(mean, torch.tensor([[1.5, 2.5], [2.0, 2.75]], dtype=F64))
    expected = 0.25 * 0.75 * torch.tensor([[4.0, 6.0], [6.0, 9.0]], dtype=F64)
    assert torch.allclose(covariance[1], expected)
    assert not covariance[0].any()
    centres = fp.centres
    centres.zero_()
    assert fp.centres[0, 0].tolist() == [0.5, 0.5]


def test_a_start_is_normalised_whatever_its_form() -> None:
    fp = FokkerPlanck(Wells(), ((-4.0, 4.0),), (50,))
    x = fp.centres[:, 0]
    log_density = gaussian(0.0, 0.1)
    expected = torch.exp(-5 * x**2) / (torch.exp(-5 * x**2).sum() * 8 / 50)
    for start in (
        log_density,
        lambda x: log_density(x) + 1e4,
        lambda x: log_density(x).float(),
        7.0 * torch.exp(-5 * x**2),
    ):
        got = fp.solve(start, times=[0.0, 1e-9], steps=1).density[0]
        assert torch.allclose(got, expected, rtol=1e-5)
    scale = torch.tensor(0.1, requires_grad=True)
    p = fp.density(lambda x: (gaussian(0.0, scale)(x)).float())
    assert p.dtype == F64
    assert not p.requires_grad
    half = fp.density(lambda x: torch.where(x[:, 0] > 0, 0.0, -math.inf))
    assert torch.equal(half, torch.where(x > 0, 0.25, 0.0).double())
