"""A score model as JSON, and back.

.. code-block:: json

    {"format": 1, "library": "0.1.0",
     "sde": {"class": "VPSDE", "fields": {"beta_max": 20.0, "beta_min": 0.1}},
     "convention": {"prediction": "epsilon", "time_input": "t", "...": "..."},
     "net": {"class": "MLP", "config": {"dim": 2, "...": "..."}, "dtype": "float32"},
     "ema": {"decay": 0.999, "warmup": true}, "training": {"step": 10, "options": {}}, "info": {}}

Classes are looked up in two tables: the SDEs of :mod:`sdescore.sde`, and the networks of
:mod:`sdescore.nets` that declare a ``config``. A class outside them is saved by name alone
(``fields`` or ``config`` is null), and its object must be passed again when loading. So must a time
input that is a function: its entry is ``{"function": name}``.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from inspect import get_annotations
from numbers import Integral, Real
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sdescore import checks
from sdescore.borrowed import borrowed_generator
from sdescore.errors import CheckpointError
from sdescore.nets.ema import plain_network
from sdescore.rooms import members
from sdescore.score.convention import PLAIN, DataScale
from sdescore.score.model import ScoreModel
from sdescore.score.time_input import TimeFunction
from sdescore.sde.linear import LinearSDE, MarginalSDE

FORMAT = 1

# LinearSDE is abstract to a type checker; the classes found are not. MarginalSDE is left out:
# functions are no JSON.
LINEAR = members("sdescore.sde", LinearSDE)  # type: ignore[type-abstract]
SDES = {kind.__name__: kind for kind in LINEAR if kind is not MarginalSDE}
# A network that a file in nets/ declares ``config`` for: the arguments that build it again.
MODULES = members("sdescore.nets", nn.Module)
NETS = {kind.__name__: kind for kind in MODULES if "config" in get_annotations(kind)}
DTYPES = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")}

T = TypeVar("T")


def describe_model(model: ScoreModel) -> dict[str, Any]:
    """The manifest's ``sde``, ``convention`` and ``net``."""
    sde, net = model.sde, plain_network(model.net)
    name, known = _entry(sde, SDES)
    net_name, known_net = _entry(net, NETS)
    fields = {f.name: getattr(sde, f.name) for f in dataclasses.fields(sde)} if known else None  # type: ignore[arg-type]
    config, dtype = net.config if known_net else None, str(model.dtype).removeprefix("torch.")
    options = model.options
    if callable(options["time_input"]):  # a function is no JSON: its name alone is kept
        options["time_input"] = {"function": checks.part_name(options["time_input"])}
    for option in ("snap", "data_range"):
        if not options[option]:  # as in a file of an older version
            del options[option]
    return {
        "sde": {"class": name, "fields": fields},
        "convention": options,
        "net": {"class": net_name, "config": config, "dtype": dtype},
    }


def _entry(part: object, table: Mapping[str, type]) -> tuple[str, bool]:
    """A class's name in the manifest, and whether the table has it; a subclass is foreign."""
    kind = type(part)
    if table.get(kind.__name__) is kind:
        return kind.__name__, True
    return f"{kind.__module__}.{kind.__qualname__}", False


def build_model(
    manifest: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    net: nn.Module | None,
    sde: LinearSDE | None,
    time_input: TimeFunction | None = None,
) -> ScoreModel:
    """The model of a manifest, without its weights; ``tensors`` are its network's, without data."""
    if get(manifest, "format", int) != FORMAT:
        got = f"{manifest['format']} (written by sdescore {manifest.get('library')})"
        advice = "upgrade sdescore, or save the model again"
        checks.refuse(f"checkpoint format {FORMAT}", f"{got}; {advice}", CheckpointError)
    built = _build_sde(get(manifest, "sde", dict), sde)
    network = _build_net(get(manifest, "net", dict), tensors, net)
    options = dict(get(manifest, "convention", dict))
    expected = {"prediction": str, "input_scaling": str, "sigma_data": float}
    for key, kind in expected.items():
        get(options, key, kind)
    if options.get("label_required", False) is not None:
        get(options, "label_required", bool)
    options["time_input"] = _time_input(options, time_input)
    get({"snap": False, **options}, "snap", bool)
    read_scale(options)
    return _attempt("convention", lambda: ScoreModel(network, built, **options))


def read_scale(convention: Mapping[str, Any]) -> DataScale:
    """The data's mean and standard deviation in a manifest's ``convention``.

    A file older than these two entries holds neither: its states are the data.
    """
    keys = ("data_mean", "data_std")
    if not any(key in convention for key in keys):
        return PLAIN
    found: dict[str, Any] = {}
    for key in keys:
        value = convention.get(key)
        found[key] = value if isinstance(value, list) else get(convention, key, float)
    return _attempt("convention", lambda: DataScale(found["data_mean"], found["data_std"]))


def _time_input(convention: Mapping[str, Any], own: TimeFunction | None) -> str | TimeFunction:
    """The time input of a manifest's ``convention``; a function is the one passed to ``load``."""
    stored = convention.get("time_input")
    if isinstance(stored, dict):
        name = f"{get(stored, 'function', str):.80}"
        if own is None:
            got = "none; a file holds no code: load(path, time_input=function)"
            checks.refuse(f"time_input=, the function {name!r} of t", got, CheckpointError)
        return checks.function("time_input", own)
    text = get(convention, "time_input", str)
    got = f"time_input={checks.part_name(own)}; leave time_input= out"
    checks.that(own is None, f"the checkpoint's own time input, {text!r:.80}", got, CheckpointError)
    return text


def _build_sde(entry: Mapping[str, Any], own: LinearSDE | None) -> LinearSDE:
    name = get(entry, "class", str)
    fields = entry.get("fields")
    if fields is None or name not in SDES:
        if own is None:
            _need("sde", name, SDES)
        return own
    for key, value in get(entry, "fields", dict).items():
        numbers = value if isinstance(value, list) else [value]
        if not all(map(checks.is_number, numbers)):
            _refuse(f"numbers for the SDE's {key}", value)
    sde = _attempt(name, lambda: SDES[name](**fields))
    if own is not None and own != sde:
        got = f"sde={own!r}; leave sde= out"
        checks.refuse(f"the SDE of the checkpoint, {sde!r}", got, CheckpointError)
    return sde


def _build_net(
    entry: Mapping[str, Any], tensors: Mapping[str, Tensor], own: nn.Module | None
) -> nn.Module:
    name = get(entry, "class", str)
    if own is not None:
        return own
    if entry.get("config") is None or name not in NETS:
        _need("net", name, NETS)
    config = get(entry, "config", dict)
    dtype = DTYPES.get(get(entry, "dtype", str))
    if dtype is None:
        _refuse(f"a dtype among {', '.join(DTYPES)}", entry["dtype"])
    # A small file cannot ask for a big network. It is first built on the meta device, where tensors
    # take no memory, and only until it has more weights than the file; then shapes are compared.
    with torch.device("meta"), _no_larger_than(tensors):
        shapes = _attempt(name, lambda: NETS[name](**config)).to(dtype)
    require_tensors(shapes.state_dict(), tensors, "net/")
    # Its initial weights are drawn in vain. The caller's default device is not asked.
    with borrowed_generator(), torch.device("cpu"):
        return _attempt(name, lambda: NETS[name](**config)).to(dtype)


@contextmanager
def _no_larger_than(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Stop the building of a network that comes to have more parameters than ``tensors`` hold."""
    weights = sum(value.numel() for value in tensors.values())
    count = size = 0
    thread = threading.get_ident()  # networks that other threads build are not our business

    def add(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count, size
        if parameter is not None and threading.get_ident() == thread:
            count, size = count + 1, size + parameter.numel()
            if count > len(tensors) or size > weights:
                held = f"{len(tensors)} tensors and {weights} weights, as the checkpoint holds them"
                got = "a manifest that asks for a larger one"
                checks.refuse(f"a network of {held}", got, CheckpointError)

    with register_module_parameter_registration_hook(add):
        yield


def require_tensors(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], prefix: str) -> None:
    """Refuse tensors whose names, shapes or dtypes differ from the expected ones."""
    for name in sorted(expected.keys() | got.keys()):
        one, other = (_describe(tensors.get(name)) for tensors in (expected, got))
        if one != other:
            why = "the file belongs to another network: give the network it was saved from"
            wanted = f"{prefix}{name} in the checkpoint to be {one}"
            checks.refuse(wanted, f"{other}; {why}", CheckpointError)


def _describe(value: Tensor | None) -> str:
    return "nothing" if value is None else f"{value.dtype} of shape {tuple(value.shape)}"


def get(entry: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """``entry[key]``, refused unless it is of that JSON type; an int passes for a float."""
    value = entry.get(key)
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        _refuse(f"{key!r} as {kind.__name__}", value)
    return value  # type: ignore[return-value]


def _attempt(what: str, make: Callable[[], T]) -> T:
    """Call a constructor with arguments from a file."""
    try:
        return make()
    except CheckpointError:
        raise
    except Exception as error:  # a forged file may cause any
        expected = f"arguments that {what} accepts in the checkpoint's manifest"
        raise CheckpointError(f"expected {expected}; got an error from it: {error}") from error


def _refuse(expected: str, got: object) -> NoReturn:
    advice = "the file is forged, or of another version: save the model again"
    expected = f"{expected} in the checkpoint's manifest"
    checks.refuse(expected, f"{got!r:.80}; {advice}", CheckpointError)


def _need(keyword: str, name: str, table: Mapping[str, type]) -> NoReturn:
    advice = f"pass the object: load(path, {keyword}=...)"
    got = f"{name!r}, which sdescore does not load by itself; {advice}"
    checks.refuse(f"one of {', '.join(table)}", got, CheckpointError)


def to_json(value: object) -> str:
    """JSON text, with sorted keys and without NaN; numpy's scalars become Python's."""

    def number(part: object) -> float:
        if isinstance(part, np.bool_):
            return bool(part)
        if isinstance(part, Integral):
            return int(part)
        if isinstance(part, Real):
            return float(part)
        raise TypeError(f"an object of type {type(part).__name__}")

    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, default=number)
    except (TypeError, ValueError, RecursionError) as error:
        expected = "JSON values (str, int, finite float, bool, None, list, dict) in the manifest"
        advice = "convert them, e.g. float(x) or x.tolist()"
        raise CheckpointError(f"expected {expected}; got {error}; {advice}") from error


def from_json(text: str | bytes) -> Any:
    """Parse JSON, refusing NaN and infinities, which JSON does not have."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)
