"""The table of what a room refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, TypeAlias

import pytest

Refusal: TypeAlias = tuple[Callable[[], object], type[Exception], str]
"""A call, the error that it raises, and a regular expression that its message contains."""


def each(
    call: Callable[..., object], error: type[Exception], match: str, *values: Iterable[Any]
) -> list[Refusal]:
    """A row for every value of the call's argument, or for every combination of several."""
    return [(partial(call, *chosen), error, match) for chosen in product(*values)]


def rows(table: Mapping[str, Sequence[Refusal]]) -> list[Any]:
    """A test case a row; its id is the name of its group and its place there."""
    return [
        pytest.param(*row, id=f"{name}-{place}")
        for name, group in table.items()
        for place, row in enumerate(group)
    ]
