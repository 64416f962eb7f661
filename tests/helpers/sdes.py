"""SDEs that the tests of the room share."""

from __future__ import annotations

import mpmath
import torch

mpmath.mp.dps = 50


def relative(got: float, expected: float) -> float:
    return abs(got - expected) / abs(expected) if expected else abs(got)


ONE, ID = torch.ones_like, torch.clone
