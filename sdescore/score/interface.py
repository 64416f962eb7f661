"""What can be asked of any score: its SDE, its density, its times, its labels, its data's scale.

A score is any callable. It may have attributes ``sde`` and ``data_scale``, and methods
``log_density`` or ``log_prob``, ``require_times`` and ``require_label``. The functions here look
through wrappers that hide these (:mod:`sdescore.wrappers`).
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.conditions import parts_of
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.score.convention import PLAIN, DataScale
from sdescore.typing import Condition
from sdescore.wrappers import owner_of, unwrapped

DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


def shared(name: str) -> Any:
    """An attribute in its owner's ``_measured``, which a shallow copy of the owner shares."""

    def put(owner: object, value: object) -> None:
        setattr(vars(owner).setdefault("_measured", SimpleNamespace()), name, value)

    return property(operator.attrgetter(f"_measured.{name}"), put)


class MeasuredByTraining:
    """What training measures and sets. It is true of all models that share a network."""

    _measured: SimpleNamespace
    label_required: bool | None = shared("label_required")
    data_scale: DataScale = shared("data_scale")
    data_range: tuple[float, float] | None = shared("data_range")


def require_steady(score: object) -> None:
    """Refuse a network in training mode whose dropout or batch norm would change each call."""
    modules = score.modules() if isinstance(score, nn.Module) else ()
    for layer in modules:
        drops = isinstance(layer, DROPOUTS) and layer.p > 0
        if layer.training and (drops or isinstance(layer, nn.modules.batchnorm._BatchNorm)):
            got = f"one with {type(layer).__name__} in training mode; call .eval() first"
            expected = "a score that is the same function at every call"
            checks.refuse(expected, got, IncompatibleError)


def log_density_of(score: object) -> Callable[..., Tensor]:
    """The score's ``log_density`` (known up to a constant in ``x``), or else its ``log_prob``.

    Refuses a score that has neither, or that wraps a network that is no energy.
    """
    score = unwrapped(score)
    ready = getattr(score, "has_log_density", True)
    found = getattr(score, "log_density", None) or getattr(score, "log_prob", None)
    if not ready or not callable(found):
        checks.refuse(
            "a score that knows its log density",
            f"{type(score).__name__} without; use EnergyModel(f), a ScoreModel of one, an exact "
            "score, or an object with log_density(x, t)",
            IncompatibleError,
        )
    method: Callable[..., Tensor] = found
    return method


def knows_density(score: object) -> bool:
    """Whether the score has a log density."""
    try:
        log_density_of(score)
    except IncompatibleError:
        return False
    return True


def require_scalars(value: object, x: Tensor, name: str) -> None:
    """Refuse anything but one floating-point number per sample of ``x`` ``(B, *E)``."""
    got = type(value).__name__
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.shape == x.shape[:1]:
            return
        got = f"{value.dtype} of shape {tuple(value.shape)}"
    expected = f"{name} as one scalar per sample, floating point of shape ({len(x)},)"
    checks.refuse(expected, f"{got}; squeeze it or sum it over the event", ShapeError)


def require_times(score: object, t: Tensor) -> None:
    """Refuse times ``(n,)`` that a score says it does not cover, before it is called."""
    own_check = getattr(owner_of(score), "require_times", None)
    if callable(own_check):
        own_check(t)


def require_label(score: object, label: object) -> None:
    """Refuse a score that cannot be called with ``label``, or without one where it is None.

    Raises
    ------
    IncompatibleError
        There is a label and the score takes none, or there is none and the score's network was
        never trained without.
    """
    score = unwrapped(score)
    own_check = getattr(score, "require_label", None)
    if callable(own_check):
        own_check(label)
    else:
        require_arguments(score, label)


def require_trained(net: object, label: object, required: bool | None) -> None:
    """Refuse a call with a label, or without one, that the network was never trained for.

    For ``required`` see :class:`sdescore.ScoreModel`.
    """
    if required is None:
        expected = "no label for a network that was trained without labels"
        checks.that(label is None, expected, "one; train it with labels=", IncompatibleError)
    elif required and (label is None or means_no_label(net, label)):
        expected = "a label for a network that was trained with labels alone"
        got = "none" if label is None else "the number of classes, which means none"
        advice = "pass labels from 0 on, or train it with label_dropout > 0"
        checks.refuse(expected, f"{got}; {advice}", IncompatibleError)


def means_no_label(net: object, label: object) -> bool:
    """Whether some of the labels are the number of the network's classes, which means "none"."""
    config: Any = getattr(net, "config", None)
    classes = config.get("classes") if isinstance(config, Mapping) else None
    classed = isinstance(label, Tensor) and label.ndim == 1 and label.dtype == torch.int64
    return classed and isinstance(classes, int) and bool((cast(Tensor, label) == classes).any())


def null_condition_of(net: object) -> Condition | None:
    """What a network declares to mean "no label", without a batch; None where it declares nothing.

    It is ``null_condition`` (a tensor, or a dict), else the number of ``config["classes"]``.
    """
    null: Any = getattr(net, "null_condition", None)
    if isinstance(null, Tensor | Mapping):
        return cast(Condition, null)
    config: Any = getattr(net, "config", None)
    classes = config.get("classes") if isinstance(config, Mapping) else None
    if not isinstance(classes, int):
        return None
    return torch.tensor(classes, dtype=torch.int64, device="cpu")


def require_no_weight(null: Condition | None) -> None:
    """Refuse a null condition that is a weight: as a label it is data, which no step trains."""
    weight = any(isinstance(part, Tensor) and part.requires_grad for _, part in parts_of(null))
    got = (
        "a parameter, which no step would train; make the buffer a mark, as torch.full(shape, "
        "torch.inf), and put the parameter in its place in the network's forward: "
        "label = torch.where(label.isinf(), self.learned, label)"
    )
    checks.that(not weight, "a buffer as null_condition", got, IncompatibleError)


def require_arguments(score: object, label: object) -> None:
    """Refuse a score or network that cannot be called with a label, or without if it is None."""
    # A module hides its signature behind __call__(*args, **kwargs).
    function: Any = score.forward if isinstance(score, nn.Module) else score
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # some functions in C tell none
    try:
        signature.bind(None, None, *() if label is None else (None,))
    except TypeError:
        taken = "that takes (x, t, label) where a label is given"
        expected, advice = (taken, "leave the label out")
        if label is None:
            expected, advice = "to be called as (x, t) without a label", "pass label="
        got = f"{type(score).__name__} with {signature}; {advice}"
        checks.refuse(f"a score or network {expected}", got, IncompatibleError)


def states_of(score: object, x0: Tensor) -> Tensor:
    """Data ``(B, *E)`` as a score's states."""
    return (scale_of(score) or PLAIN).to_state(x0)


def scale_of(score: object) -> DataScale | None:
    """The scale that a score says its data have, through wrappers; None if it says none."""
    found = getattr(score, "data_scale", None)
    found = getattr(owner_of(score), "data_scale", None) if found is None else found
    return found if isinstance(found, DataScale) else None


def one_scale(scores: Sequence[object]) -> DataScale | None:
    """The scale that these scores share, or None; different ones are refused."""
    scales = [scale for scale in map(scale_of, scores) if scale is not None]
    got = " and ".join(f"{scale!r:.200}" for scale in scales)
    same = all(scale == scales[0] for scale in scales)
    checks.that(same, "scores with one data_mean and data_std", got, IncompatibleError)
    return scales[0] if scales else None
