"""How a step is computed and applied: in which precision, compiled or not, by which optimiser."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.score.model import ScoreModel
from sdescore.training.guards import Recipe

MakeOptimizer: TypeAlias = Callable[[list[nn.Parameter]], Optimizer]
MakeScheduler: TypeAlias = Callable[[Optimizer], LRScheduler]


def running(
    model: ScoreModel, precision: str | None, compiled: bool, device: torch.device, own: bool
) -> ScoreModel:
    """The model as the steps call it: the same weights, its network under autocast or compiled.

    The network itself is left as it is, unless it is the run's ``own``, so no name in a checkpoint
    has a prefix. Refuses weights that are not the float32 from which bf16 is rounded.
    """
    checks.flag("compile", compiled)
    got = "both; leave one of them out"
    checks.that(not (compiled and own), "shard=True or compile=True", got, IncompatibleError)
    net = model.net
    forward = torch.compile(net.forward) if compiled else net.forward
    if precision is not None:
        single, got = model.dtype == torch.float32, f"{model.dtype}; leave precision= out"
        checks.that(single, f"a float32 network for {precision}", got, IncompatibleError)
        forward = torch.autocast(device.type, torch.bfloat16)(forward)
    shell = net if own else copy.copy(net)
    shell.forward = forward
    twin = copy.copy(model)
    twin._modules = {**model._modules, "net": shell}
    return twin


def made_optimizer(
    make: MakeOptimizer, weights: list[nn.Parameter], recipe: Recipe, options: dict[str, Any]
) -> Optimizer:
    """A user's own optimiser of the weights, refused unless a step can use it.

    A resume compares it by what is added to ``options``.
    """
    recipe.leave_out("optimizer=", "lr", "weight_decay")
    checks.that(callable(make), "optimizer to be callable", f"{make!r:.200}", IncompatibleError)
    found = make(list(weights))
    optimizer = checks.instance("what optimizer returns", found, Optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    expected = "an optimiser of the parameters that it was given, all of them and no others"
    got = f"one of {len(held)} for {len(weights)}; freeze one with requires_grad_(False)"
    checks.that(held == set(map(id, weights)), expected, got, IncompatibleError)
    needs_no_closure = "an optimiser whose step() needs no argument, such as SGD"
    checks.accepts(optimizer.step, (), (), needs_no_closure, type(optimizer).__name__)
    options["optimizer"] = described(optimizer)
    return optimizer


def made_scheduler(
    make: MakeScheduler, optimizer: Optimizer, recipe: Recipe, options: dict[str, Any]
) -> LRScheduler:
    """A user's own schedule, refused unless it is a function of the step; as above."""
    recipe.leave_out("lr_scheduler=", "schedule", "warmup")
    checks.that(callable(make), "lr_scheduler to be callable", f"{make!r:.200}", IncompatibleError)
    scheduler = checks.instance("what lr_scheduler returns", make(optimizer), LRScheduler)
    expected = "a schedule whose step() needs no argument, such as CosineAnnealingLR"
    checks.accepts(scheduler.step, (), (), expected, type(scheduler).__name__)
    own = getattr(scheduler, "optimizer", optimizer) is optimizer
    checks.that(own, "a schedule of the run's optimiser", "one of another", IncompatibleError)
    options["lr_scheduler"] = described(scheduler)
    return scheduler


def replay(scheduler: LRScheduler, steps: int) -> None:
    """Step a fresh schedule ``steps`` times, which restores its state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimiser stepped in between
        for _ in range(steps):
            scheduler.step()


def described(part: Optimizer | LRScheduler) -> dict[str, Any]:
    """A fresh optimiser or schedule as JSON, by which a resume compares it."""
    state: Any = part.param_groups if isinstance(part, Optimizer) else part.state_dict()
    return {"class": type(part).__qualname__, "state": _json(state)}


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json(part) for key, part in value.items() if key != "params"}
    if isinstance(value, list | tuple):
        return [_json(part) for part in value]
    plain = value is None or isinstance(value, str | bool) or checks.is_number(value)
    return value if plain else checks.part_name(value)
