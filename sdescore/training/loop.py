r"""A training loop to read.

Step n is a function of the weights, the optimiser, the average, and the pair (seed, n): batch,
times, noise and dropout come from a generator seeded by (seed, n) alone. So a resumed run needs
no state of any random generator, and on a CPU it ends in the very bits of a run that was never
interrupted.
"""

from __future__ import annotations

import copy
import functools
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sdescore.checkpoint.store import TrainingRecord, save
from sdescore.losses.denoising import denoising_loss
from sdescore.losses.levels import Objective, part_name
from sdescore.losses.loss import trainable
from sdescore.losses.times import TimeDistribution, default_times
from sdescore.losses.weighting import Weighting, one_per_time
from sdescore.nets.ema import EMA
from sdescore.score.model import ScoreModel
from sdescore.training.checks import (
    check_data,
    check_model,
    check_objective,
    check_options,
    check_run,
    null_label,
)
from sdescore.training.failure import divergence
from sdescore.training.interrupt import deferred_interrupt, training_mode
from sdescore.training.state import optimizer_tensors, resume_run
from sdescore.training.steps import learning_rate, step_seed

__all__ = ["TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """What :func:`train` leaves.

    Attributes
    ----------
    model : ScoreModel
        A copy with the averaged weights, in evaluation mode: the one to sample from.
    ema : EMA
        The average itself.
    step : int
        Steps done in all.
    losses : tuple of float
        The batch mean of each step of this call.
    seconds : float
        What this call took.
    finished : bool
        False if ``max_seconds`` ran out before the last step.
    """

    model: ScoreModel = field(repr=False)
    ema: EMA = field(repr=False)
    step: int
    losses: tuple[float, ...] = field(repr=False)
    seconds: float
    finished: bool


def train(
    model: ScoreModel,
    data: Tensor,
    *,
    steps: int,
    labels: Tensor | None = None,
    label_dropout: float = 0.0,
    weighting: str | Weighting = "sigma2",
    times: TimeDistribution | None = None,
    objective: Objective | None = None,
    batch_size: int = 128,
    lr: float = 2e-3,
    schedule: str = "cosine",
    warmup: int = 100,
    weight_decay: float = 0.0,
    clip: float | None = 1.0,
    ema_decay: float = 0.999,
    seed: int = 0,
    device: torch.device | str | None = None,
    max_seconds: float | None = None,
    path: str | os.PathLike[str] | None = None,
    save_every: int = 1000,
    resume: bool = False,
    info: Mapping[str, Any] | None = None,
    progress: bool = True,
    callback: Callable[[int, float], None] | None = None,
) -> TrainingResult:
    """Fit ``model`` in place by :func:`sdescore.denoising_loss`, or another objective, and AdamW.

    Ctrl-C ends the step under way, saves to ``path`` (if given) and raises ``KeyboardInterrupt``
    again; a second Ctrl-C stops at once, and the last file on disk stays as it is.

    Parameters
    ----------
    model : ScoreModel
        Trained in place: it holds the raw weights afterwards.
    data : Tensor
        ``(N, *E)`` floating point, finite; on any device, moved batch by batch. Batches are drawn
        uniformly with replacement.
    steps : int
        Optimiser steps of the whole run, those before a resume included.
    labels : Tensor, optional
        ``(N,)`` int64, handed to the network.
    label_dropout : float
        Probability in [0, 1] of the null label ``net.config["classes"]`` instead, for
        classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1).
    weighting, times
        As in :func:`sdescore.denoising_loss`.
    objective : callable, optional
        Called as ``objective(model, x0, t=t, label=label, generator=generator)`` for a
        :class:`sdescore.losses.Loss` in place of the denoising loss: any objective of
        :mod:`sdescore.losses`, such as :func:`sdescore.losses.sliced_loss`, or one of your own. The
        times are drawn as ever, and an importance weight of theirs is applied.
        ``functools.partial`` binds an objective's own options, ``weighting`` among them. A
        checkpoint records its name and the numbers and strings among its options: a resume does not
        tell two lambdas apart, nor what tensors, scores or closures within an objective hold.
    batch_size : int
        Samples a step.
    lr, schedule, warmup
        The learning rate rises linearly over ``warmup`` steps to ``lr``, then stays
        (``"constant"``) or falls to 0 at ``steps`` along half a cosine (``"cosine"``).
    weight_decay : float
        AdamW's (Loshchilov & Hutter 2019, arXiv:1711.05101).
    clip : float, optional
        Largest norm of the gradient; None leaves it.
    ema_decay : float
        In [0, 1), see :class:`sdescore.EMA`.
    seed : int
        Of batches, times, noise and dropout; not of the weights ``model`` comes with.
    device : torch.device or str, optional
        Where to train; by default where the model is.
    max_seconds : float, optional
        Stop after the first step that ends later than this. The file at ``path`` can be resumed.
    path : path, optional
        Checkpoint, written every ``save_every`` steps and at the end; see :func:`sdescore.save`.
    resume : bool
        Continue from the file at ``path``, if there is one. All options but ``steps`` and the
        way they are watched must be those of its run.
    info : dict, optional
        Notes for the checkpoint, JSON.
    progress : bool
        Show a bar with the running mean of the loss.
    callback : callable, optional
        Called as ``callback(steps_done, loss)`` after every step.

    Raises
    ------
    DivergenceError
        The loss or its gradient is NaN or infinite. ``model`` holds the last good weights, and
        the last file at ``path`` stays.
    CheckpointError
        The file to resume from is damaged, or of another model or run.
    ScheduleError, ShapeError, IncompatibleError
        Bad options or data; before the first network call.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> model = ss.ScoreModel(ss.MLP(2, hidden=16), ss.VPSDE(), time_input="log_snr")
    >>> data = torch.randn(100, 2)
    >>> result = ss.train(model, data, steps=3, progress=False)
    >>> result.step, len(result.losses), result.finished
    (3, 3, True)
    """
    from tqdm.auto import tqdm

    net = check_model(model)
    if objective is not None:
        check_objective(objective, weighting)
    times = default_times(model.sde) if times is None else times
    check_data(data, labels, label_dropout, net)
    options = check_options(
        {
            "data": list(data.shape),
            "labels": labels is not None,
            "label_dropout": label_dropout,
            "weighting": weighting,
            "times": times,
            "batch_size": batch_size,
            "lr": lr,
            "schedule": schedule,
            "warmup": warmup,
            "weight_decay": weight_decay,
            "clip": clip,
            "ema_decay": ema_decay,
            "seed": seed,
        },
        model.sde,
    )
    if objective is not None:  # a file without the entry is a run of the denoising loss
        options["objective"] = part_name(objective)
    check_run(steps, max_seconds, path, save_every, resume)
    if objective is None:
        objective = functools.partial(denoising_loss, weighting=weighting)

    began = time.monotonic()
    model.to(model.device if device is None else device)
    named = {name: p for name, p in net.named_parameters() if p.requires_grad}
    weights = list(named.values())
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=weight_decay)
    ema = EMA(net, ema_decay)
    step = 0
    if resume and path is not None and os.path.exists(path):
        step = resume_run(path, model, ema, optimizer, named, options)
    # Without dropout no step trains what the network does without a label.
    model.label_required = labels is not None and label_dropout == 0
    saved = step
    losses: list[float] = []

    def checkpoint() -> None:
        if path is not None:
            record = TrainingRecord(step, options, optimizer_tensors(optimizer, named))
            save(path, model, ema=ema, training=record, info=info)

    cuda = [model.device] if model.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=cuda),
        training_mode(net),
        deferred_interrupt() as interrupt,
        tqdm(total=steps, initial=step, disable=not progress, desc="training") as bar,
    ):
        while step < steps and not interrupt.is_set():
            # Dropout draws from the global generator, everything else from this one.
            torch.manual_seed(step_seed(seed, step, domain=1))
            generator = torch.Generator().manual_seed(step_seed(seed, step))
            index = torch.randint(len(data), (batch_size,), generator=generator)
            x0 = data[index.to(data.device)].to(model.device)
            label = None
            if labels is not None:
                label = labels[index.to(labels.device)].to(model.device)
                if label_dropout > 0:
                    dropped = torch.rand(batch_size, generator=generator) < label_dropout
                    label = label.masked_fill(dropped.to(label.device), null_label(net))
            t = times.sample(model.sde, batch_size, generator, model.device)

            found = objective(model, x0, t=t, label=label, generator=generator)
            importance = times.importance_weight(model.sde, t)
            if importance is not None:
                importance = one_per_time("importance weight", importance, t)
            per_sample, mean = trainable(found, len(t), part_name(objective)).weighted(importance)
            optimizer.zero_grad(set_to_none=True)
            mean.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(weights, math.inf if clip is None else clip)
            loss = mean.item()
            if not (math.isfinite(loss) and math.isfinite(norm.item())):
                raise divergence(step, loss, per_sample, t, index, path if saved else None)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, lr, schedule, warmup)
            optimizer.step()
            ema.update(net)
            step += 1
            losses.append(loss)

            bar.set_postfix(loss=f"{_recent(losses):.4f}", refresh=False)
            bar.update()
            if step % save_every == 0:
                checkpoint()
                saved = step
            if callback is not None:
                try:
                    callback(step, loss)
                except KeyboardInterrupt:
                    interrupt.set()
            if max_seconds is not None and time.monotonic() - began > max_seconds:
                break
        if saved != step:
            checkpoint()
    if interrupt.is_set():
        raise KeyboardInterrupt
    averaged = copy.deepcopy(model)
    ema.copy_to(averaged.net)
    return TrainingResult(
        model=averaged.eval(),
        ema=ema,
        step=step,
        losses=tuple(losses),
        seconds=time.monotonic() - began,
        finished=step >= steps,
    )


def _recent(losses: list[float]) -> float:
    """Mean of the last 100 losses."""
    last = losses[-100:]
    return sum(last) / len(last)
