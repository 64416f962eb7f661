"""The numbers that exact scores are made from, as a user gives them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ParameterError, ShapeError

Numbers = Tensor | Sequence[float] | Sequence[Sequence[float]] | float


def as_tensor(values: Numbers) -> Tensor:
    """The values as a tensor in the precision they came in; Python floats are float64."""
    import numpy as np

    expected = "real numbers in a tensor, array or sequence"
    try:
        found = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError):  # words, or rows of unequal length
        checks.refuse(expected, f"{values!r:.100}", ShapeError)
    return checks.dense("the numbers", found, ParameterError).detach()


def finite(name: str, values: Numbers) -> Tensor:
    """A float64 copy of the values on the CPU."""
    return checks.finite_tensor(name, as_tensor(values).to("cpu", torch.float64, copy=True))
