"""What a training run refuses before its first step, its defaults, and a step's gradient."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader, IterableDataset

from sdescore import checks
from sdescore.checkpoint.folder import is_folder
from sdescore.conditions import each_tensor
from sdescore.errors import CheckpointError, IncompatibleError, ParameterError, ShapeError
from sdescore.losses.denoising import denoising_loss
from sdescore.losses.levels import Objective
from sdescore.losses.loss import Loss
from sdescore.losses.times import LogNormalTimes, TimeDistribution, default_times
from sdescore.losses.weighting import Weighting, named_weighting
from sdescore.nets.ema import is_sharded, plain_network, require_writable, whole
from sdescore.score.interface import null_condition_of, require_no_weight
from sdescore.score.model import ScoreModel
from sdescore.training.data import BATCH_SIZE, Batch, Data, Labels, Source, Table
from sdescore.training.streams import Items, Stream, gives_samples
from sdescore.typing import Condition
from sdescore.wrappers import unwrapped

SCHEDULES = ("constant", "cosine")
PRECISIONS = (None, "bf16")


def check_model(model: object) -> nn.Module:
    """The model's network, refused unless it can be trained."""
    if not isinstance(model, ScoreModel):
        inside = isinstance(unwrapped(model), ScoreModel)
        advice = "pass its .module" if inside else "wrap the network: ScoreModel(net, sde)"
        checks.refuse("a ScoreModel", f"{type(model).__name__}; {advice}", IncompatibleError)
    kind = type(model.net).__name__
    net: Any = plain_network(model.net) if isinstance(model.net, nn.Module) else None
    if net is None or not any(p.requires_grad for p in net.parameters()):
        checks.refuse("an nn.Module that has parameters", f"{kind} without", IncompatibleError)
    if any(value.is_inference() for value in (*net.parameters(), *net.buffers())):
        got = f"{kind} made under torch.inference_mode(); make it outside"
        checks.refuse("a network that autograd can follow", got, IncompatibleError)
    require_writable(net)
    return net  # type: ignore[no-any-return]


def source_of(data: Data, labels: Labels | None, batch_size: int | None, name: str) -> Source:
    """The source of what a user passed as ``name``, refused before the network is called."""
    if isinstance(data, np.ndarray | Tensor):
        return Table(data, labels, name)
    got = f"labels= beside a {type(data).__name__}; let it give (x, label)"
    checks.that(labels is None, f"labels= with a tensor or an array {name}", got, IncompatibleError)
    if isinstance(data, IterableDataset):
        return Stream(DataLoader(data, batch_size=batch_size or BATCH_SIZE), name)
    if gives_samples(data):
        return Items(data, name)
    other = isinstance(data, tuple | Mapping | str | bytes) or hasattr(data, "to_numpy")
    if other or not isinstance(data, Iterable):
        expected = f"{name} as a tensor, an array, a Dataset, a DataLoader or a list of batches"
        got = f"{type(data).__name__}; pass a table's .to_numpy(), a TensorDataset, or labels="
        checks.refuse(expected, got, IncompatibleError)
    got = f"batch_size={batch_size}; set it in {name}, or leave it out"
    checks.that(batch_size is None, f"{name}'s own batches", got, IncompatibleError)
    return Stream(data, name)


def sources(
    data: Data, labels: Labels | None, batch_size: int | None, validation: Data | None
) -> tuple[Source, Source | None]:
    """The sources of the data and of held-out data; labels belong to both or to none."""
    source = source_of(data, labels, batch_size, "data")
    if validation is None:
        return source, None
    held_out = source_of(validation, None, None, "validation")
    same, got = held_out.parts == source.parts, f"{[*source.parts]} and {[*held_out.parts]}"
    checks.that(same, "the same labels in data and validation, or in none", got, IncompatibleError)
    return source, held_out


def null_label(source: Source, label_dropout: float, net: nn.Module) -> Condition | None:
    """The label that means "no label", or None without dropout; refuses labels that do not fit.

    It is the number of classes, or of other conditions the network's ``null_condition``.
    """
    config: Any = getattr(net, "config", None)
    classes = config.get("classes") if isinstance(config, Mapping) else None
    labels = getattr(source, "labels", None)
    if isinstance(labels, Tensor) and labels.ndim == 1:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or (isinstance(classes, int) and high >= classes):
            last = f" {classes - 1}" if isinstance(classes, int) else ""
            got = f"{low} … {high}; number the classes from 0"
            checks.refuse(f"labels in 0 …{last}", got, ShapeError)
    if label_dropout == 0:
        return None
    expected = f"labels=, or data with labels, for label_dropout={label_dropout}"
    checks.that(bool(source.parts), expected, "no labels", IncompatibleError)
    declared = null_condition_of(net)
    require_no_weight(declared)
    expected = 'a network with config["classes"] or null_condition for label_dropout'
    got = f"{type(net).__name__} without"
    checks.that(declared is not None, expected, got, IncompatibleError)
    return declared


def chosen_objective(
    objective: Objective | None, weighting: str | Weighting | None, options: dict[str, Any]
) -> Objective:
    """The objective, or the denoising loss; its name is an entry of ``options``, if it has one."""
    if objective is None:  # a file without the entry is a run of the denoising loss
        return functools.partial(denoising_loss, weighting=weighting)
    expected = "objective= as a function (model, x0, t=, label=, generator=) -> Loss"
    if isinstance(objective, type) or not callable(objective):
        checks.refuse(f"{expected}, such as sliced_loss", f"{objective!r:.200}", IncompatibleError)
    expected += ", or at_levels(…) of one of (score, x)"
    keywords, name = ("t", "label", "generator"), checks.part_name(objective)
    checks.accepts(objective, ("model", "x0"), keywords, expected, name)
    expected = "no weighting= beside objective=, which has its own"
    got = f"{weighting!r}; bind it with functools.partial(objective, weighting=…)"
    checks.that(weighting is None, expected, got, IncompatibleError)
    options["objective"] = name
    return objective


def add_gradient(
    evaluate: Callable[..., Loss],
    model: ScoreModel,
    parts: int,
    batch: Batch,
    t: Tensor,
    generator: torch.Generator,
    noise: Tensor | None = None,
    *,
    factor: float = 1.0,
) -> Loss:
    """Add the gradient of a batch's loss to the weights', computed in parts; its value, detached.

    ``factor`` is the gradient's. Refuses a loss that no training step can use.
    """
    size, found = max(1, -(-len(t) // parts)), []
    for start in range(0, len(t), size):
        x, label, at, ready = batch.x, batch.label, t, noise
        if size < len(t):
            own = slice(start, start + size)
            x, at, ready = x[own], t[own], None if noise is None else noise[own]
            label = each_tensor(operator.itemgetter(own), label)
        loss = evaluate(model, x, label, at, generator, ready)
        expected = "a loss that autograd can differentiate in the model's weights"
        got = "one without a gradient; compute it without detach() or no_grad()"
        checks.that(loss.mean.requires_grad, expected, got, IncompatibleError)
        part = len(at) / len(t)
        loss.mean.backward(loss.mean.new_full((), part * factor))  # type: ignore[no-untyped-call]
        found.append(Loss(loss.per_sample.detach(), loss.mean.detach() * part))
    if len(found) == 1:
        return found[0]
    mean = functools.reduce(operator.add, (loss.mean for loss in found))
    return Loss(torch.cat([loss.per_sample for loss in found]), mean)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a step does, as numbers and names that are the same in every process.

    An optimiser of your own replaces ``lr`` and ``weight_decay``, a scheduler ``schedule`` and
    ``warmup``. ``times`` is named once the data are known.
    """

    label_dropout: float
    weighting: str
    times: str = ""
    batch_size: int
    lr: float = 2e-3
    schedule: str = "cosine"
    warmup: int = 100
    weight_decay: float = 0.0
    accumulate: int = 1
    precision: str | None = None
    clip: float | None
    ema_decay: float
    seed: int
    standardize: bool
    transform: Any = None

    def __post_init__(self) -> None:
        number, count = checks.number, checks.count
        checks.choice("schedule", self.schedule, SCHEDULES, ParameterError)
        checks.choice("precision", self.precision, PRECISIONS, ParameterError)
        vars(self).update(
            label_dropout=number("label_dropout", self.label_dropout, at_least=0, at_most=1),
            batch_size=count("batch_size", self.batch_size),
            lr=number("lr", self.lr, above=0),
            warmup=count("warmup", self.warmup, at_least=0),
            weight_decay=number("weight_decay", self.weight_decay, at_least=0),
            accumulate=count("accumulate", self.accumulate),
            clip=None if self.clip is None else number("clip", self.clip, above=0),
            ema_decay=number("ema_decay", self.ema_decay, at_least=0, below=1),
            seed=checks.seed(self.seed),
            standardize=checks.flag("standardize", self.standardize),
            transform=None if self.transform is None else option_name(self.transform),
        )

    def leave_out(self, argument: str, *names: str) -> None:
        """Refuse options beside ``argument``, which brings its own."""
        for name in names:
            expected = f"{name} left out beside {argument}, which has its own"
            value = getattr(self, name)
            checks.that(value == getattr(type(self), name), expected, value, IncompatibleError)

    def learning_rate(self, highest: float, step: int, steps: int) -> float:
        """The rate of step 0 … steps − 1, of which ``highest`` is the highest."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        fall = 0.5 * (1 + math.cos(math.pi * step / steps)) if self.schedule == "cosine" else 1.0
        return highest * rise * fall

    def set_rates(
        self, optimizer: torch.optim.Optimizer, highest: list[float], step: int, steps: int
    ) -> None:
        """Give each group of the optimiser its rate of a step, of which it had the highest."""
        for group, rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = self.learning_rate(rate, step, steps)


def check_times(times: TimeDistribution | None, model: ScoreModel) -> None:
    """Refuse what is no distribution of times, and levels of an SDE that has none."""
    if times is not None:
        checks.instance("times", times, TimeDistribution, "UniformTimes()")  # type: ignore[type-abstract]
        times.sample(model.sde, 1, torch.Generator("cpu").manual_seed(0))


def training_times(
    times: TimeDistribution | None, model: ScoreModel, size: int
) -> TimeDistribution:
    r"""The times, or the default for samples of ``size`` numbers.

    A model that predicts F learns at stratified :class:`LogNormalTimes`, where the SDE has a finite
    log-SNR. From 64 numbers on they are EDM's: the mean is :math:`\log \sigma_\text{data} - 0.5`,
    the standard deviation 1.2. A smaller sample loses its structure at less noise, and the mean
    falls by 0.29 log size, to :math:`\log \sigma_\text{data} - 1.5` for points in a plane
    (benchmarks/defaults.py). Other models learn at a discrete SDE's levels, or at uniform times.
    """
    if times is not None:
        return times
    ends = torch.tensor([model.sde.t_min, model.sde.T], dtype=torch.float64, device="cpu")
    if model.prediction != "F" or not bool(model.sde._log_snr(ends).isfinite().all()):
        return default_times(model.sde)
    centre = math.log(model.sigma_data) + min(0.29 * math.log(max(1, size)) - 1.7, -0.5)
    return LogNormalTimes(centre, 1.2, stratified=True)


def adamw(weights: list[nn.Parameter], recipe: Recipe, device: torch.device) -> torch.optim.AdamW:
    """torch's AdamW, in one kernel where it has one for the device."""
    fused = all(p.is_floating_point() and device.type in ("cpu", "cuda") for p in weights) or None
    return torch.optim.AdamW(weights, recipe.lr, weight_decay=recipe.weight_decay, fused=fused)


def clipper(weights: list[nn.Parameter], clip: float | None) -> Callable[[], float]:
    """A function that scales the gradient to a norm of at most ``clip``, and returns the old norm.

    The bits are those of ``torch.nn.utils.clip_grad_norm_``, which scales by 1 where the norm is
    small enough, and looks at each step for tensors that it may treat together.
    """
    largest = math.inf if clip is None else clip
    homes = {(weight.dtype, weight.device) for weight in weights}
    together = len(homes) == 1 and not any(map(is_sharded, weights))

    @torch.no_grad()
    def scale() -> float:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if not together or not gradients:
            found: float = whole(nn.utils.clip_grad_norm_(weights, largest)).item()
            return found
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        found = norm.item()
        if found + 1e-5 >= largest:  # torch adds 1e-6 to the norm, and rounds
            torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))
        return found

    return scale


def weighting_name(weighting: str | Weighting | None, model: ScoreModel) -> str:
    """What a file calls the weighting, or the default one; refuses an unknown one."""
    if weighting is None:
        return "EDM" if model.prediction == "F" else "sigma2"
    named_weighting(weighting)
    return option_name(weighting)


def option_name(part: object) -> str:
    """A name that is the same in every process, so never an address."""
    return part if isinstance(part, str) else checks.part_name(part)


def check_run(
    path: str | os.PathLike[str] | None,
    resume: bool,
    seconds: float | None,
    callback: object,
    transform: object,
    shard: bool,
    progress: bool,
) -> float:
    """The seconds that a run may take; refuses a path or a function that cannot be used."""
    for name, value in {"resume": resume, "progress": progress}.items():
        checks.flag(name, value)
    for name, part in {"callback": callback, "transform": transform}.items():
        if part is not None:
            function: Any = checks.function(name, part)
            checks.accepts(function, ("x",), (), f"{name}(x)", checks.part_name(function))
    limit = math.inf if seconds is None else checks.number("max_seconds", seconds, above=0)
    if path is None:
        checks.that(not resume, "path= for resume=True", "none; name a file", IncompatibleError)
        return limit
    there, parts = checks.path(path), is_folder(path)
    try:
        there.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        got = f"{type(error).__name__}: {error}; name another folder"
        raise CheckpointError(f"expected to write {path}, got {got}") from error
    checks.that(shard or not parts, "shard=True for a folder as path=", path, IncompatibleError)
    usable = not (there.is_file() if parts else there.is_dir()) and os.access(there.parent, os.W_OK)
    got = f"{path}; name another, e.g. out/model.safetensors"
    checks.that(usable, "a file that can be written as path=", got, IncompatibleError)
    return limit


def grouped(shard: bool) -> bool:
    """Whether there is a process group, or torchrun has started this process as one of several."""
    many = distributed.is_available() and (
        distributed.is_initialized() or distributed.is_torchelastic_launched()
    )
    alone, got = checks.flag("shard", shard) and not many, "none; start the script with torchrun"
    checks.that(not alone, "a process group for shard=True", got, IncompatibleError)
    return many
