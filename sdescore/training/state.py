"""The optimiser as named tensors, and a run put back where it stopped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sdescore.checkpoint.store import read_training
from sdescore.errors import CheckpointError
from sdescore.nets.ema import EMA
from sdescore.score.model import ScoreModel

ADAM = ("exp_avg", "exp_avg_sq", "step")


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """AdamW's state as ``<parameter>/<what>``; parameters that never had a gradient have none."""
    return {
        f"{name}/{what}": value
        for name, parameter in named.items()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def adam_state(
    named: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> dict[nn.Parameter, dict[str, Tensor]]:
    """The inverse of :func:`optimizer_tensors`, for ``optimizer.state``.

    Raises
    ------
    CheckpointError
        The tensors are not AdamW's for these parameters.
    """
    left = dict(tensors)
    state: dict[nn.Parameter, dict[str, Tensor]] = {}
    for name, parameter in named.items():
        if not any(f"{name}/{what}" in left for what in ADAM):
            continue
        state[parameter] = {}
        for what in ADAM:
            value = left.pop(f"{name}/{what}", None)
            # AdamW counts its steps in float32, on the CPU.
            like = torch.empty(()) if what == "step" else parameter
            if value is None or value.shape != like.shape or value.dtype != like.dtype:
                raise _foreign(f"{name}/{what}")
            state[parameter][what] = value.to(like.device, copy=True)
    if left:
        raise _foreign(next(iter(left)))
    return state


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
    saved = read_training(path, model, ema)
    theirs = saved.record.options
    keys = options.keys() | theirs.keys()
    different = [key for key in sorted(keys) if options.get(key) != theirs.get(key)]
    if different:
        key = different[0]
        raise CheckpointError(
            f"expected the options of the run in {path}, got others for {', '.join(different)}; "
            f"first {key}: expected {theirs.get(key)!r}, got {options.get(key)!r}. Pass the same, "
            "or start anew with resume=False"
        )
    state = adam_state(named, saved.record.optimizer)
    model.net.load_state_dict(saved.net)
    ema.load_state_dict(saved.ema)
    for parameter, tensors in state.items():
        optimizer.state[parameter] = tensors
    return saved.record.step
