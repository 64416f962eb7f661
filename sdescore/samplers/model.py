"""What a sampler asks of a model: its device and dtype, eval mode, and an answer like its input."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.typing import Score


def called(function: Callable[..., object], x: Tensor, *rest: Tensor, who: str) -> Tensor:
    """``function(x, *rest)``, refused unless it is a tensor like ``x`` and leaves ``x`` alone.

    A loop that updates its state in place would give wrong samples, unnoticed, if the model changed
    its input.

    Raises
    ------
    IncompatibleError, ShapeError
        No real tensor of the shape of ``x``, or ``x`` was changed in place.
    """
    if is_compiling() or x.is_inference():  # neither counts how often a tensor was written to
        return checks.score_output(function(x, *rest), x, who)
    version = x._version
    y = checks.score_output(function(x, *rest), x, who)
    if x._version != version:
        checks.refuse(
            f"{who} to leave its input as it is",
            "one that changed it in place; work on x.clone()",
            IncompatibleError,
        )
    return y


def home(model: Score) -> tuple[torch.device, torch.dtype]:
    """Where a model is, and the state's dtype beside it: the model's, but at least float32.

    By its parameters, else by its ``device`` and ``dtype`` attributes, else the CPU and float32.
    """
    device, dtype = getattr(model, "device", None), getattr(model, "dtype", None)
    dtype = dtype if isinstance(dtype, torch.dtype) else torch.float32
    for parameter in model.parameters() if isinstance(model, nn.Module) else ():
        device = parameter.device
        if parameter.is_floating_point():
            dtype = parameter.dtype
            break
    if not isinstance(device, torch.device):
        device = usable_device(device) if isinstance(device, str) else torch.device("cpu")
    return device, torch.promote_types(dtype, torch.float32)


def usable_device(device: torch.device | str) -> torch.device:
    """``device``, refused where this machine cannot put numbers on it.

    Raises
    ------
    ShapeError
        An unknown device, one that is not there, or ``"meta"``, which holds no numbers.
    """
    try:
        found = torch.device(device)
        torch.empty(0, dtype=torch.float32, device=found)
        reason = "it holds no numbers" if found.type == "meta" else ""
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0] or "it is not there"
    if reason:
        raise ShapeError(
            f"expected a device of this machine, such as 'cpu', got {device!r}: {reason}"
        )
    return found


# How many runs need a module in eval mode that its owner has in train mode.
_runs: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def evaluating(model: Score) -> Iterator[None]:
    """A module in eval mode while a run in any thread needs it so, then as it was before.

    The flag belongs to the module and not to a thread, so runs are counted: the last one to end
    restores it, and no run sees the network in train mode because another one has ended.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    with _lock:
        modules = []
        if model.training or model in _runs:
            modules = [m for m in model.modules() if m.training or m in _runs]
            for module in modules:
                _runs[module] = _runs.get(module, 0) + 1
        if model.training:
            model.eval()
    try:
        yield
    finally:
        with _lock:
            for module in modules:
                _runs[module] -= 1
                if not _runs[module]:
                    del _runs[module]
                    module.training = True
