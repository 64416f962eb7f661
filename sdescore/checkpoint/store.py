"""Save a score model, load it again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from sdescore.checkpoint.container import from_json, read, to_json, write
from sdescore.checkpoint.manifest import FORMAT, build_model, describe_model, require_tensors
from sdescore.errors import CheckpointError, IncompatibleError, ScheduleError
from sdescore.nets.ema import EMA
from sdescore.score.model import ScoreModel
from sdescore.sde.linear import LinearSDE

__all__ = ["load", "save"]

PREFIXES = ("net/", "ema/", "optim/")


@dataclass(frozen=True)
class TrainingRecord:
    """Where a training run stands.

    Attributes
    ----------
    step : int
        Optimiser steps done.
    options : dict
        The run's options, JSON.
    optimizer : dict[str, Tensor]
        The optimiser's tensors.
    """

    step: int
    options: dict[str, Any]
    optimizer: dict[str, Tensor] = field(repr=False)


def save(
    path: str | os.PathLike[str],
    model: ScoreModel,
    *,
    ema: EMA | None = None,
    training: TrainingRecord | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write one safetensors file that :func:`sdescore.load` needs nothing beside.

    The write is atomic and synced to disk; the version before is kept as
    ``<stem>.previous.safetensors``.

    Parameters
    ----------
    path : path
        Conventionally ``….safetensors``; missing folders are made.
    model : ScoreModel
        An SDE or network from outside the package is saved by its name, its weights included;
        loading then needs ``sde=`` or ``net=``.
    ema : EMA, optional
        The average of ``model.net``.
    training : TrainingRecord, optional
        What resuming needs; :func:`sdescore.train` makes it.
    info : dict, optional
        Your own notes, JSON; :func:`sdescore.checkpoint.store.read_manifest` gives them back.

    Raises
    ------
    CheckpointError
        ``info`` or the network's ``config`` is not JSON.
    IncompatibleError
        ``model`` is no ScoreModel with an ``nn.Module`` inside.

    Examples
    --------
    >>> import tempfile, torch, sdescore as ss
    >>> model = ss.ScoreModel(ss.MLP(2, hidden=16), ss.VPSDE(), time_input="log_snr")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ss.save(f"{folder}/vp.safetensors", model)
    ...     again = ss.load(f"{folder}/vp.safetensors")
    >>> again.sde, again.convention.time_input
    (VPSDE(beta_min=0.1, beta_max=20.0), 'log_snr')
    """
    from sdescore import __version__

    if not isinstance(model, ScoreModel) or not isinstance(model.net, nn.Module):
        raise IncompatibleError(
            f"expected a ScoreModel around an nn.Module, got {type(model).__name__}; wrap the "
            "network: ScoreModel(net, sde)"
        )
    tensors = {f"net/{name}": value for name, value in model.net.state_dict().items()}
    manifest = {
        "format": FORMAT,
        "library": __version__,
        **describe_model(model),
        "ema": None,
        "training": None,
        "info": dict(info or {}),
    }
    if ema is not None:
        tensors |= {f"ema/{name}": value for name, value in ema.state_dict().items()}
        manifest["ema"] = {"decay": ema.decay, "warmup": ema.warmup}
    if training is not None:
        tensors |= {f"optim/{name}": value for name, value in training.optimizer.items()}
        manifest["training"] = {"step": training.step, "options": training.options}
    write(path, tensors, manifest)


def load(
    path: str | os.PathLike[str],
    *,
    weights: str = "ema",
    device: torch.device | str = "cpu",
    net: nn.Module | None = None,
    sde: LinearSDE | None = None,
) -> ScoreModel:
    """The model of a checkpoint, in evaluation mode.

    Nothing in the file is executed: it is checked against its SHA-256, classes come from a fixed
    table, and names, shapes and dtypes of all weights must fit.

    Parameters
    ----------
    path : path
        What :func:`sdescore.save` or :func:`sdescore.train` wrote.
    weights : {"ema", "raw"}
        The averaged weights (the raw ones, if the file holds no average), or the raw ones.
    device : torch.device or str
        Where to put the network.
    net : nn.Module, optional
        For a network that is not from this package: an instance, which receives the weights.
    sde : LinearSDE, optional
        For an SDE that is not from this package.

    Raises
    ------
    CheckpointError
        The file is damaged, foreign or inconsistent, or needs ``net=`` or ``sde=``.
    FileNotFoundError
        There is no such file.
    ScheduleError
        ``weights`` is neither.
    """
    if weights not in ("ema", "raw"):
        raise ScheduleError(f"expected weights='ema' or 'raw', got {weights!r}")
    manifest, tensors = read(path)
    parts = _parts(tensors)
    model = build_model(manifest, parts["net/"], net=net, sde=sde)
    require_tensors(model.net.state_dict(), parts["net/"], "net/")
    ema = _saved_ema(manifest, parts["ema/"], model.net)
    model.net.load_state_dict(parts["net/"])
    if weights == "ema" and ema is not None:
        ema.copy_to(model.net)
    return model.to(device).eval()


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of an intact checkpoint: ``sde``, ``net``, ``training``, ``info``, ….

    Raises
    ------
    CheckpointError
        The file is damaged or foreign.
    """
    return read(path)[0]


class SavedTraining(NamedTuple):
    """A run in a file: where it stands, the raw weights, the average's state."""

    record: TrainingRecord
    net: dict[str, Tensor]
    ema: dict[str, Tensor]


def read_training(path: str | os.PathLike[str], model: ScoreModel, ema: EMA) -> SavedTraining:
    """What resuming ``model`` and ``ema`` from a file needs; both are only compared with it.

    Raises
    ------
    CheckpointError
        The file is damaged, belongs to another model, or holds no training state.
    """
    manifest, tensors = read(path)
    parts = _parts(tensors)
    for key, mine in from_json(to_json(describe_model(model))).items():
        if manifest.get(key) != mine:
            raise CheckpointError(
                f"expected a checkpoint of this model, whose {key} is {mine}, got "
                f"{manifest.get(key)}; make the model as it was, or start anew with resume=False"
            )
    training = manifest.get("training")
    averaging = {"decay": ema.decay, "warmup": ema.warmup}
    if not _is_training(training) or manifest.get("ema") != averaging:
        raise CheckpointError(
            f"expected a checkpoint of train() with an average {averaging}, got "
            f"training={training!r} and ema={manifest.get('ema')!r} in {path}; start anew with "
            "resume=False"
        )
    require_tensors(model.net.state_dict(), parts["net/"], "net/")
    require_tensors(ema.state_dict(), parts["ema/"], "ema/")
    record = TrainingRecord(training["step"], training["options"], parts["optim/"])
    return SavedTraining(record, parts["net/"], parts["ema/"])


def _is_training(entry: Any) -> TypeGuard[dict[str, Any]]:
    return (
        isinstance(entry, dict)
        and type(entry.get("step")) is int
        and entry["step"] >= 0
        and isinstance(entry.get("options"), dict)
    )


def _parts(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors by prefix, which is cut off."""
    parts: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in PREFIXES}
    for name, value in tensors.items():
        prefix, _, rest = name.partition("/")
        if f"{prefix}/" not in parts:
            raise CheckpointError(
                f"expected tensors under {', '.join(PREFIXES)} in the checkpoint, got {name!r}"
            )
        parts[f"{prefix}/"][rest] = value
    return parts


def _saved_ema(
    manifest: Mapping[str, Any], tensors: dict[str, Tensor], net: nn.Module
) -> EMA | None:
    if not tensors and manifest.get("ema") is None:
        return None
    ema = EMA(net)
    require_tensors(ema.state_dict(), tensors, "ema/")
    ema.load_state_dict(tensors)
    return ema
