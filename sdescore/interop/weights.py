"""The tensors of a foreign file, and how they get into a network of this package.

``.pth`` and ``.pt`` files are read by ``torch.load(weights_only=True)``, which makes tensors,
numbers and containers of them and refuses everything else. ``.safetensors`` files hold tensors
alone. A pickle of a whole object is refused: to open it is to run what it says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import CheckpointError, MissingFileError
from sdescore.nets.ema import plain_name

CONVERT = (
    "where the original code runs, load the file and save its tensors: "
    'torch.save(net.state_dict(), "weights.pt")'
)


def read_weights(path: str | os.PathLike[str], convert: str = CONVERT) -> Any:
    """What a file holds: a dict of tensors, or of the parts of a training state.

    ``convert`` says how to make such a file of one that is refused.

    Raises
    ------
    CheckpointError, FileNotFoundError
        The file holds more than tensors, numbers and containers, is damaged, or is not there.
    """
    path = checks.path(path)
    if path.suffix in (".pkl", ".pickle"):
        got = f"the pickle {path.name}; {convert}"
        checks.refuse("a file of tensors, which runs nothing", got, CheckpointError)
    there = path.exists()
    checks.that(there, f"a file of weights at {path}", "no file there", MissingFileError)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"expected a safetensors file at {path}, got {error}") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of whatever kind a file that is none causes
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = (
            f"expected tensors and plain containers alone in {path}, got {what:.200}; {convert}"
        )
        raise CheckpointError(message) from error


def network_state(state: object, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """A network's tensors by plain name: without ``module.`` and ``_orig_mod.`` before them."""
    tensors = isinstance(state, Mapping) and all(isinstance(v, Tensor) for v in state.values())
    if not isinstance(state, Mapping) or not tensors or not state:
        got = sorted(map(str, state))[:5] if isinstance(state, Mapping) else type(state).__name__
        checks.refuse(f"a network's state_dict in {path}", got, CheckpointError)
    named = {plain_name(str(name)): value for name, value in state.items()}
    while all(name.startswith("module.") for name in named):
        named = {name.removeprefix("module."): value for name, value in named.items()}
    return named


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], path: object) -> None:
    """Give a network exactly these tensors, cast to its dtypes; names and shapes must be its own.

    Raises
    ------
    CheckpointError
        A tensor is missing, unknown, of another shape, or no finite real numbers; the message
        names the first.
    """
    own = net.state_dict()
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    different = [name for name in (shapes | found) if shapes.get(name) != found.get(name)]
    if different:
        name = different[0]
        raise CheckpointError(
            f"expected the tensors of {type(net).__name__} in {path}; {len(different)} differ, "
            f"first {name!r}: expected {shapes.get(name, 'nothing')}, got "
            f"{found.get(name, 'nothing')}; check the configuration"
        )
    for name, value in state.items():
        usual = value.layout is torch.strided and not (value.is_complex() or value.is_meta)
        usual = usual and not (value.is_floating_point() and value.itemsize < 2)
        expected = f"finite real numbers in {name!r} of {path}"
        checks.that(usual, expected, f"{value.dtype}, {value.layout}", CheckpointError)
        checks.that(bool(value.isfinite().all()), expected, "NaN or infinity", CheckpointError)
    net.load_state_dict(state)


def averaged(
    net: nn.Module, state: Mapping[str, Tensor], average: Sequence[Tensor]
) -> dict[str, Tensor]:
    """A state in which the trainable parameters are those of ``average``, in their order.

    Averages that are lists (score_sde, NCSNv2) hold the parameters with ``requires_grad`` alone.
    """
    trained = [name for name, value in net.named_parameters() if value.requires_grad]
    expected = f"an average of {len(trained)} tensors, one for each trainable parameter"
    checks.that(len(average) == len(trained), expected, len(average), CheckpointError)
    return {**state, **dict(zip(trained, average, strict=True))}
