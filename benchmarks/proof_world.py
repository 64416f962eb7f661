"""A plugin of pytest: the library runs in a world that the tests' own tensors do not see.

``PROOF_DTYPE`` and ``PROOF_DEVICE`` are torch's default dtype and device. A call of torch from a
file of the tests is done in float32 on the CPU, as the tests expect; one from the library is not.
The networks that a test builds are its own: like any module of torch, they follow the defaults.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

ROOT = Path(__file__).parent.parent
TESTS, PACKAGE = (str(ROOT / name) + os.sep for name in ("tests", "sdescore"))
NETS = PACKAGE + "nets" + os.sep
DTYPE = getattr(torch, os.environ["PROOF_DTYPE"])
DEVICE = os.environ["PROOF_DEVICE"]


def of_tests() -> bool:
    """Whether the nearest caller in this repository is a test, or builds its network."""
    frame, inside = sys._getframe(2), False
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith((TESTS, "<doctest")):
            return True
        if name.startswith(NETS):
            inside = True
            if frame.f_code.co_name == "__init__":
                return built_by_tests(frame)
        elif name.startswith(PACKAGE) or inside:
            return False
        frame = frame.f_back
    return False


def built_by_tests(frame: FrameType | None) -> bool:
    """Whether a network's ``__init__`` was called by a test, and not by a loader."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE) and not name.startswith(NETS):
            return False
        if name.startswith((TESTS, "<doctest")):
            return True
        frame = frame.f_back
    return False


class Tests(TorchFunctionMode):
    """Calls from the tests in float32, on the CPU."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if not of_tests():
            return func(*args, **(kwargs or {}))
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with DeviceContext(torch.device("cpu")):
                return func(*args, **(kwargs or {}))
        finally:
            torch.set_default_dtype(before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    torch.set_default_dtype(DTYPE)
    torch.set_default_device(DEVICE)
    try:
        with Tests():
            return (yield)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
