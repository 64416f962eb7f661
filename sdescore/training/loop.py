r"""A training loop to read.

Batch, times, noise and dropout of step n come from a generator seeded by (seed, n) alone. So a
resumed run needs no state of any random generator, and on a CPU it ends in the very bits of a run
that was never interrupted.
"""

from __future__ import annotations

import copy
import functools
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.losses.denoising import TimeDistribution, denoising_loss
from sdescore.losses.levels import Objective
from sdescore.losses.weighting import Weighting
from sdescore.nets.ema import EMA, plain_copy, plain_name
from sdescore.noise.torch_global import borrowed_generator, step_seed
from sdescore.score.model import ScoreModel
from sdescore.training import guards, run_as
from sdescore.training.data import BATCH_SIZE, Data, Labels, draw_batch, measured
from sdescore.training.state import Saver, TrainingResult, divergence
from sdescore.training.watch import Validation, Watch, least_informed

__all__ = ["train"]


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    model: ScoreModel,
    data: Data,
    *,
    steps: int,
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
) -> TrainingResult:
    """Fit ``model`` in place by :func:`sdescore.denoising_loss`, or another objective, and AdamW.

    Ctrl-C ends the step under way, saves to ``path`` (if there is one) and raises
    ``KeyboardInterrupt`` again. SIGTERM, which batch systems send before they kill, does the same
    and then ends the process. A second signal stops at once; the last file on disk stays as it is.
    torch's global generator is as it was after every step; threads that train at once take turns.

    Parameters
    ----------
    model : ScoreModel
        Trained in place: it holds the raw weights afterwards.
    data : Tensor, array, Dataset, DataLoader or iterable of batches
        A tensor or a numpy array ``(N, *E)``, such as a memmap; a map-style
        ``torch.utils.data.Dataset``; or batches, which begin again when they end. A batch, and a
        sample of a Dataset, is ``x``, ``(x, label)`` or ``{"x": x, "label": label}``, finite
        floating point, or bytes, which become x/127.5 − 1. Batches of tensors, arrays and Datasets
        are drawn with replacement, by seed and step alone.
    steps : int
        Optimiser steps of the whole run, those before a resume included.
    labels : Tensor, array or dict, optional
        ``(N,)`` int64, conditions ``(N, *C)``, or a dict of them, beside a tensor or an array.
    label_dropout : float
        Probability in [0, 1] of the null label instead, ``net.config["classes"]`` or, like the
        condition of one sample, ``net.null_condition`` (Ho & Salimans 2022, arXiv:2207.12598).
    transform : callable, optional
        Called as ``transform(x)`` on a batch ``(B, *E)``, in floating point on ``device``; it
        returns another of as many samples. What it draws from torch's global generator follows
        from seed and step.
    standardize : bool
        Measure ``data_mean`` and ``data_std`` of a model that has none, per feature or channel: its
        states get mean 0, and standard deviation 1 or, where the network's input is scaled by it,
        ``sigma_data``. If False the model stays as it is, and data of another scale earn a warning.
    weighting, times
        As in :func:`sdescore.denoising_loss`; but for a model that predicts F the times are by
        default :class:`sdescore.losses.LogNormalTimes`.
    objective : callable, optional
        Called as ``objective(model, x0, t=t, label=label, generator=generator)`` for a
        :class:`sdescore.losses.Loss` in place of the denoising loss: any objective of
        :mod:`sdescore.losses`, or one of your own. An importance weight of the times is applied.
        ``functools.partial`` binds an objective's own options, ``weighting`` among them. A
        checkpoint records its name and the numbers and strings among its options: a resume does not
        tell two lambdas apart, nor what tensors, scores or closures within an objective hold.
    batch_size : int, optional
        Samples a step, by default 128; not for an iterable, whose batches have their own size.
    lr, schedule, warmup
        The learning rate rises linearly over ``warmup`` steps to ``lr``, then stays
        (``"constant"``) or falls to 0 at ``steps`` along half a cosine (``"cosine"``).
    weight_decay : float
        AdamW's (Loshchilov & Hutter 2019, arXiv:1711.05101).
    optimizer : callable, optional
        ``optimizer(parameters)`` returns any ``torch.optim.Optimizer`` in place of AdamW, such as
        ``lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)``. Its own rates are the highest of the
        schedule; leave ``lr`` and ``weight_decay`` out. A file keeps the tensors of its state.
    lr_scheduler : callable, optional
        ``lr_scheduler(optimizer)`` returns one of torch's schedules, stepped after every step, in
        place of ``schedule`` and ``warmup``. A resume steps a fresh one as often.
    accumulate : int
        The batch goes through the network in so many parts, one after another, which takes less
        memory. The gradient is that of the whole batch, for a loss that is a mean over samples.
    precision : {None, "bf16"}
        ``"bf16"`` runs the network, and nothing else, under ``torch.autocast`` in bfloat16. The
        weights, their average and the optimiser stay in float32.
    compile : bool
        Run the network through ``torch.compile``.
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
        Continue from the file at ``path``, if there is one. Data, labels and all options must be
        those of its run, but not the ways to watch and to stop it; ``steps`` must be with the
        cosine schedule, which ends there. Of data above 256 MiB some samples are compared, of a
        Dataset its class and length. On a CPU the bits are those of an uninterrupted run, for a
        Dataset and a ``transform`` that draw from torch's generator alone. A ``DataLoader`` or
        another iterable cannot promise that: it starts from its beginning, and the file says
        ``resumes_exactly: false``.
    info : dict, optional
        Notes for the checkpoint, JSON.
    progress : bool
        Show a bar with the running mean of the relative loss: 1 is a predictor that only scales its
        input, 0 one that always knows x₀ (:mod:`sdescore.training.watch`). The data's scale is
        measured on some samples. With an ``objective`` it is the loss itself.
    callback : callable, optional
        Called after every step with a dict of ``step`` (steps done), ``loss``, ``relative_loss``
        (None with an ``objective``), ``validation_loss`` (None at the steps without) and ``lr``.
    validation : optional
        Held-out data of any kind that ``data`` may have, but finite; with labels if ``data`` has
        them, such as a ``TensorDataset(x, labels)``. Its loss is that of the averaged weights in
        evaluation mode, always at the same times and noises. The weights with the lowest one are
        ``result.best``, and at ``….best.safetensors`` beside ``path``. A resume goes on from that
        file where it is of this run and of the same held-out data.
    validate_every : int
        Steps between; it is also done after the last step.

    Raises
    ------
    DivergenceError
        The loss or its gradient is NaN or infinite. ``model`` holds the last good weights, and
        the last file at ``path`` stays.
    CheckpointError
        The file to resume from is damaged, or of another model or run; or, before the first step,
        something could not be saved at ``path``. If a save fails during the run, a warning says so
        and the run goes on; the last one's error has the :class:`TrainingResult` as ``result``.
    ParameterError, ShapeError, IncompatibleError
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
    net = guards.check_model(model)
    times = guards.training_times(times, model)
    known = guards.training_weighting(weighting, model)
    recipe = guards.Recipe(
        label_dropout=label_dropout,
        weighting=guards.option_name(known),
        times=guards.option_name(times),
        batch_size=BATCH_SIZE if batch_size is None else batch_size,
        lr=lr,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        accumulate=accumulate,
        precision=precision,
        clip=clip,
        ema_decay=ema_decay,
        seed=seed,
        standardize=standardize,
    )
    steps, save_every = checks.count("steps", steps), checks.count("save_every", save_every)
    validate_every = checks.count("validate_every", validate_every)
    if max_seconds is not None:
        max_seconds = checks.number("max_seconds", max_seconds, above=0)
    for name, function in {"callback": callback, "transform": transform}.items():
        if function is not None:
            checks.function(name, function)
    guards.check_path(path, resume)
    checks.flag("compile", compile)
    device = model.device if device is None else checks.device(device)
    with borrowed_generator(step_seed(recipe.seed, 0, domain=1), device):
        source, held_out = guards.sources(data, labels, batch_size, validation)
    null = guards.null_label(source, recipe.label_dropout, net)
    # The caller's model gets its scale when everything was accepted.
    callers, model = model, copy.copy(model)  # of one network
    model.data_scale, some = measured(
        model, source, transform, recipe.standardize, recipe.seed, device, path if resume else None
    )

    began, watched = time.monotonic(), progress or callback is not None
    options: dict[str, Any] = asdict(recipe)
    objective_name, unit = "the denoising loss", None
    if objective is None:
        if watched:
            unit = least_informed(model, times, known, some)
        objective = functools.partial(denoising_loss, weighting=weighting)
    else:  # a file without the entry is a run of the denoising loss
        run_as.check_objective(objective, weighting)
        objective_name = options["objective"] = checks.part_name(objective)
    if recipe.schedule == "cosine" and lr_scheduler is None:
        options["steps"] = steps
    model.to(device)
    evaluate = functools.partial(guards.loss_at, objective, times)
    called = run_as.running(model, precision, compile, device) if precision or compile else model
    named = {plain_name(name): p for name, p in net.named_parameters() if p.requires_grad}
    weights = list(named.values())
    adamw = torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay)
    descent: torch.optim.Optimizer = adamw
    if optimizer is not None:
        recipe.leave_out("optimizer=", "lr", "weight_decay")
        descent = run_as.made_optimizer(optimizer, weights, options)
    rates = [group["lr"] for group in descent.param_groups]
    scheduler = None
    if lr_scheduler is not None:
        recipe.leave_out("lr_scheduler=", "schedule", "warmup")
        scheduler = run_as.made_scheduler(lr_scheduler, descent, options)
    ema = EMA(net, recipe.ema_decay)
    step, saver = 0, None
    if path is not None:
        options |= source.record()
        saver = Saver(path, model, ema, descent, named, options, info)
        step = saver.resume() if resume else 0
    if scheduler is not None:
        run_as.replay(scheduler, step)
    # Without dropout no step trains what the network does without a label.
    model.label_required = source.labelled and recipe.label_dropout == 0
    checked: Validation | None = None
    if held_out is not None:
        seed_of = functools.partial(step_seed, recipe.seed, domain=2)
        checked = Validation(
            held_out, recipe.batch_size, model, evaluate, times, seed_of, path, info, options
        )
        if resume:
            checked.resume()
    callers.data_scale, callers.label_required = model.data_scale, model.label_required
    losses: list[float] = []
    # AdamW counts its steps in tensors that it makes on the default device.
    elsewhere = torch.get_default_device().type != "cpu"
    on_cpu = torch.device("cpu") if elsewhere else nullcontext()

    with (
        guards.training_mode(net),
        guards.deferred_signals() as interrupt,
        Watch(steps, step, progress, callback, unit, interrupt)
        if watched
        else nullcontext() as watch,
    ):
        while step < steps and interrupt.number is None:
            generator = torch.Generator("cpu").manual_seed(step_seed(recipe.seed, step))
            # Dropout and what a user's code draws are the global generator's, all else the step's.
            with borrowed_generator(step_seed(recipe.seed, step, domain=1), device):
                batch = draw_batch(
                    source, recipe.batch_size, recipe.label_dropout, null, transform, generator,
                    device,
                )  # fmt: skip
                if batch is None:
                    break
                t = times.sample(model.sde, len(batch.x), generator, device)
                descent.zero_grad(set_to_none=True)
                found = guards.add_gradient(
                    evaluate, called, batch, t, generator, recipe.accumulate, objective_name
                )
            largest = math.inf if recipe.clip is None else recipe.clip
            norm = nn.utils.clip_grad_norm_(weights, largest)
            loss = found.mean.item()
            if not (math.isfinite(loss) and math.isfinite(norm.item())):
                file = None if saver is None or not saver.saved else path
                raise divergence(step, loss, found.per_sample, t, batch.indices, file)
            if scheduler is None:
                for group, rate in zip(descent.param_groups, rates, strict=True):
                    group["lr"] = recipe.learning_rate(rate, step, steps)
            lr = descent.param_groups[0]["lr"]
            with on_cpu:
                descent.step()
            if scheduler is not None:
                scheduler.step()
            ema.update(net)
            step += 1
            losses.append(loss)
            held_out_loss = None
            if checked is not None and (step % validate_every == 0 or step == steps):
                held_out_loss = checked.loss(ema, step)
            if saver is not None and step % save_every == 0:
                saver.save(step)
            if watch is not None:
                watch.step(step, losses, float(lr), held_out_loss)
            if max_seconds is not None and time.monotonic() - began > max_seconds:
                break
        if saver is not None:
            saver.save(step)
    unsaved = None if saver is None else saver.error
    if unsaved is None:
        interrupt.deliver()
    averaged = plain_copy(model)
    ema.copy_to(averaged.net)
    seconds = time.monotonic() - began
    best = None if checked is None else checked.best
    result = TrainingResult(averaged.eval(), ema, step, tuple(losses), seconds, step >= steps, best)
    if unsaved is not None:
        unsaved.result = result
        raise unsaved
    return result
