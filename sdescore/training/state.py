"""What a run leaves: its result, its record in a file, or the error of its divergence."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.checkpoint.container import Container, has_nan, header, write
from sdescore.checkpoint.folder import Folder, is_there, opened, write_folder
from sdescore.checkpoint.store import (
    TrainingRecord,
    contents,
    plain_state,
    read_ema,
    read_net,
    training_record,
)
from sdescore.errors import CheckpointError, DivergenceError
from sdescore.nets.ema import EMA, is_sharded, whole
from sdescore.score.model import ScoreModel
from sdescore.training.ahead import Levels, times_of

__all__ = ["TrainingResult"]

ADAM = ("exp_avg", "exp_avg_sq", "step")
NUMBER = "number:"  # before the name of what is a Python number
COUNTS = (torch.float32, torch.float64)  # torch's choice follows the caller's default dtype
ADVICE = {
    "data": "Pass the data that the run began with",
    "labels": "Pass the labels that the run began with",
    "steps": "The cosine schedule falls to 0 at the last step, so that number is part of the run: "
    'give the final one from the start, or train with schedule="constant"',
}


@dataclass(frozen=True)
class TrainingResult:
    """What :func:`train` returns.

    Attributes
    ----------
    model : ScoreModel
        A copy with the averaged weights, in evaluation mode: the one to sample from.
    ema : EMA
        The average itself.
    step : int
        The number of steps done, over all calls.
    losses : tuple of float
        The batch mean of each step of this call.
    seconds : float
        The duration of this call, in seconds.
    finished : bool
        False if ``max_seconds`` or the data ended before the last step.
    best : ScoreModel or None
        A copy with the averaged weights at the lowest validation loss; None without validation.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> model = ss.ScoreModel(ss.MLP(2, hidden=16), ss.VPSDE())
    >>> result = ss.train(model, torch.randn(100, 2), steps=3, progress=False)
    >>> sampler = ss.PredictorCorrector(model.sde, steps=20)
    >>> x = sampler.sample(result.model, (4, 2))  # with the averaged weights
    >>> x.shape, len(result.losses), result.finished
    (torch.Size([4, 2]), 3, True)
    """

    model: ScoreModel = field(repr=False)
    ema: EMA = field(repr=False)
    step: int
    losses: tuple[float, ...] = field(repr=False)
    seconds: float
    finished: bool
    best: ScoreModel | None = field(default=None, repr=False)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Its state as ``<parameter>/<what>``; parameters that never had a gradient have none.

    A Python number, such as a count of steps, becomes a tensor whose name says so.
    """
    found: dict[str, Any] = {}
    for name, parameter in named.items():
        for what, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, int | float):
                kind = torch.float64 if isinstance(value, float) else torch.int64
                found[f"{name}/{NUMBER}{what}"] = torch.tensor(value, dtype=kind, device="cpu")
            elif value is not None:
                found[f"{name}/{what}"] = value
    return found


def check_adam(named: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not AdamW's for these parameters, and name the first."""
    left, foreign = dict(tensors), []
    for name, parameter in named.items():
        for what in ADAM if any(f"{name}/{what}" in left for what in ADAM) else ():
            value = left.pop(f"{name}/{what}", None)
            # AdamW counts its steps in a float, on the CPU.
            shape = () if what == "step" else parameter.shape
            dtypes = COUNTS if what == "step" else (parameter.dtype,)
            if value is None or value.shape != shape or value.dtype not in dtypes:
                foreign.append(f"{name}/{what}")
    if foreign := [*foreign, *left]:
        got = f"something else at optim/{foreign[0]}; start anew with resume=False"
        checks.refuse("AdamW's tensors for this network", got, CheckpointError)


def resume_run(
    file: Container | Folder,
    model: ScoreModel,
    ema: EMA,
    optimizer: torch.optim.Optimizer,
    named: Mapping[str, nn.Parameter],
    options: Mapping[str, Any],
    net: nn.Module | None = None,
) -> int:
    """Put the run of a checkpoint into ``model``, ``ema`` and ``optimizer``; its number of steps.

    ``net`` is the network that is trained, if it is not the model's own. Nothing is changed if the
    file is damaged, or of another model or of a run with other options.
    """
    record = training_record(file, model, ema)
    _check_options(file.path, options, record.options)
    if "optimizer" not in options:
        check_adam(named, record.optimizer)
    elif foreign := [what for what in record.optimizer if what.rpartition("/")[0] not in named]:
        got = f"optim/{foreign[0]}; start anew with resume=False"
        checks.refuse("tensors of this network's optimiser", got, CheckpointError)
    # The file is whole and fits: from here on nothing is refused.
    read_net(file, model.net if net is None else net)
    read_ema(file, ema)
    on_device = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    targets = {}
    for entry, like in record.optimizer.items():
        name, _, what = entry.rpartition("/")
        weight = named[name]
        if like.ndim and like.shape == weight.shape:  # fused kernels look at no strides
            value = torch.empty_like(weight, dtype=like.dtype)
        else:
            there = what != "step" or on_device
            device = weight.device if there else torch.device("cpu")
            value = torch.empty(like.shape, dtype=like.dtype, device=device)
        targets[f"optim/{entry}"] = optimizer.state[weight][what] = value
    file.read_into(targets)
    for state in optimizer.state.values():
        for what in [what for what in state if what.startswith(NUMBER)]:
            state[what.removeprefix(NUMBER)] = state.pop(what).item()
    return record.step


class Saver:
    """Writes a run's checkpoint, and knows whether its last state is on disk.

    What cannot be saved is refused when it is made, and not at the first save. ``net`` is what is
    trained: a sharded copy of the model's network, or itself. All ranks save, and rank 0 writes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: ScoreModel,
        ema: EMA,
        optimizer: torch.optim.Optimizer,
        named: Mapping[str, nn.Parameter],
        options: dict[str, Any],
        info: Mapping[str, Any] | None,
        net: nn.Module,
        rank: int,
    ) -> None:
        self.net, self.rank = net, rank
        self.path, self.model, self.ema = path, model, ema
        self.optimizer, self.named = optimizer, named
        self.options, self.info = options, info
        self.saved, self.looked_at = 0, False
        self.error: CheckpointError | None = None
        parts, manifest = contents(
            model, ema=ema, training=TrainingRecord(0, options, {}), info=info
        )
        header(parts, manifest)
        for name, value in parts.items():
            here = not is_sharded(value) and has_nan(value)
            got = f"NaN in {name}; give it a finite value"
            checks.that(not here, "numbers to save", got, CheckpointError)

    def resume(self) -> int:
        """Go on from the checkpoint, if there is one; the number of steps done."""
        if is_there(self.path):
            with opened(self.path) as file:
                self.saved = self.resumed(file)
            if self.saved and self.options["data"].get("resumes_exactly") is False:
                expected = "expected data that can go on where a run ended"
                got = "a DataLoader or another iterable, which starts from its beginning"
                warnings.warn(f"{expected}; got {got}", RuntimeWarning, stacklevel=3)
        return self.saved

    @property
    def alone(self) -> bool:
        """Whether a save needs no other process."""
        return self.net is self.model.net

    def resumed(self, file: Container | Folder) -> int:
        """Go on from an open checkpoint; the number of steps done."""
        return resume_run(
            file, self.model, self.ema, self.optimizer, self.named, self.options, self.net
        )

    def after(self, step: int, every: int) -> None:
        """Save if it is time; after the first step, refuse an optimiser that cannot be saved."""
        if not self.looked_at:
            tensors = optimizer_tensors(self.optimizer, self.named)
            foreign = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
            got = f"{foreign[:1]} that is neither; save without path=, or change the optimiser"
            expected = "tensors and numbers in the optimiser's state, for path="
            checks.that(not foreign, expected, got, CheckpointError)
            self.looked_at = True
        if step % every == 0:
            self.save(step)

    def save(self, step: int) -> None:
        """Save the run after ``step`` steps, or warn why that did not work."""
        if self.saved == step and self.alone:
            return
        tensors = optimizer_tensors(self.optimizer, self.named)
        record = TrainingRecord(step, self.options, tensors)
        try:
            parts, manifest = contents(self.model, ema=self.ema, training=record, info=self.info)
            parts |= {f"net/{name}": value for name, value in plain_state(self.net).items()}
            self.write(step, parts, manifest)
            self.saved, self.error = step, None
        except CheckpointError as error:  # a full disk, say: the next save may succeed
            self.error = error
            warnings.warn(f"step {step} was not saved: {error}", RuntimeWarning, stacklevel=3)

    def write(self, step: int, parts: dict[str, Tensor], manifest: dict[str, Any]) -> None:
        """Write the tensors, which may be sharded, to one file."""
        for name, value in parts.items():
            if is_sharded(value):  # one at a time; only the rank that writes keeps it
                found = whole(value)
                parts[name] = found.cpu() if self.rank == 0 else found[:0]
        if self.rank == 0 and self.saved != step:
            write(self.path, parts, manifest)


class FolderSaver(Saver):
    """Writes a folder of a sharded run, to which each rank adds its own part of the tensors."""

    ranks: Any = None  # set before the first save

    def resume(self) -> int:
        if is_there(self.path):
            self.saved = self.resumed(Folder(self.path, self.ranks.rank, self.ranks.size))
        return self.saved

    def write(self, step: int, parts: dict[str, Tensor], manifest: dict[str, Any]) -> None:
        if self.saved != step:
            write_folder(self.path, step, parts, manifest, self.ranks)


def left_behind(
    callers: ScoreModel,
    before: dict[str, Any],
    saver: Saver | None,
    step: int,
    error: Exception,
) -> None:
    """After an error in the steps: a file of those that were whole, or the model as before."""
    if step == 0:
        vars(callers._measured).update(before)
    elif saver is not None and saver.alone and not isinstance(error, DivergenceError):
        saver.save(step)


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
            f"first {key}: expected {theirs.get(key)!r}, got {options.get(key)!r}. "
            f"{ADVICE.get(key, 'Pass the same')}, or start anew with resume=False"
        )


def divergence(
    step: int,
    loss: float,
    per_sample: Tensor,
    levels: Tensor | Levels,
    index: Tensor | None,
    path: str | os.PathLike[str] | None,
) -> DivergenceError:
    """The error of a training step; ``per_sample``, times and ``index`` are ``(B,)``."""
    t = times_of(levels)
    bad = (~per_sample.detach().isfinite()).cpu()
    where = int(bad.nonzero()[0]) if bool(bad.any()) else int(per_sample.argmax())
    samples = [] if index is None else sorted(set(index[bad].tolist()))
    what = f"a loss of {loss:g}" if not math.isfinite(loss) else "a NaN or infinite gradient"
    file = f"the last good checkpoint is {path}" if path else "no checkpoint was written"
    return DivergenceError(
        f"expected a finite loss and gradient, got {what} at training step {step} (t = "
        f"{t[where].item():g}, data indices {samples[:8]}); the model holds the weights before it, "
        f"{file}. Lower lr, lengthen warmup, or clip the gradient",
        step=step,
        t=t[where].item(),
        samples=samples,
    )
