"""Networks that the tests of the room share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

SMALL: dict[str, Any] = {"width": 8, "multipliers": (1, 2), "blocks": 1}


def perturbed(net: nn.Module) -> nn.Module:
    """Move every weight off its zero initialisation, so that every branch is alive."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net
