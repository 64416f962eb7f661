"""Networks that the tests of the room share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

SMALL: dict[str, Any] = {"width": 8, "multipliers": (1, 2), "blocks": 1}


def perturbed(net: nn.Module) -> nn.Module:
    """Move every weight off its zero initialisation, so that every branch is alive."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@contextmanager
def inductor() -> Iterator[None]:
    """A skip where torch's compiler cannot work: without C++, or in a folder with a space."""
    try:
        yield
    except torch._dynamo.exc.BackendCompilerFailed as error:
        pytest.skip(f"inductor cannot compile here: {str(error)[:80]}")
