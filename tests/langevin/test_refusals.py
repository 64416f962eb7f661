"""What Langevin chains refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from sdescore.errors import ParameterError, ShapeError
from sdescore.langevin.preconditioner import Preconditioner
from tests.helpers.refusals import Refusal, rows

REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "bad preconditioners": (
        (lambda: Preconditioner.diagonal([1.0, 0.0]), ParameterError, "expected"),
        (lambda: Preconditioner.diagonal([1.0, -1.0]), ParameterError, "expected"),
        (lambda: Preconditioner.diagonal([1.0, math.nan]), ParameterError, "expected"),
        (lambda: Preconditioner.diagonal([1.0, math.inf]), ParameterError, "expected"),
        (lambda: Preconditioner.diagonal("wide"), ShapeError, "expected"),
        (lambda: Preconditioner.full([[1.0, 0.1], [0.0, 1.0]]), ParameterError, "expected"),
        (lambda: Preconditioner.full([[1.0, 2.0], [2.0, 1.0]]), ParameterError, "expected"),
        (lambda: Preconditioner.full([[1.0, 1.0], [1.0, 1.0]]), ParameterError, "expected"),
        (
            lambda: Preconditioner.full([[1.0, math.nan], [math.nan, 1.0]]),
            ParameterError,
            "expected",
        ),
        (lambda: Preconditioner.full([1.0, 1.0]), ShapeError, "expected"),
        (lambda: Preconditioner.full(torch.ones(2, 3)), ShapeError, "expected"),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
