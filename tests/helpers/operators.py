"""All operators of the package, and the dot test of an adjoint."""

from __future__ import annotations

import torch
from torch import Tensor

import sdescore as ss
from sdescore.rooms import members

# Whatever is in the room: a file that is put there is tested by being there.
OPERATORS: dict[str, ss.inverse.Operator] = {
    f"{kind.__name__} {number}": operator
    for kind in members("sdescore.inverse", ss.inverse.Operator)
    for number, operator in enumerate(kind.examples())
}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def adjoint_error(operator: ss.inverse.Operator) -> float:
    """``|<A x, v> - <x, Aᵀ v>| / (‖A x‖ ‖v‖)`` for one random x and v, in float64."""
    x, v = normal(1, *operator.event_shape), normal(1, *operator.measurement_shape, seed=1)
    Ax = operator(x)
    difference = (Ax * v).sum() - (x * operator.adjoint(v)).sum()
    return (difference.abs() / (Ax.norm() * v.norm())).item()
