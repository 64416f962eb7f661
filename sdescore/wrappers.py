"""What stands around a score: wrappers of PyTorch and of Python, and the score inside.

``DataParallel``, ``DistributedDataParallel``, ``AveragedModel`` and ``torch.compile`` hide a
score's attributes, and so do ``functools.partial``, a method such as ``model.forward`` and
``functools.wraps``. What calls a score still calls the wrapper.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.optim.swa_utils import AveragedModel

from sdescore import checks
from sdescore.conditions import parts_of
from sdescore.errors import IncompatibleError

PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def unwrapped(score: object) -> Any:
    """The score inside PyTorch's wrappers, or the score itself."""
    while isinstance(score, nn.Module) and not hasattr(score, "sde"):
        inside = score.module if isinstance(score, PARALLEL) else getattr(score, "_orig_mod", None)
        if not isinstance(inside, nn.Module):
            break
        score = inside
    return score


def owner_of(score: object) -> Any:
    """The score that has the attributes: also inside a ``partial`` of keywords, or a ``forward``.

    Such a wrapper changes no state and no output. Of another function the library knows nothing.
    """
    while True:
        if isinstance(score, functools.partial) and not score.args:
            score = score.func
        elif inspect.ismethod(score) and score.__name__ in ("forward", "__call__"):
            score = score.__self__
        else:
            return unwrapped(score)


def sde_of(score: object) -> Any:
    """The SDE that a score says it is on, or None; all wrappers are looked through.

    A wrapper may change the output, but hardly the SDE: a module with a ``module`` of its own, a
    ``partial``, any method, and a function that ``functools.wraps`` another.
    """
    while True:
        found = getattr(score, "sde", None)
        if found is not None:
            return found
        if isinstance(score, functools.partial):
            score = score.func
        elif inspect.ismethod(score):
            score = score.__self__
        elif inspect.isfunction(score) and hasattr(score, "__wrapped__"):
            score = score.__wrapped__
        elif isinstance(score, nn.Module):
            inside = getattr(score, "module", None) or getattr(score, "_orig_mod", None)
            if not isinstance(inside, nn.Module):
                return None
            score = inside
        else:
            return None


def undisturbed(function: Callable[..., Any], x: Tensor, *rest: object, who: str) -> Any:
    """``function(x, *rest)``, refused if it writes to ``x`` or to another of its arguments.

    A loop that uses them again would give wrong samples, unnoticed.
    """
    # Neither a compiled graph nor inference mode counts how often a tensor was written to.
    if is_compiling() or x.is_inference():
        return function(x, *rest)
    watched = tensors_in(x, *rest)
    versions = [part._version for part in watched]
    y = function(x, *rest)
    for part, version in zip(watched, versions, strict=True):
        if part._version != version:
            disturbed(who)
    return y


def disturbed(who: str) -> NoReturn:
    """Refuse a function that wrote to its arguments."""
    got = "one that changed it in place; work on a .clone()"
    checks.refuse(f"{who} to leave its input as it is", got, IncompatibleError)


def tensors_in(*items: object) -> list[Tensor]:
    """The tensors of some arguments that count how often they were written to."""
    parts = [*items]
    for item in items:
        if isinstance(item, Mapping):
            parts += [part for _, part in parts_of(item)]
    return [part for part in parts if isinstance(part, Tensor) and not part.is_inference()]
