"""The caller's world is not ours: it changes no number.

Every task of :mod:`tests.helpers.world` gives the same bits under another default dtype or device,
under autocast (but for a network's own arithmetic), in inference mode, with other threads, under
``python -O`` and with every warning an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial

import pytest
import torch

from tests.helpers import ROOT, world
from tests.helpers.callers import default_dtype


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


WORLDS = {
    "float16": partial(default_dtype, torch.float16),
    "bfloat16": partial(default_dtype, torch.bfloat16),
    "float64": partial(default_dtype, torch.float64),
    "meta": partial(default_device, "meta"),
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "two threads": partial(threads, 2),
}
# A network's own arithmetic is the caller's: autocast rounds it, and threads split its sums.
MEANT = {("autocast", "training"), ("two threads", "training")}


@cache
def plain(task: str) -> str:
    with nullcontext():
        return world.digest(task)


@pytest.mark.guards("W01")
@pytest.mark.parametrize("task", world.TASKS)
@pytest.mark.parametrize("name", WORLDS)
def test_the_callers_world_changes_no_number(name: str, task: str) -> None:
    if (name, task) in MEANT:
        pytest.skip("meant to change")
    expected = plain(task)
    entered: AbstractContextManager[object] = WORLDS[name]()
    with entered:
        got = world.digest(task)
    assert got == expected


@pytest.mark.slow
def test_optimised_python_with_warnings_as_errors_gives_the_same_bits() -> None:
    command = [sys.executable, "-O", "-W", "error", "tests/helpers/world.py"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    got = dict(line.split() for line in done.stdout.splitlines())
    assert got == {task: plain(task) for task in world.TASKS}
