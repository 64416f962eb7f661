"""The only broadcasting code: what aligns, what is refused, and batch 0."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdescore as ss
from sdescore import checks
from sdescore.shapes import align, float64, sum_event
from tests.helpers.strategies import dtypes, shapes, states


@given(shapes(), dtypes())
def test_align_multiplies_sample_by_sample(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    (x,) = states(shape, dtype, 0, 1)
    coefficient = torch.arange(1, shape[0] + 1).to(dtype)
    got = align(coefficient, x) * x
    assert got.shape == x.shape and align(coefficient, x).ndim == x.ndim
    for i in range(shape[0]):
        assert torch.equal(got[i], (i + 1) * x[i])
    scalar = torch.tensor(3.0, dtype=dtype)
    assert align(scalar, x) is scalar
    assert torch.equal(align(torch.full((1,), 2, dtype=dtype), x) * x, 2 * x)


@given(shapes(), st.integers(2, 9))
def test_align_refuses_any_other_shape(shape: tuple[int, ...], extra: int) -> None:
    (x,) = states(shape, torch.float32, 0, 1)
    bad = [torch.ones(shape[0] + extra), torch.ones(shape[0], 1), torch.ones(1, 1)]
    for coefficient in bad:
        with pytest.raises(ss.errors.ShapeError) as caught:
            align(coefficient, x)
        message = str(caught.value)
        assert str(tuple(coefficient.shape)) in message and str(shape) in message


def test_a_square_state_is_not_aligned_from_the_right() -> None:
    x = torch.ones(3, 3)
    got = align(torch.tensor([1.0, 2.0, 3.0]), x) * x
    assert got[:, 0].tolist() == [1.0, 2.0, 3.0] and got[0].tolist() == [1.0, 1.0, 1.0]


@given(st.integers(0, 3), st.lists(st.integers(0, 3), max_size=3))
def test_sum_event(batch: int, event: list[int]) -> None:
    x = torch.arange(batch * torch.Size(event).numel(), dtype=torch.float64)
    x = x.reshape(batch, *event)
    got = sum_event(x)
    assert got.shape == (batch,)
    assert got.tolist() == [float(x[i].sum()) for i in range(batch)]


def test_align_beside_a_zero_dimensional_state() -> None:
    with pytest.raises(ss.errors.ShapeError, match=r"shape \(\)"):
        align(torch.ones(2), torch.tensor(1.0))


def test_float64() -> None:
    assert float64(0.1).dtype == torch.float64 and float64(0.1).item() == 0.1
    assert float64(torch.tensor([0.5, 1.0]).half()).tolist() == [0.5, 1.0]
    like = torch.ones(2, device="meta")
    assert float64(0.1, like=like).device == like.device
    assert float64(torch.ones(2), like=like).device == like.device
    assert float64(2).dtype == float64(torch.tensor(2)).dtype == torch.float64


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        ([1.0], "list"),
        (None, "NoneType"),
        (torch.ones(2, dtype=torch.int64), "int64"),
        (torch.ones(2, dtype=torch.bool), "bool"),
        (torch.ones(2, dtype=torch.complex64), "complex64"),
        (torch.tensor(1.0), "0-dim"),
    ],
)
def test_require_state(bad: object, got: str) -> None:
    with pytest.raises(ss.errors.ShapeError, match=got) as caught:
        checks.state(bad, "picture")
    assert "picture" in str(caught.value)
    with pytest.raises(ss.errors.ShapeError, match=got):
        checks.same_shape(bad, torch.ones(2), "picture")


def test_require_same_shape() -> None:
    checks.state(torch.ones(0, 3).half())
    checks.same_shape(torch.ones(2, 3).half(), torch.ones(2, 3), "y")
    with pytest.raises(ss.errors.ShapeError, match=r"y shaped like x, \(2, 3\); got \(3,\)"):
        checks.same_shape(torch.ones(3), torch.ones(2, 3), "y")
