"""Save a score model, load it again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.checkpoint.container import Container, write
from sdescore.checkpoint.folder import Folder, opened
from sdescore.checkpoint.manifest import (
    FORMAT,
    build_model,
    describe_model,
    from_json,
    get,
    require_tensors,
    to_json,
)
from sdescore.errors import CheckpointError, IncompatibleError, ParameterError
from sdescore.nets.ema import (
    COUNT,
    EMA,
    PREFIX,
    averaged_dtype,
    network_tensors,
    plain_name,
    plain_network,
)
from sdescore.score.model import ScoreModel
from sdescore.score.time_input import TimeFunction
from sdescore.sde.linear import LinearSDE

__all__ = ["load", "read_manifest", "save"]

PREFIXES = ("net/", "ema/", "optim/")


@dataclass(frozen=True)
class TrainingRecord:
    """Where a training run stands: steps done, its options (JSON), its optimiser's tensors."""

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

    The write is atomic and synced to disk: of several processes that save to one path the last
    one wins, whole. The version before is kept as ``<stem>.previous.safetensors``. Your own
    symbolic link stays, and the file that it leads to is replaced.

    Parameters
    ----------
    path : path
        Conventionally ``….safetensors``; missing folders are made.
    model : ScoreModel
        An SDE or network from outside the package is saved by its name, its weights included, and
        so is a time input that is a function. Loading then needs ``sde=``, ``net=`` or
        ``time_input=``.
    ema, training : EMA, TrainingRecord, optional
        The average of ``model.net``; what resuming needs, as :func:`sdescore.train` makes it.
    info : dict, optional
        Your own notes, JSON; :func:`sdescore.checkpoint.read_manifest` gives them back.

    Raises
    ------
    CheckpointError
        ``info`` or the network's ``config`` is not JSON; a tensor holds NaN, or is sparse, complex,
        float8 or on the device "meta"; or the system refuses to write. The file that was there is
        untouched, and nothing else is left.
    IncompatibleError
        ``model`` is no ScoreModel with an ``nn.Module`` inside, or ``info`` is no dict.

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
    write(path, *contents(model, ema=ema, training=training, info=info))


def contents(
    model: ScoreModel,
    *,
    ema: EMA | None = None,
    training: TrainingRecord | None = None,
    info: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, not copied, and its manifest."""
    from sdescore import __version__

    made = getattr(model, "made_of_scores", False)  # such as clipped(model)
    advice = "save the model inside" if made else "wrap the network: ScoreModel(net, sde)"
    got = f"{type(model).__name__}; {advice}"
    if not isinstance(model, ScoreModel) or not isinstance(model.net, nn.Module):
        checks.refuse("a ScoreModel around an nn.Module", got, IncompatibleError)
    if info is not None and not isinstance(info, Mapping):
        checks.refuse('info as a dict, such as {"epochs": 3}', f"{info!r:.100}", IncompatibleError)
    tensors = {f"net/{name}": value for name, value in plain_state(model.net).items()}
    manifest = {
        "format": FORMAT,
        "library": __version__,
        **describe_model(model),
        "ema": None if ema is None else _averaging(ema),
        "training": None,
        "info": dict(info or {}),
    }
    if ema is not None:
        # What ema.state_dict() returns, without the copies.
        tensors |= {f"ema/{PREFIX}{name}": value for name, value in ema.shadow.items()}
        tensors[f"ema/{COUNT}"] = torch.tensor(ema.num_updates, dtype=torch.int64, device="cpu")
    if training is not None:
        tensors |= {f"optim/{name}": value for name, value in training.optimizer.items()}
        manifest["training"] = {"step": training.step, "options": training.options}
    return tensors, manifest


def load(
    path: str | os.PathLike[str],
    *,
    weights: str = "ema",
    device: torch.device | str = "cpu",
    net: nn.Module | None = None,
    sde: LinearSDE | None = None,
    time_input: TimeFunction | None = None,
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
    net, sde : nn.Module, LinearSDE, optional
        For parts that are not from this package: instances, the network to receive the weights.
    time_input : callable, optional
        The function of t that the saved model had as its ``time_input``; a file holds no code.

    Raises
    ------
    CheckpointError, FileNotFoundError
        The file is damaged, foreign or inconsistent, holds NaN, or needs ``net=``, ``sde=`` or
        ``time_input=``; or there is none. A network passed as ``net=`` is not changed then.
    ParameterError
        ``weights`` is neither, or this machine has no such device.

    Examples
    --------
    >>> import tempfile, torch, sdescore as ss
    >>> model = ss.ScoreModel(ss.MLP(2, hidden=16), ss.VPSDE())
    >>> path = f"{tempfile.mkdtemp()}/model.safetensors"
    >>> ss.save(path, model)
    >>> x = torch.ones(3, 2)
    >>> torch.equal(ss.load(path)(x, 0.5), model.eval()(x, 0.5))
    True
    """
    checks.choice("weights", weights, ("ema", "raw"), ParameterError)
    device = checks.device(device)
    with opened(path) as file:
        file.verify()
        parts = _parts(file.tensors)
        model = build_model(file.manifest, parts["net/"], net=net, sde=sde, time_input=time_input)
        require_tensors(plain_state(model.net), parts["net/"], "net/")
        averaged = _has_average(file, parts["ema/"], model.net)
        # The file is whole and fits: from here on nothing is refused, and a net= may change.
        read_net(file, model.net)
        if weights == "ema" and averaged:
            read_into(file, f"ema/{PREFIX}", network_tensors(model.net))
    return model.to(device).eval()


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a checkpoint: ``sde``, ``net``, ``training``, ``info``, ….

    Only the file's first part is read. The manifest is checked against a SHA-256 of its own and
    the file against its length; whether the weights are intact is :func:`sdescore.load`'s question.

    Raises
    ------
    CheckpointError, FileNotFoundError
        The manifest is damaged, the file cut short or not sdescore's; or there is none.

    Examples
    --------
    >>> import tempfile, torch, sdescore as ss
    >>> model = ss.ScoreModel(ss.MLP(2, hidden=16), ss.VPSDE())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ss.save(f"{folder}/vp.safetensors", model, info={"event_shape": [2]})
    ...     manifest = ss.checkpoint.read_manifest(f"{folder}/vp.safetensors")
    >>> manifest["sde"]["class"], manifest["info"]
    ('VPSDE', {'event_shape': [2]})
    """
    with opened(path) as file:
        file.verify_manifest()
        manifest: dict[str, Any] = file.manifest
    return manifest


def training_record(file: Container | Folder, model: ScoreModel, ema: EMA) -> TrainingRecord:
    """The run in a checkpoint, its optimiser's tensors without data; nothing is changed."""
    file.verify()
    manifest, parts = file.manifest, _parts(file.tensors)
    for key, mine in from_json(to_json(describe_model(model))).items():
        theirs = manifest.get(key)
        if key == "convention" and isinstance(theirs, dict):
            # Whether a label is required follows from the run's options, which are compared too.
            theirs = {**theirs, "label_required": mine["label_required"]}
        if theirs != mine:
            got = f"{theirs}; make the model as it was, or start anew with resume=False"
            expected = f"a checkpoint of this model, whose {key} is {mine}"
            checks.refuse(expected, got, CheckpointError)
    training = manifest.get("training")
    if not isinstance(training, dict) or manifest.get("ema") != _averaging(ema):
        got = f"training={training!r} and ema={manifest.get('ema')!r} in {file.path}"
        expected = f"a checkpoint of train() with an average {_averaging(ema)}"
        checks.refuse(expected, f"{got}; start anew with resume=False", CheckpointError)
    step = checks.count("step", training.get("step"), at_least=0, error=CheckpointError)
    options = get(training, "options", dict)
    require_tensors(plain_state(model.net), parts["net/"], "net/")
    _has_average(file, parts["ema/"], model.net)
    return TrainingRecord(step, options, parts["optim/"])


def read_net(file: Container | Folder, net: nn.Module) -> None:
    """Load a network's raw weights from the file, one at a time where the network allows it."""
    net = plain_network(net)
    state = net.state_dict()
    parameters = net.named_parameters(remove_duplicate=False)
    own = {**dict(parameters), **dict(net.named_buffers(remove_duplicate=False))}
    plain = nn.Module._load_from_state_dict
    if all(type(module)._load_from_state_dict is plain for module in net.modules()) and all(
        name in own and value.data_ptr() == own[name].data_ptr() for name, value in state.items()
    ):
        read_into(file, "net/", {plain_name(name): value for name, value in state.items()})
    else:  # it loads in a way of its own
        net.load_state_dict({name: file.read(f"net/{plain_name(name)}") for name in state})


def plain_state(net: nn.Module) -> dict[str, Any]:
    """A network's ``state_dict``, without the prefixes of wrappers."""
    state = plain_network(net).state_dict()
    return {plain_name(name): value for name, value in state.items()}


def read_into(file: Container | Folder, prefix: str, targets: Mapping[str, Tensor]) -> None:
    """Overwrite tensors with those of the file."""
    file.read_into({prefix + name: target for name, target in targets.items()})


def read_ema(file: Container | Folder, ema: EMA) -> None:
    """Continue an average from the file."""
    read_into(file, f"ema/{PREFIX}", ema.shadow)
    ema.num_updates = int(file.read(f"ema/{COUNT}"))


def _averaging(ema: EMA) -> dict[str, Any]:
    return {"decay": ema.decay, "warmup": ema.warmup}


def _parts(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors by prefix, which is cut off."""
    parts: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in PREFIXES}
    for name, value in tensors.items():
        prefix, _, rest = name.partition("/")
        if f"{prefix}/" not in parts:
            expected = f"tensors under {', '.join(PREFIXES)} in the checkpoint"
            checks.refuse(expected, f"{name!r}", CheckpointError)
        parts[f"{prefix}/"][rest] = value
    return parts


def _has_average(file: Container | Folder, tensors: Mapping[str, Tensor], net: nn.Module) -> bool:
    """Whether the file holds an average; refused if it is not one of this network."""
    if not tensors and file.manifest.get("ema") is None:
        return False
    expected = {
        PREFIX + name: torch.empty(value.shape, dtype=averaged_dtype(value), device="meta")
        for name, value in network_tensors(net).items()
    }
    expected[COUNT] = torch.empty((), dtype=torch.int64, device="meta")
    require_tensors(expected, tensors, "ema/")
    if int(file.read(f"ema/{COUNT}")) < 0:
        got = f"{COUNT} < 0; the file is forged"
        checks.refuse(f"a number of updates >= 0 in {file.path}", got, CheckpointError)
    return True
