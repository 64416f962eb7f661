"""What NCSN's networks refuse: arguments out of range, and calls with another state or level."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdescore.errors import IncompatibleError, ParameterError, ShapeError
from sdescore.nets import NCSN, NCSNv2
from tests.helpers.ncsn import NETS, SIGMAS

# Made from the official code's own networks; tower's and CelebA's NCSN repeat two of these.


@pytest.mark.parametrize("name", NETS)
def test_wrong_inputs_are_refused(name: str) -> None:
    make, size = NETS[name]
    net, x, c = make(), torch.rand(2, 2, size, size), torch.tensor([0, 3])
    for bad in (x[0], x[:, :1], x[..., 1:], x[..., :0], x[..., None], x.tolist()):
        with pytest.raises(ShapeError, match="expected x"):
            net(bad, c)
    with pytest.raises(ShapeError, match="dtype"):
        net(x.double(), c)
    for bad in (c[:1], c[0], c[:, None], 3, c > 0):
        with pytest.raises(ShapeError, match="expected c, levels"):
            net(x, bad)
    for bad in (c + 1, c - 1):
        with pytest.raises(ShapeError, match="levels in 0 … 3"):
            net(x, bad)
    with pytest.raises(IncompatibleError, match="no label"):
        net(x, c, c)


def test_ncsn_takes_no_level_between() -> None:
    with pytest.raises(ShapeError, match="integer levels"):
        NCSN(1, 4, 4)(torch.rand(1, 1, 8, 8), torch.tensor([1.5]))


@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": 0},
        {"width": 1},
        {"sigmas": (1.0,)},
        {"sigmas": (1.0, 2.0)},
        {"sigmas": (1.0, 0.0)},
        {"rescaled": 1},
        {"depth": 3},
        {"nonlinearity": "gelu"},
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises((ParameterError, IncompatibleError), match="expected"):
        NCSNv2(**{"channels": 1, "sigmas": SIGMAS, "width": 4, **arguments})


@pytest.mark.parametrize(
    ("name", "value"), [("levels", 0), ("depth", 6), ("normalization", "BatchNorm")]
)
def test_bad_arguments_of_ncsn_are_refused(name: str, value: Any) -> None:
    with pytest.raises((ParameterError, IncompatibleError), match=f"expected.* {name}"):
        NCSN(**{"channels": 1, "width": 4, name: value})
