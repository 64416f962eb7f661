"""SDEs that the tests of the exponential Adams methods share."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.strategies import REPRESENTATIVES

F64 = torch.float64


LINEAR = {name: sde for name, sde in REPRESENTATIVES.items() if not hasattr(sde, "levels")}


EVERY = pytest.mark.parametrize("sde", LINEAR.values(), ids=LINEAR.keys())
