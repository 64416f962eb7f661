"""The optimiser as named tensors, and a run put back where it stopped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sdescore.checkpoint.container import opened
from sdescore.checkpoint.store import read_ema, read_net, training_record
from sdescore.errors import CheckpointError
from sdescore.nets.ema import EMA
from sdescore.score.model import ScoreModel

ADAM = ("exp_avg", "exp_avg_sq", "step")
COUNTS = (torch.float32, torch.float64)  # torch's choice follows the caller's default dtype


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """AdamW's state as ``<parameter>/<what>``; parameters that never had a gradient have none."""
    return {
        f"{name}/{what}": value
        for name, parameter in named.items()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def check_optimizer(named: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not AdamW's for these parameters.

    Raises
    ------
    CheckpointError
        With the first that is none.
    """
    left = dict(tensors)
    for name, parameter in named.items():
        if not any(f"{name}/{what}" in left for what in ADAM):
            continue
        for what in ADAM:
            value = left.pop(f"{name}/{what}", None)
            # AdamW counts its steps in a float, on the CPU.
            shape = () if what == "step" else parameter.shape
            dtypes = COUNTS if what == "step" else (parameter.dtype,)
            if value is None or value.shape != shape or value.dtype not in dtypes:
                raise _foreign(f"{name}/{what}")
    if left:
        raise _foreign(next(iter(left)))


def _foreign(name: str) -> CheckpointError:
    return CheckpointError(
        f"expected AdamW's tensors for this network, got something else at optim/{name}; start "
        "anew with resume=False"
    )


def resume_run(
    path: str | os.PathLike[str],
    model: ScoreModel,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    named: Mapping[str, nn.Parameter],
    options: Mapping[str, Any],
) -> int:
    """Put the run of a checkpoint into ``model``, ``ema`` and ``optimizer``; its number of steps.

    Raises
    ------
    CheckpointError
        The file is damaged, or of another model or of a run with other options. Nothing is
        changed then.
    """
    with opened(path) as file:
        record = training_record(file, model, ema)
        _check_options(path, options, record.options)
        check_optimizer(named, record.optimizer)
        # The file is whole and fits: from here on nothing is refused.
        read_net(file, model.net)
        read_ema(file, ema)
        for name, parameter in named.items():
            for what in ADAM:
                if f"{name}/{what}" in record.optimizer:
                    value = file.read(f"optim/{name}/{what}")
                    home = "cpu" if what == "step" else parameter.device
                    optimizer.state[parameter][what] = value.to(home)
    return record.step


def _check_options(
    path: str | os.PathLike[str], options: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    """Refuse to go on with a run under other options than it began with."""
    keys = options.keys() | theirs.keys()
    different = [key for key in sorted(keys) if options.get(key) != theirs.get(key)]
    if different:
        key = different[0]
        raise CheckpointError(
            f"expected the options of the run in {path}, got others for {', '.join(different)}; "
            f"first {key}: expected {theirs.get(key)!r}, got {options.get(key)!r}. Pass the same, "
            "or start anew with resume=False"
        )
