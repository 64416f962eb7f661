"""Runge–Kutta methods from weights: Ralston's by hand, its order, and what is no table."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sdescore as ss
from tests.helpers.affine import Modes, order

pytestmark = pytest.mark.fast

F64 = torch.float64
NODES, WEIGHTS = (0, 2 / 3), ((2 / 3,), (1 / 4, 3 / 4))


class Ralston(ss.Predictor):
    """Ralston 1962: the two-stage method of second order with the least error bound."""

    order = 2

    def tableau(self, sde: ss.LinearSDE, times: Tensor) -> ss.Tableau:
        return ss.tableau.runge_kutta(sde, times[:-1], times[1:], NODES, WEIGHTS)


@pytest.mark.parametrize("sde", [ss.VESDE(), ss.VPSDE(), ss.CosineVPSDE()], ids=repr)
def test_a_step_of_ralstons_method_by_hand(sde: ss.LinearSDE) -> None:
    """In x/α and σ/α, for a model that is not linear."""

    def epsilon(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x) + 0.3 * t

    t, s = 0.8 * sde.T, 0.5 * sde.T
    x = torch.tensor([[0.3], [-1.2]], dtype=F64)
    tableau = Ralston().tableau(sde, torch.tensor([t, s], dtype=F64))
    got = tableau.step(0, x, [], epsilon, [])
    (alpha_t, sigma_t), (alpha_s, sigma_s) = sde.marginal(t), sde.marginal(s)
    h = sigma_s / alpha_s - sigma_t / alpha_t
    m = tableau.times[0, 1]
    alpha_m, sigma_m = sde.marginal(m)
    torch.testing.assert_close(sigma_m / alpha_m, sigma_t / alpha_t + 2 / 3 * h, rtol=1e-9, atol=0)
    first = epsilon(x, torch.tensor(t, dtype=F64))
    second = epsilon(alpha_m * (x / alpha_t + 2 / 3 * h * first), m)
    expected = alpha_s * (x / alpha_t + h * (first / 4 + 3 / 4 * second))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


def test_ralstons_method_is_of_second_order_and_two_evaluations() -> None:
    sde = ss.VESDE(sigma_min=0.3, sigma_max=2.0)
    data = Modes.of((0.7, 0.5), (-1.0, 2.0), (0.2, 0.05))
    measured = order(sde, Ralston(), data, grid=ss.LogSNRGrid())
    assert measured == pytest.approx(2, abs=0.1)
    assert Ralston().evaluations == 2


@pytest.mark.parametrize(
    ("nodes", "weights", "match"),
    [
        ((0.1, 1.0), ((1.0,), (0.5, 0.5)), "nodes"),
        ((), (), "nodes"),
        ((0, 2.0), ((2.0,), (0.5, 0.5)), "nodes"),
        ((0, float("nan")), ((1.0,), (0.5, 0.5)), "nodes"),
        ((0, 1.0), ((0.5,), (0.5, 0.5)), "sum to the next node, 1"),
        ((0, 0.5), ((0.5,), (0.5, 0.6)), "sum to the next node, 1"),
        ((0, 0.5), ((0.5,), (1.0,)), "rows of lengths"),
        ((0, 0.5), ((0.5,),), "rows of lengths"),
        ((0,), ((float("inf"),),), "sum to the next node"),
    ],
)
def test_what_is_no_explicit_table_is_refused(
    nodes: tuple[float, ...], weights: tuple[tuple[float, ...], ...], match: str
) -> None:
    t, s = torch.tensor([[0.9], [0.5]], dtype=F64)
    with pytest.raises(ss.errors.ParameterError, match=match):
        ss.tableau.runge_kutta(ss.VPSDE(), t, s, nodes, weights)
