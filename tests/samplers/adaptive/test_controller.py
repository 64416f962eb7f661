"""The step-size controller."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sdescore.samplers.adaptive.controller import next_step, scaled_error
from tests.helpers.adaptive import F64, column


def test_the_error_is_in_units_of_the_tolerance() -> None:
    """Root mean square of E / (a + r max(|x|, |x′|)), one for each sample."""
    difference = column(0.3, -0.4, 0.0, 0.0).reshape(2, 2)
    before, after = column(-2.0, 0.0, 1.0, 1.0).reshape(2, 2), column(1.0, 3.0, 0.0, 0.0)
    error = scaled_error(difference, before, after.reshape(2, 2), rtol=0.5, atol=1.0)
    assert error.dtype == F64
    first = math.sqrt(((0.3 / (1 + 0.5 * 2)) ** 2 + (0.4 / (1 + 0.5 * 3)) ** 2) / 2)
    assert error.tolist() == pytest.approx([first, 0.0])
    nothing = torch.zeros(3, 0)
    assert scaled_error(nothing, nothing, nothing, 0.1, 0.1).tolist() == [0.0] * 3
    scalar = scaled_error(column(3.0), column(0.0), column(0.0), 0.1, 2.0)
    assert scalar.tolist() == [1.5]


@given(st.floats(1e-3, 1e3), st.floats(1.0, 4.0), st.floats(0.01, 10.0))
def test_the_controller_settles_just_below_the_tolerance(
    constant: float, order: float, h: float
) -> None:
    """With an error of C h^p exactly, from any first step."""
    length, last, grows = column(h), column(1.0), torch.tensor([True])
    for _ in range(60):
        error = constant * length**order
        length, last = next_step(length, error, last, order, grows)
        grows = error <= 1
    error = (constant * length**order).item()
    # S e^{−0.3/p} = 1 at rest.
    assert error == pytest.approx(0.9 ** (order / 0.3), rel=1e-3)


def test_the_controller_by_cases() -> None:
    h, one = column(1.0), column(1.0)
    yes, no = torch.tensor([True]), torch.tensor([False])

    def factor(error: float, last: float, order: float, grows: Tensor) -> float:
        return next_step(h, column(error), column(last), order, grows)[0].item()

    assert factor(8.0, 0.5, 1.5, yes) == pytest.approx(0.9 * 8 ** (-1 / 1.5))  # tried again
    assert factor(0.5, 0.8, 2.0, yes) == pytest.approx(0.9 * 0.5**-0.35 * 0.8**0.2)
    assert factor(1e9, 1.0, 3.0, yes) == 0.2 and factor(0.0, 1.0, 3.0, yes) == 5.0
    assert factor(1e-3, 1.0, 3.0, no) == 1.0  # right after a rejection
    assert factor(8.0, 1.0, 1.5, no) == pytest.approx(0.9 * 8 ** (-1 / 1.5))
    longer, last = next_step(h, column(0.0), one, 2.0, yes)
    assert next_step(longer, column(0.0), last, 2.0, yes)[0].item() == 25.0
    assert next_step(h, column(2.0), column(0.3), 2.0, yes)[1].item() == 0.3
    assert next_step(h, column(0.7), one, 2.0, yes)[1].item() == 0.7
