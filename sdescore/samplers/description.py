"""What fixes the samples of a request, for two processes or two runs to compare."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
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
    """What fixes the samples of a request, as JSON; ``model`` by its repr and its weights."""
    require_sampler(sampler)
    checks.function("model", model)
    weights = model.state_dict().values() if isinstance(model, nn.Module) else ()
    tensors = [value for value in weights if isinstance(value, Tensor)]
    return {
        "sampler": plain(sampler),
        "model": digest(plain(model), *tensors),
        "shape": list(checks.shape(shape)),
        "seed": checks.seed(seed),
        "init": digest(init) if isinstance(init, Tensor) else None,
        "label": None if label is None else digest(*named(label)),
        "dtype": str(dtype or home(model)[1]).removeprefix("torch."),
    }


def named(label: Condition) -> Iterator[str | Tensor]:
    """The tensors of a condition, each after its name; anything else is refused by a sampler."""
    for name, part in parts_of(label):
        yield from (name, part if isinstance(part, Tensor) else plain(part))


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
