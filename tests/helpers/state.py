"""Global settings a caller may have made, none of which may change a number of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

DEFAULTS = [torch.float16, torch.bfloat16, torch.float64, "meta"]
"""Default dtypes, and a default device on which every number is lost."""

under_each_default = pytest.mark.parametrize("default", DEFAULTS, ids=str)


@contextmanager
def torch_default(default: torch.dtype | str) -> Iterator[None]:
    """``torch.set_default_dtype`` or ``torch.set_default_device``, undone at the end."""
    before = torch.get_default_dtype()
    try:
        if isinstance(default, torch.dtype):
            torch.set_default_dtype(default)
        else:
            torch.set_default_device(default)
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)
