"""What data sets refuse: the call, its error, and what the message says."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from sdescore.datasets import checkerboard, ring, swiss_roll, two_moons
from sdescore.errors import ParameterError
from tests.helpers.refusals import Refusal, rows

REFUSALS: dict[str, tuple[Refusal, ...]] = {
    "parameters outside their range are refused": (
        *(
            (call, ParameterError, r"expected .*; got")
            for call in [
                lambda: ring(-1),
                lambda: ring(4, modes=0),
                lambda: ring(4, radius=-1.0),
                lambda: ring(4, std=math.nan),
                lambda: swiss_roll(4, turns=0.0),
                lambda: swiss_roll(4, turns=2.5),
                lambda: swiss_roll(4, std=math.inf),
                lambda: checkerboard(4, squares=3),
                lambda: checkerboard(4, squares=0),
                lambda: checkerboard(4, half_width=-1.0),
                lambda: two_moons(4, radius=math.nan),
                lambda: two_moons(-4),
            ]
        ),
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), rows(REFUSALS))
def test_what_is_refused(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
