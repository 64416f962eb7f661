"""The Brownian path of an adaptive run."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sdescore.samplers.adaptive.path import NoisePath
from sdescore.tableau.exponential import exponential_step
from tests.helpers.adaptive import F64, column
from tests.helpers.strategies import REPRESENTATIVES


def basis(count: int, batch: int = 1) -> Iterator[Tensor]:
    """Draws that are the unit vectors of ``count`` elements: a value's elements are its weights."""
    return (row.expand(batch, count) for row in torch.eye(count, dtype=F64))


# The path.


@given(
    st.permutations([0.0, 0.1, 0.35, 1.0, 1.7, 3.0]),
    st.permutations([0.02, 0.5, 0.6, 0.9, 4.0, 4.5]),
    st.floats(0.05, 1.0),
)
def test_a_path_has_its_covariance_in_any_order_of_visits(
    first: list[float], second: list[float], eta: float
) -> None:
    """Two samples visit their own points; W_τ starts at 0 where λ = −1."""
    start, n = -1.0, len(first)
    path = NoisePath(column(start, start), torch.zeros(2, n, dtype=F64), eta, iter(()))
    draws = basis(n, batch=2)
    visits = torch.tensor([first, second], dtype=F64)
    weights = torch.stack([path.visit(lam, z) for lam, z in zip(visits.T, draws, strict=True)], 1)
    early = torch.minimum(visits[:, :, None], visits[:, None])
    late = torch.maximum(visits[:, :, None], visits[:, None])
    clock = torch.exp(2 * eta**2 * early) - math.exp(2 * eta**2 * start)
    expected = torch.exp(-(eta**2) * (early + late)) * clock
    torch.testing.assert_close(weights @ weights.mT, expected, rtol=1e-10, atol=1e-12)


def test_a_path_remembers_what_lies_ahead_and_no_more() -> None:
    like = torch.zeros(2, 3)
    path = NoisePath(column(0.0, 0.0), like, 1.0, iter(()))
    z = torch.randn(4, 2, 3)
    far = path.visit(column(2.0, 2.0), z[0])
    near = path.visit(column(1.0, 0.5), z[1])
    assert torch.equal(path.visit(column(2.0, 2.0), z[2]), far)
    path.forget(column(1.0, 1.0))
    assert torch.equal(path.visit(column(1.0, 2.0), z[3])[0], near[0])
    assert torch.equal(path.visit(column(2.0, 2.0), z[3]), far)
    assert path.lam.shape == (2, 3) and path.values.shape == (2, 3, 3)
    assert path.values.dtype == torch.float32
    path.keep(torch.tensor([False, True]))
    assert torch.equal(path.visit(column(2.0), z[3, :1]), far[1:])


def test_a_path_takes_no_more_room_than_it_needs() -> None:
    """What was passed makes room for what comes."""
    path = NoisePath(column(0.0), torch.zeros(1, 1), 1.0, iter(torch.randn(100, 1, 1)))
    for k in range(50):
        path.normal(column(0.1 * k), column(0.1 * k + 0.05))
        path.normal(column(0.1 * k), column(0.1 * (k + 1)))
        path.forget(column(0.1 * (k + 1)))
    assert path.lam.shape == (1, 3)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_the_parts_of_a_step_add_up_to_it(name: str, eta: float) -> None:
    """Over t → m → s the noises of the exact solution are that of t → s: c and z agree."""
    sde = REPRESENTATIVES[name]
    lam = torch.lerp(*sde.half_log_snr(column(sde.T, sde.t_min)), column(0.1, 0.35, 0.8))
    t, m, s = sde.time_at_half_log_snr(lam)[:, None]
    path = NoisePath(sde.half_log_snr(t), torch.zeros(1, 3, dtype=F64), eta, basis(3))
    moves = [exponential_step(sde, *ends, "x0", eta) for ends in ((t, s), (t, m), (m, s))]
    ends = [(t, s), (t, m), (m, s)]
    normals = [path.normal(*(sde.half_log_snr(u) for u in pair)) for pair in ends]
    whole, early, late = (move.c * z[0] for move, z in zip(moves, normals, strict=True))
    torch.testing.assert_close(whole, moves[2].a * early + late, rtol=1e-7, atol=1e-10)
    for z in normals:
        assert z.square().sum().item() == pytest.approx(1.0, rel=1e-7)
