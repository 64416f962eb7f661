"""What a training run refuses, before the network is called."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.checks import finite, require, require_state
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.losses.levels import part_name
from sdescore.losses.weighting import Weighting, named_weighting
from sdescore.score.model import ScoreModel
from sdescore.sde.linear import LinearSDE

SCHEDULES = ("constant", "cosine")


def check_model(model: ScoreModel) -> nn.Module:
    """The model's network, refused unless it can be trained."""
    if not isinstance(model, ScoreModel):
        raise IncompatibleError(
            f"expected a ScoreModel, got {type(model).__name__}; wrap the network: "
            "ScoreModel(net, sde)"
        )
    net = model.net
    if not isinstance(net, nn.Module) or not any(p.requires_grad for p in net.parameters()):
        raise IncompatibleError(
            f"expected an nn.Module with parameters to train, got {type(net).__name__} without"
        )
    return net


def check_objective(objective: Any, weighting: str | Weighting) -> None:
    """Refuse an objective that training cannot call, or a weighting that it would not look at.

    Raises
    ------
    IncompatibleError
        One of the two.
    """
    expected = "objective= as a function (model, x0, t=, label=, generator=) -> Loss"
    if isinstance(objective, type) or not callable(objective):
        checks.refuse(f"{expected}, such as sliced_loss", f"{objective!r:.200}", IncompatibleError)
    checks.accepts(
        objective,
        ("model", "x0"),
        ("t", "label", "generator"),
        expected=f"{expected}, or at_levels(…) of one of (score, x)",
        got=part_name(objective),
    )
    checks.that(
        weighting == "sigma2",
        "no weighting= beside objective=, which has its own",
        f"{weighting!r}; bind it with functools.partial(objective, weighting=…)",
        IncompatibleError,
    )


def check_data(data: Tensor, labels: Tensor | None, label_dropout: float, net: nn.Module) -> None:
    """Refuse data or labels that no step could use."""
    require_state(data, "data")
    if data.numel() == 0:
        raise ShapeError(f"expected at least one sample, got data of shape {tuple(data.shape)}")
    require(bool(data.isfinite().all()), "finite data", "NaN or infinity")
    require(
        finite(label_dropout) and 0 <= label_dropout <= 1,
        "label_dropout in [0, 1]",
        f"{label_dropout!r}",
    )
    if labels is None:
        if label_dropout > 0:
            raise IncompatibleError(
                f"expected labels= for label_dropout={label_dropout}, got none; pass both or none"
            )
        return
    checks.label(labels, len(data))
    classes = _classes(net)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high > classes):
        last = "" if classes is None else f" {classes}"
        raise ShapeError(f"expected labels in 0 …{last}, got {low} … {high}; relabel the classes")
    if label_dropout > 0:
        null_label(net)


def _classes(net: nn.Module) -> int | None:
    config: Any = getattr(net, "config", None)
    classes = config.get("classes") if isinstance(config, Mapping) else None
    return classes if isinstance(classes, int) else None


def null_label(net: nn.Module) -> int:
    """The label that means "no label".

    Raises
    ------
    IncompatibleError
        The network does not say which.
    """
    classes = _classes(net)
    if classes is None:
        raise IncompatibleError(
            'expected a network whose config["classes"] is its null label, for label_dropout; got '
            f"{type(net).__name__} without"
        )
    return classes


def _count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_options(options: dict[str, Any], sde: LinearSDE) -> dict[str, Any]:
    """The options as JSON, refused outside their ranges."""
    named_weighting(options["weighting"])
    # Refuses levels asked of an SDE that has none.
    options["times"].sample(sde, 1, torch.Generator().manual_seed(0))
    for name, least in (("batch_size", 1), ("warmup", 0)):
        require(_count(options[name], least), f"an integer {name} >= {least}", options[name])
    seed, lr, clip = options["seed"], options["lr"], options["clip"]
    require(isinstance(seed, int) and not isinstance(seed, bool), "an integer seed", repr(seed))
    require(finite(lr) and lr > 0, "lr > 0", repr(lr))
    require(clip is None or (finite(clip) and clip > 0), "clip > 0 or None", repr(clip))
    decay = options["weight_decay"]
    require(finite(decay) and decay >= 0, "weight_decay >= 0", repr(decay))
    require(
        options["schedule"] in SCHEDULES,
        f"schedule among {', '.join(SCHEDULES)}",
        repr(options["schedule"]),
    )
    return {
        **options,
        "weighting": _name(options["weighting"]),
        "times": _name(options["times"]),
    }


def _name(part: object) -> str:
    """A name that is the same in every process, so never an address."""
    if isinstance(part, str):
        return part
    if dataclasses.is_dataclass(part):
        return repr(part)
    return str(getattr(part, "__qualname__", type(part).__qualname__))


def check_run(
    steps: int,
    max_seconds: float | None,
    path: str | os.PathLike[str] | None,
    save_every: int,
    resume: bool,
) -> None:
    """Refuse a run that could not be stopped or saved as asked."""
    require(_count(steps, 1), "an integer steps >= 1", repr(steps))
    require(_count(save_every, 1), "an integer save_every >= 1", repr(save_every))
    require(
        max_seconds is None or (finite(max_seconds) and max_seconds > 0),
        "max_seconds > 0 or None",
        repr(max_seconds),
    )
    if resume and path is None:
        raise IncompatibleError("expected path= for resume=True, got none; name the checkpoint")
    if path is not None:
        folder = Path(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        if Path(path).is_dir() or not os.access(folder, os.W_OK):
            raise IncompatibleError(
                f"expected a file that can be written as path=, got {path}; name another, e.g. "
                "out/model.safetensors"
            )
