"""What fixes the samples of a request, for two processes or two runs to compare."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.conditions import parts_of
from sdescore.samplers.chunks import Sampler, require_sampler
from sdescore.samplers.request import home
from sdescore.typing import Condition, Score


def described(
    sampler: Sampler,
    model: Score,
    shape: tuple[int, ...],
    seed: int,
    init: Tensor | None,
    label: Condition | None,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """What fixes the samples of a request, as JSON; ``model`` by its repr and its numbers."""
    require_sampler(sampler)
    checks.function("model", model)
    return {
        "sampler": text_of(sampler),
        "model": digest(plain(model), *numbers(model, set())),
        "shape": list(checks.shape(shape)),
        "seed": checks.seed(seed),
        "init": digest(init) if isinstance(init, Tensor) else None,
        "label": None if label is None else digest(*named(label)),
        "dtype": str(dtype or home(model)[1]).removeprefix("torch."),
    }


def text_of(sampler: Sampler) -> str:
    """The repr, with a digest of the fields where the repr says an address in place of numbers."""
    text = plain(sampler)
    if text == repr(sampler) or not is_dataclass(sampler):
        return text
    own = [getattr(sampler, field.name) for field in fields(sampler) if field.init]
    return f"{text} {digest(*numbers(own, set()))}"


def named(label: Condition) -> Iterator[str | Tensor]:
    """The tensors of a condition, each after its name; anything else is refused by a sampler."""
    for name, part in parts_of(label):
        yield from (name, part if isinstance(part, Tensor) else plain(part))


def numbers(value: object, seen: set[int]) -> Iterator[str | Tensor]:
    """What fixes the values of a score: weights, attributes, the closure and code of a function."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, str | bytes | int | float | complex | None | type):
        yield plain(value)
    elif id(value) not in seen:
        seen.add(id(value))
        parts: list[Any] = []
        if isinstance(value, Mapping):
            parts = [part for item in value.items() for part in item]
        elif isinstance(value, list | tuple):
            parts = [*value]
        elif isinstance(value, FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            yield value.__code__.co_code.hex() + plain(value.__code__.co_consts)
            parts = [*cells, value.__defaults__, value.__kwdefaults__]
        elif isinstance(value, MethodType):
            parts = [value.__self__, value.__func__]
        elif isinstance(value, partial):
            parts = [value.func, value.args, value.keywords]
        elif isinstance(value, nn.Module):
            parts = [value.state_dict(), dict(value.named_buffers())]
            for module in value.modules():
                if not hasattr(module, "_orig_mod"):  # torch.compile's own
                    parts += [(k, v) for k, v in vars(module).items() if is_option(k, v)]
        elif type(value).__repr__ is not object.__repr__ and not is_dataclass(value):
            yield plain(value)  # says itself what it is
        elif hasattr(value, "__dict__"):
            parts = [vars(value)]
        for part in parts:
            yield from numbers(part, seen)


def is_option(name: str, value: object) -> bool:
    """Whether a module's attribute is an option, and neither a cache nor a record of its calls."""
    if name == "config":
        return True
    return name != "training" and not isinstance(value, Tensor | list | Mapping)


def plain(value: object) -> str:
    """The repr without addresses, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def digest(*parts: str | Tensor) -> str:
    """SHA-256 of texts and of tensors' shapes, dtypes and bytes."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype} {tuple(part.shape)}".encode())
            found.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            found.update(part.encode())
    return found.hexdigest()
