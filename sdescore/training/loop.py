r"""A training loop to read.

Batch, times, noise and dropout of step n come from a generator seeded by (seed, n) alone. So a
resumed run needs no state of any generator. On a CPU its bits are those of an uninterrupted run.
"""

from __future__ import annotations

import copy
import functools
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.borrowed import borrowed_generator, late_signals, on_error, step_seed, training_mode
from sdescore.losses.levels import Objective
from sdescore.losses.times import TimeDistribution
from sdescore.losses.weighting import Weighting
from sdescore.nets.ema import EMA, plain_copy, plain_name
from sdescore.score.model import ScoreModel
from sdescore.training import distributed, guards, run_as
from sdescore.training.ahead import Run, of_steps
from sdescore.training.data import BATCH_SIZE, Data, Labels, Share, draw_batch, measured
from sdescore.training.objective import loss_at
from sdescore.training.state import Saver, TrainingResult, divergence, left_behind
from sdescore.training.watch import Validation, Watch, least_informed

__all__ = ["train"]

RANK_SEED = 0x51ED270B  # from one rank's own seed to the next


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    model: ScoreModel,
    data: Data,
    *,
    steps: int = 5000,
    labels: Labels | None = None,
    label_dropout: float = 0.0,
    transform: Callable[[Tensor], Tensor] | None = None,
    standardize: bool = True,
    weighting: str | Weighting | None = None,
    times: TimeDistribution | None = None,
    objective: Objective | None = None,
    batch_size: int | None = None,
    lr: float = 2e-3,
    schedule: str = "cosine",
    warmup: int = 100,
    weight_decay: float = 0.0,
    optimizer: run_as.MakeOptimizer | None = None,
    lr_scheduler: run_as.MakeScheduler | None = None,
    accumulate: int = 1,
    precision: str | None = None,
    compile: bool = False,
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
    callback: Callable[[dict[str, Any]], object] | None = None,
    validation: Data | None = None,
    validate_every: int = 1000,
    shard: bool = False,
) -> TrainingResult:
    """Fit ``model`` in place by :func:`sdescore.denoising_loss`, or another objective, and AdamW.

    Ctrl-C ends the current step, saves to ``path`` and raises ``KeyboardInterrupt``. SIGTERM, which
    batch systems send, saves too and then ends the process. A second signal stops at once. Each
    step restores torch's global generator afterwards; two threads never take a step at once.

    Under ``torchrun``, or in a process group, the processes train one model together. The losses
    are those of one process (:doc:`/howto/many-gpus`). Rank 0 writes files, shows the bar and runs
    the callback.

    Parameters
    ----------
    model : ScoreModel
        Trained in place: it holds the raw weights afterwards.
    data : Tensor, array, Dataset, DataLoader or iterable of batches
        A tensor or array ``(N, *E)``, a ``torch.utils.data.Dataset`` or another object that gives
        samples by index: drawn with replacement. An iterable of batches begins again when it ends.
        A sample, or a batch, is ``x``, ``(x, label)`` or ``{"x": x, "label": label}``, where ``x``
        is finite floating point, or bytes, which become x/127.5 − 1.
    steps : int
        Optimiser steps of the whole run, including those before a resume.
    labels : Tensor, array or dict, optional
        ``(N,)`` int64, conditions ``(N, *C)``, or a dict of them, beside a tensor or an array.
    label_dropout : float
        Probability in [0, 1] that a sample gets the null label: ``net.config["classes"]``, or
        ``net.null_condition``, shaped like one condition (Ho & Salimans 2022, arXiv:2207.12598).
    transform : callable, optional
        ``transform(x)`` gets a copy of a batch ``(B, *E)`` on ``device``, or of a rank's part,
        and returns as many samples. Seed and step fix its draws from torch's global generator.
    standardize : bool
        Set ``data_mean`` and ``data_std`` of a model that has none, measured for each feature or
        channel. States then have mean 0, and standard deviation 1, or ``sigma_data`` where that
        scales the network's input. If False nothing is set, and an unusual scale causes a warning.
    weighting, times
        As in :func:`sdescore.denoising_loss`. But by default a model that predicts F learns at
        stratified :class:`sdescore.losses.LogNormalTimes`; larger samples get more noise.
    objective : callable, optional
        ``objective(model, x0, t=t, label=label, generator=generator)`` returns a
        :class:`sdescore.losses.Loss`: any objective of :mod:`sdescore.losses`, or one of your own.
        ``functools.partial`` binds its options, such as ``weighting``. ``train`` applies the
        importance weight of the times. A file records its name and its options that are numbers or
        strings. So a resume cannot tell two lambdas, tensors or closures apart.
    batch_size : int, optional
        Samples a step, by default 128; not for an iterable, whose batches have their own size.
    lr, schedule, warmup, weight_decay
        The rate is ``lr`` (``"constant"``), or falls to 0 at ``steps`` along half a cosine
        (``"cosine"``), times a factor rising linearly to 1 in ``warmup`` steps. The decay is
        AdamW's (Loshchilov & Hutter 2019, arXiv:1711.05101).
    optimizer : callable, optional
        ``optimizer(parameters)`` returns any ``torch.optim.Optimizer`` in place of AdamW, such as
        ``lambda p: torch.optim.SGD(p, lr=0.1)``. Its learning rates are the schedule's highest;
        leave out ``lr`` and ``weight_decay``. A checkpoint keeps the tensors of its state.
    lr_scheduler : callable, optional
        ``lr_scheduler(optimizer)`` returns one of torch's schedulers, stepped after every step, in
        place of ``schedule`` and ``warmup``. A resume makes a new one and steps it as often.
    accumulate : int
        The number of parts in which a batch goes through the network. More parts take less memory.
        The gradient is that of the whole batch if the loss is a mean over samples.
    precision : {None, "bf16"}
        ``"bf16"`` runs the network alone under ``torch.autocast`` in bfloat16; weights, average and
        optimiser stay in float32.
    compile : bool
        Run the network through ``torch.compile``.
    clip : float, optional
        The largest norm of the gradient. None does not clip it.
    ema_decay, seed
        See :class:`sdescore.EMA`; the seed fixes batches, times, noise and dropout alone.
    device : torch.device or str, optional
        Where to train; by default where the model is.
    max_seconds : float, optional
        Stop after the first step that ends later than this. The file at ``path`` can be resumed.
    path, save_every, info : optional
        Checkpoint, written every ``save_every`` steps and at the end, with the notes ``info``, a
        dict of JSON (:func:`sdescore.save`). With ``shard=True`` a name like ``large.dcp`` is a
        folder, to which each rank writes its part (:func:`sdescore.checkpoint.export`).
    resume : bool
        Continue from the file at ``path``, if there is one. Data, labels and options must be those
        of its run, except options that watch or stop it. With the cosine schedule ``steps`` must be
        the same too. Of data above 256 MiB some samples are compared, of a Dataset its class and
        length, of a ``transform`` its name. On a CPU the bits are those of an uninterrupted run, if
        Dataset and ``transform`` draw from torch's generator alone. A ``DataLoader`` or another
        iterable starts from its beginning, with a warning.
    progress : bool
        Show a bar with the running mean of the relative loss: 1 is a predictor that only scales its
        input, 0 one that always knows x₀. With an ``objective`` it is the loss itself.
    callback : callable, optional
        Called after every step with a dict of ``step`` (steps done), ``loss``, ``relative_loss``
        (None with an ``objective``), ``validation_loss`` (None at the steps without) and ``lr``.
    validation, validate_every : optional
        Held-out data of any kind that ``data`` may have, but not endless; labels if ``data`` has
        them, such as a ``TensorDataset(x, labels)``. Every ``validate_every`` steps and at the end,
        it gives the loss of the averaged weights in evaluation mode, always at the same times and
        noises. The weights with the lowest one are ``result.best``, and at ``….best.safetensors``
        beside ``path``, where a resume finds them.
    shard : bool
        Each process of a group holds a part of the weights, average and optimiser; ``model`` is not
        moved to ``device``. Not with a loss that differentiates the network.

    Raises
    ------
    DivergenceError
        The loss or its gradient is NaN or infinite. ``model`` holds the last good weights, and
        the last file at ``path`` stays.
    CheckpointError
        The file to resume from is damaged, or of another model or run; or something could not be
        saved at ``path``. If a save during the run fails, ``train`` warns and goes on. If the last
        one fails, the error's ``result`` is the :class:`TrainingResult`.
    RankError
        Another process failed, or was told to stop.
    ParameterError, ShapeError, IncompatibleError
        Options or data are refused, before the first network call.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> model = ss.ScoreModel(ss.MLP(2, hidden=16), ss.VPSDE())
    >>> result = ss.train(model, torch.randn(100, 2), steps=3, progress=False)
    >>> result.step, len(result.losses), result.finished
    (3, 3, True)
    """
    net = guards.check_model(model)
    guards.check_times(times, model)
    recipe = guards.Recipe(
        batch_size=BATCH_SIZE if batch_size is None else batch_size, label_dropout=label_dropout,
        weighting=guards.weighting_name(weighting, model), lr=lr, schedule=schedule, warmup=warmup,
        weight_decay=weight_decay, clip=clip, seed=seed, accumulate=accumulate,
        precision=precision, ema_decay=ema_decay, standardize=standardize, transform=transform,
    )  # fmt: skip
    steps, save_every = checks.count("steps", steps), checks.count("save_every", save_every)
    validate_every = checks.count("validate_every", validate_every)
    limit = guards.check_run(path, resume, max_seconds, callback, transform, shard, progress)
    device = model.device if device is None else checks.device(device)
    # Without a process group ``ranks`` is None, and nothing below looks at it.
    with distributed.processes(device, shard) if guards.grouped(shard) else nullcontext() as ranks:
        share = Share() if ranks is None else ranks.share
        device = device if ranks is None else distributed.own_device(device)
        all_seed = functools.partial(step_seed, recipe.seed)
        own_seed = functools.partial(step_seed, recipe.seed + RANK_SEED * share.rank)
        with borrowed_generator(all_seed(0, domain=1), device):
            source, held_out = guards.sources(data, labels, batch_size, validation)
        null = guards.null_label(source, recipe.label_dropout, net)
        callers, model, before = model, copy.copy(model), vars(model._measured).copy()
        model._measured = copy.copy(model._measured)  # the caller's once the run is accepted
        model._measured.data_scale, some = measured(
            model, source, transform, recipe.standardize, recipe.seed, device,
            path if resume else None,
        )  # fmt: skip
        times = guards.training_times(times, model, some[0].numel())
        recipe = replace(recipe, times=guards.option_name(times))
        called = model if shard else model.to(device)
        if ranks is not None:
            model._measured.data_scale = ranks.begin(net, model.data_scale, source, recipe)
            called, net = ranks.trained(model, net)
        began, watched = time.monotonic(), share.rank == 0 and (progress or callback is not None)
        options: dict[str, Any] = asdict(recipe)
        if recipe.schedule == "cosine" and lr_scheduler is None:
            options["steps"] = steps
        own = objective is not None
        unit = None if own or not watched else least_informed(model, times, weighting, some)
        objective = guards.chosen_objective(objective, weighting, options)
        evaluate = functools.partial(loss_at, objective, times)
        drawn = Run(source, recipe, null is not None, all_seed, steps, device)
        times_at, ahead = of_steps(evaluate, not own, model, times, weighting, drawn)
        if precision or compile:
            called = run_as.running(called, precision, compile, device, own=shard)
        add = guards.add_gradient if ranks is None else ranks.add_gradient
        gradient = functools.partial(add, ahead, called, recipe.accumulate)
        named = {plain_name(name): p for name, p in net.named_parameters() if p.requires_grad}
        weights = list(named.values())
        rescale = guards.clipper(weights, recipe.clip)
        descent: torch.optim.Optimizer = guards.adamw(weights, recipe, device)
        if optimizer is not None:
            descent = run_as.made_optimizer(optimizer, weights, recipe, options)
        rates, scheduler = [group["lr"] for group in descent.param_groups], None
        if lr_scheduler is not None:
            scheduler = run_as.made_scheduler(lr_scheduler, descent, recipe, options)
        ema, step, saver = EMA(net, recipe.ema_decay), 0, None
        if path is not None:
            options |= {**source.record(), "event_shape": [*some[0].shape]}
            made = Saver if ranks is None else ranks.saver
            saver = made(path, model, ema, descent, named, options, info, net, share.rank)
            step = saver.resume() if resume else 0
        if scheduler is not None:
            run_as.replay(scheduler, step)
        # No step trains what the network does without a label, or with one.
        model._measured.label_required = recipe.label_dropout == 0 if source.parts else None
        checked: Validation | None = None
        if held_out is not None:
            checked = Validation(
                held_out, recipe, model, evaluate, times, validate_every, path, info, options, ranks
            )
            if resume:
                checked.resume()
        if ranks is not None:
            ranks.require_one_run(options, source, held_out, steps, step, validate_every)
        draw = functools.partial(
            draw_batch, source, recipe.batch_size, recipe.label_dropout, null, transform, device,
            share,
        )  # fmt: skip
        losses, take_average, averaged = list[float](), ema.updater(net), plain_copy(model)
        late, noise, mean = False, None, torch.zeros((), dtype=torch.float32, device=device)
        # AdamW counts its steps in tensors that it makes on the default device.
        on_cpu = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
        vars(callers._measured).update(vars(model._measured))
        with (
            on_error(lambda error: left_behind(callers, before, saver, step, error)),
            training_mode(net),
            late_signals() as interrupt,
            Watch(steps, step, progress, callback, unit, interrupt)
            if watched
            else nullcontext() as watch,
        ):
            while step < steps:
                batch, seed_of = None, all_seed if source.shared else own_seed
                generator = torch.Generator("cpu").manual_seed(seed_of(step))
                # Dropout and what a user's code draws come from the global generator.
                with borrowed_generator(own_seed(step, domain=1), device):
                    if not late and interrupt.number is None:
                        batch = draw(generator)
                    if ranks is not None:
                        batch = ranks.ready(batch, interrupt.number is not None)
                    if batch is not None:
                        t = times_at(step, batch, generator)
                        if ranks is not None:
                            noise = ranks.noise(batch, generator, own_seed(step, domain=3))
                        for weight in weights:
                            weight.grad = None
                        found = gradient(batch, t, generator, noise)
                        mean = found.mean
                if ranks is not None:
                    batch, mean = ranks.reduce(weights, batch, mean, interrupt.number is not None)
                if batch is None:
                    break
                norm = rescale()
                loss = mean.item()
                if not (math.isfinite(loss) and math.isfinite(norm)):
                    if ranks is not None:
                        ranks.require_failure(net, found.mean, mean)
                    file = None if saver is None or not saver.saved else path
                    raise divergence(step, loss, found.per_sample, t, batch.indices, file)
                if scheduler is None:
                    recipe.set_rates(descent, rates, step, steps)
                lr = descent.param_groups[0]["lr"]
                with on_cpu:
                    descent.step()
                take_average()
                step += 1
                if scheduler is not None:
                    scheduler.step()
                losses.append(loss)
                held_out_loss = None if checked is None else checked.loss(ema, step, steps)
                if saver is not None:
                    saver.after(step, save_every)
                if watch is not None:
                    watch.step(step, losses, float(lr), held_out_loss)
                late = time.monotonic() - began > limit
            if ranks is not None:
                ema = ranks.end(net, ema)
            if saver is not None:
                saver.save(step)
        ema.copy_to(averaged.net)
        seconds, done = time.monotonic() - began, step >= steps
        best = None if checked is None else checked.best
        result = TrainingResult(averaged.eval(), ema, step, tuple(losses), seconds, done, best)
        if saver is not None and saver.error is not None:
            saver.error.result = result
            raise saver.error
    interrupt.deliver()
    if ranks is not None:
        ranks.deliver()
    return result
