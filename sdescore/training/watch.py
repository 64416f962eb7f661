r"""What a run reports: its loss relative to an uninformed predictor, and that on held-out data.

**The relative loss** divides the loss by that of a predictor which knows nothing of the data but
their size: :math:`\hat x_0 = c_t x_t` with the best factor :math:`c_t`, which is
:math:`E[x_0 | x_t]` for data from :math:`N(0, m I)`. Its denoising loss is, per element,

.. math::
   E_{t \sim \pi}\, \tfrac12 \frac{w(t)}{\sigma_t^2} \frac{\alpha_t^2 m}{\alpha_t^2 m + \sigma_t^2},
   \qquad m = E\, x_0^2 ,

for any data of mean square m. So 1 is a network that does no more than scale its input, whatever
it predicts, and 0 a network that always knows :math:`x_0`. (A network that returns 0 would be
another predictor for each prediction.)
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import signal
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.borrowed import Interrupt, borrowed_generator, step_seed
from sdescore.checkpoint.folder import is_folder, opened
from sdescore.checkpoint.store import TrainingRecord, read_net, save
from sdescore.errors import CheckpointError, IncompatibleError
from sdescore.losses.loss import Loss
from sdescore.losses.times import TimeDistribution
from sdescore.losses.weighting import EDMWeighting, Weighting, named_weighting
from sdescore.nets.ema import EMA, is_sharded, network_tensors, plain_copy, whole
from sdescore.score.interface import states_of
from sdescore.score.model import ScoreModel
from sdescore.training.data import Batch, Share, Source
from sdescore.training.guards import Recipe, null_label
from sdescore.training.sharded import Sharded
from sdescore.training.together import Together
from sdescore.typing import Condition

POINTS = 1000  # of the integral over the training times
ONCE = "none the second time; pass a list or a DataLoader"
RECENT = 100  # steps whose mean the bar shows


def least_informed(
    model: ScoreModel, times: TimeDistribution, weighting: str | Weighting | None, sample: Tensor
) -> float | None:
    """The loss of the predictor that scales its input; the states of ``sample`` tell m.

    None where it is no positive number.
    """
    sde, sample = model.sde, states_of(model, sample.to("cpu", torch.float64))
    u = (torch.arange(POINTS, dtype=torch.float64, device="cpu") + 0.5) / POINTS
    t = times.quantile(sde, u)
    alpha, sigma = sde.marginal(t)
    signal = alpha.square() * sample.square().mean()
    if weighting is None:
        weighting = EDMWeighting(model.sigma_data) if model.prediction == "F" else "sigma2"
    factor = named_weighting(weighting)(sde, t) / sigma.square()
    importance = times.importance_weight(sde, t)
    factor = factor if importance is None else factor * importance
    loss = 0.5 * (factor * signal / (signal + sigma.square())).mean().item() * sample[0].numel()
    return loss if math.isfinite(loss) and loss > 0 else None


class Watch:
    """The bar and the callback of a run.

    ``unit`` is the loss that counts as 1, if there is one.
    """

    def __init__(
        self,
        steps: int,
        step: int,
        progress: bool,
        callback: Callable[[dict[str, Any]], object] | None,
        unit: float | None,
        interrupt: Interrupt,
    ) -> None:
        from tqdm.auto import tqdm

        self.bar = tqdm(total=steps, initial=step, disable=not progress, desc="training")
        self.callback, self.unit, self.interrupt = callback, unit, interrupt
        self.shown: dict[str, str] = {}

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def step(self, step: int, losses: list[float], lr: float, validation: float | None) -> None:
        """After a step, to which the last of ``losses`` belongs."""
        if not self.bar.disable:
            self._show(losses, validation)
        if self.callback is None:
            return
        relative = None if self.unit is None else losses[-1] / self.unit
        seen = {"step": step, "loss": losses[-1], "relative_loss": relative}
        seen |= {"validation_loss": validation, "lr": lr}
        try:
            self.callback(seen)
        except KeyboardInterrupt:
            self.interrupt.number = signal.SIGINT

    def _show(self, losses: list[float], validation: float | None) -> None:
        name = "loss" if self.unit is None else "relative_loss"
        unit, recent = self.unit or 1.0, losses[-RECENT:]
        self.shown[name] = f"{sum(recent) / len(recent) / unit:.4f}"
        if validation is not None:
            self.shown[f"validation_{name}"] = f"{validation / unit:.4f}"
        self.bar.set_postfix(self.shown, refresh=False)
        self.bar.update()


class Validation:
    """The loss on held-out data, always at the same times and noises, and the best weights."""

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        model: ScoreModel,
        evaluate: Callable[[ScoreModel, Tensor, Condition | None, Tensor, torch.Generator], Loss],
        times: TimeDistribution,
        every: int,
        path: str | os.PathLike[str] | None,
        info: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        ranks: Together | None,
    ) -> None:
        advice = "an iterator that ends; pass a list or a DataLoader"
        again = getattr(source, "again", True)
        checks.that(again, "validation= that can be read many times", advice, IncompatibleError)
        self.source, self.batch_size, self.evaluate = source, recipe.batch_size, evaluate
        self.times, self.every, self.options = times, every, dict(options)
        self.seed = partial(step_seed, recipe.seed, domain=2)
        self.model = plain_copy(model).requires_grad_(False).eval()
        self.device = model.device if ranks is None else ranks.device
        self.ranks, self.rank = ranks, 0 if ranks is None else ranks.share.rank
        # A sharded network is called by all ranks at once, so each sees every batch.
        self.share = Share() if ranks is None or isinstance(ranks, Sharded) else ranks.share
        null_label(source, 0.0, self.model.net)  # labels out of range
        first = next(source.once(1, Share()), None)
        if first is None:
            checks.refuse("validation= with samples whenever it is read", ONCE)
        with borrowed_generator(self.seed(0), self.model.device):  # what does not fit fails now
            self._found(self.model, first, 0)
        self.best: ScoreModel | None = None
        self.lowest = math.inf
        self.path = None if path is None else best_path(path)
        self.info = {**(info or {}), "validation": None if path is None else source.record()}

    def resume(self) -> None:
        """Go on from the best weights of the same run on the same held-out data, if there are."""
        if self.path is None or not self.path.exists():
            return
        with opened(self.path) as file:
            file.verify()
            info, record = file.manifest.get("info", {}), file.manifest.get("training") or {}
            same = record.get("options") == self.options
            if same and info.get("validation") == self.info["validation"]:
                read_net(file, self.model.net)
                self.best, self.lowest = copy.deepcopy(self.model), info["validation_loss"]

    def loss(self, ema: EMA, step: int, steps: int) -> float | None:
        """The mean loss of the averaged weights, at its steps; the lowest so far are kept."""
        if step % self.every and step < steps:
            return None
        if self.ranks is not None:  # a rank's buffers, such as running means, are its own
            self.ranks.spread(value for value in ema.shadow.values() if not is_sharded(value))
        device, sums, (rank, size) = self.device, [0.0, 0.0], self.share
        with borrowed_generator(self.seed(0), device), self._averaged(ema) as model:
            drawn = self.source.once(self.batch_size, self.share)
            for turn in itertools.count():
                batch = next(drawn, None)
                if self.ranks is not None:
                    batch = self.ranks.ready(batch, self.ranks.interrupted)
                if batch is None:
                    break
                number = rank + turn * size  # of the batch, on whatever process it is
                found = self._found(model, batch, number)
                sums[0] += found.per_sample.detach().cpu().double().sum().item()
                sums[1] += len(batch.x)
        total, samples = sums if self.ranks is None else self.ranks.meet(*sums)
        checks.that(samples > 0, "validation= with samples whenever it is read", ONCE)
        loss = total / samples
        got = f"{loss:g} at step {step}; look for NaN, also in the conditions"
        checks.that(math.isfinite(loss), "a finite loss on the held-out data", got)
        if loss < self.lowest:
            if isinstance(self.ranks, Sharded):
                for name, value in network_tensors(self.model.net).items():
                    value.copy_(whole(ema.shadow[name]))
            self.lowest, self.best = loss, copy.deepcopy(self.model)
            self._save(step)
        return loss

    def _found(self, model: ScoreModel, batch: Batch, number: int) -> Loss:
        """The loss of a batch, which fixes the times and noises by its number."""
        x0, label = batch.to(self.device)[:2]
        generator = torch.Generator("cpu").manual_seed(self.seed(number))
        t = self.times.sample(model.sde, len(x0), generator, self.device)
        return self.evaluate(model, x0, label, t, generator)

    def _averaged(self, ema: EMA) -> AbstractContextManager[ScoreModel]:
        """The model with the averaged weights, in evaluation mode."""
        if isinstance(self.ranks, Sharded):
            return self.ranks.averaged(ema)
        ema.copy_to(self.model.net)
        return nullcontext(self.model)

    def _save(self, step: int) -> None:
        if self.path is None or self.rank > 0:
            return
        record = TrainingRecord(step, self.options, {})
        try:
            info = {**self.info, "validation_loss": self.lowest}
            save(self.path, self.model, training=record, info=info)
        except CheckpointError as error:
            message = f"the best weights, of step {step}, were not saved: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=4)


def best_path(path: str | os.PathLike[str]) -> Path:
    """Where the weights of the lowest validation loss are kept: ``vp.best.safetensors``."""
    path = Path(path)
    suffix = ".safetensors" if is_folder(path) else path.suffix
    return path.with_name(f"{path.stem}.best{suffix}")
