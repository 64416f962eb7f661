r"""The numbers of the steps to come, computed for many steps at once.

The seed of step n determines its times. The times determine α and σ, the network's time input and
the weight of its error. These are some hundred small operations in float64, which take a tenth of a
small network's step. For many steps at once they take little more time than for one. The losses are
those of :func:`sdescore.denoising_loss`, bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdescore import checks
from sdescore.conditions import require_labels
from sdescore.losses.loss import Loss
from sdescore.losses.times import TimeDistribution
from sdescore.losses.weighting import Weighting, named_weighting, one_per_time
from sdescore.score.convention import Coefficients
from sdescore.score.interface import require_label
from sdescore.score.model import ScoreModel
from sdescore.training.data import Batch, Indexed, Source
from sdescore.training.guards import Recipe
from sdescore.typing import Condition

STEPS = 32  # whose numbers are computed at once


@dataclass
class Levels:
    """Some samples' times and all that follows from them, ``(B,)``, or None for ones.

    The error of ε is ``c (y − p x₀ − q ε)``, the loss half of its square times ``weight``, and
    ``importance`` a proposal's. All but the float64 ``t`` have the states' dtype.
    """

    t: Tensor
    alpha: Tensor  # (B, 1, …), as p, q and c are
    sigma: Tensor
    p: Tensor
    q: Tensor
    c: Tensor | None
    time_value: Tensor
    input_scale: Tensor
    weight: Tensor | None
    importance: Tensor | None

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows: slice) -> Levels:
        parts: Any = (part if part is None else part[rows] for part in vars(self).values())
        return Levels(*parts)


class Run(NamedTuple):
    """What the draws of a run's steps depend on."""

    source: Source
    recipe: Recipe
    dropout: bool  # of labels
    seed_of: Callable[[int], int]
    steps: int
    device: torch.device


class Ahead:
    """The levels of the steps of a run, and the loss of a model at them."""

    def __init__(
        self,
        model: ScoreModel,
        times: TimeDistribution,
        weighting: str | Weighting | None,
        source: Indexed,
        run: Run,
    ) -> None:
        self.model, self.times, self.weighting = model, times, weighting
        self.source, self.run, self.size = source, run, run.recipe.batch_size
        self.first, self.like, self.block = 0, (torch.float32, 0), list[Levels]()
        self.scale: tuple[Tensor, Tensor] | None = None  # mean and std of data that are no states

    def at(self, step: int, batch: Batch, generator: torch.Generator) -> Levels:
        """The levels of a batch; the step's own generator goes on to its noise."""
        self._draw(generator)
        like = (torch.promote_types(batch.x.dtype, torch.float32), batch.x.ndim)
        if like != self.like or not 0 <= step - self.first < len(self.block):
            self.first, self.like, self.block = step, like, self._levels(step, *like)
            scale = self.model.data_scale
            self.scale = None if scale.plain else scale._with(batch.x)[1:]
        levels = self.block[step - self.first]
        n = len(batch.x)
        return levels if len(levels) == n else levels[batch.first : batch.first + n]

    def _draw(self, generator: torch.Generator) -> Tensor:
        draws = 1 if self.times.stratified else self.size
        return torch.rand(draws, generator=generator, dtype=torch.float64, device="cpu")

    @torch.no_grad()
    def _levels(self, first: int, dtype: torch.dtype, ndim: int) -> list[Levels]:
        n, drawn = self.size, []
        for step in range(first, min(first + STEPS, self.run.steps)):
            generator = torch.Generator("cpu").manual_seed(self.run.seed_of(step))
            # What a batch draws before its times: indices, and the labels to drop.
            torch.randint(self.source.length, (n,), generator=generator, device="cpu")
            if self.run.dropout:
                torch.rand(n, generator=generator, dtype=torch.float32, device="cpu")
            drawn.append(self._draw(generator))
        u = torch.stack(drawn).to(checks.with_float64(self.run.device))
        if self.times.stratified:
            u = (u + torch.arange(n, dtype=torch.float64, device=u.device) / n).frac()
        convention, sde = self.model._convention, self.model.sde
        t = self.times.quantile(sde, u.flatten())
        alpha, sigma = sde._marginal(t)  # a distribution of ours draws no time that needs a check
        numbers = convention.at(t, marginal=(alpha, sigma))
        p, q = numbers.pair
        pure = convention.prediction == "v" and sde.marginal(sde.T)[0].item() == 0
        plain = self.weighting is None and (convention.prediction == "F" or pure)
        c = None if plain else torch.where(p == 0, 1 / q, alpha / (alpha * q - sigma * p))
        weight = None
        if self.weighting not in (None, "sigma2"):
            weight = one_per_time("weight w", named_weighting(self.weighting)(sde, t), t)
            weight = weight / sigma.square()
        importance = self.times.importance_weight(sde, t)
        if importance is not None:
            importance = one_per_time("importance weight", importance, t)
        value, whole = numbers.time_value, numbers.time_value.dtype == torch.int64
        value = value.to(self.run.device, value.dtype if whole else self.model.dtype)

        def rows(part: Tensor | None, event: tuple[int, ...] = ()) -> Iterable[Tensor | None]:
            if part is None:
                return itertools.repeat(None)
            return part.to(self.run.device, dtype).reshape(-1, n, *event).unbind()

        one = (1,) * (ndim - 1)
        columns = (rows(part, one) for part in (alpha, sigma, p, q, c))
        rest = (rows(part) for part in (numbers.input_scale, weight, importance))
        return [
            Levels(*parts)
            for parts in zip(t.view(-1, n), *columns, value.view(-1, n), *rest, strict=False)
        ]

    def loss(
        self,
        model: ScoreModel,
        x0: Tensor,
        label: Condition | None,
        levels: Levels,
        generator: torch.Generator,
        noise: Tensor | None = None,
    ) -> Loss:
        """The denoising loss at these levels of checked data; refuses labels as it does."""
        if label is not None:
            require_labels(label, len(x0))
            require_label(model, label)
        clean = x0.to(torch.promote_types(x0.dtype, torch.float32))
        if self.scale is not None:  # as model.from_data
            model.data_scale.check_event(clean.shape[1:])
            clean = (clean - self.scale[0]) / self.scale[1]
        if noise is None:
            noise = torch.randn(
                clean.shape, generator=generator, dtype=clean.dtype, device=generator.device
            )
        noise, p, q = noise.to(clean), levels.p, levels.q
        value, scale = levels.time_value, levels.input_scale
        numbers = Coefficients(levels.alpha, levels.sigma, (p, q), value, scale)
        y = model.output_at(levels.alpha * clean + levels.sigma * noise, numbers, label)
        error = y.to(clean) - (p * clean + q * noise)
        error = error if levels.c is None else levels.c * error
        half = 0.5 if levels.weight is None else 0.5 * levels.weight
        per_sample = half * error.square().reshape(len(x0), -1).sum(-1)
        found = Loss(per_sample, per_sample.mean())
        return found if levels.importance is None else found.weighted(levels.importance)


def of_steps(
    evaluate: Callable[..., Loss],
    default: bool,
    model: ScoreModel,
    times: TimeDistribution,
    weighting: str | Weighting | None,
    run: Run,
) -> tuple[Callable[..., Any], Callable[..., Loss]]:
    """``(step, batch, generator) -> times``, in a form that the loss takes, and the loss.

    Many steps' numbers at once for the ``default`` loss of samples with an index, if all parts are
    of this package and none is a function: what a user wrote may change from step to step.
    """
    parts = (times, weighting, model.convention)
    source = run.source
    if default and isinstance(source, Indexed) and model.convention and all(map(fixed, parts)):
        ahead = Ahead(model, times, weighting, source, run)
        return ahead.at, ahead.loss

    def drawn(step: int, batch: Batch, generator: torch.Generator) -> Tensor:
        return batch.own(times.sample(model.sde, batch.whole, generator, run.device))

    return drawn, evaluate


def times_of(t: Tensor | Levels) -> Tensor:
    """The times ``(B,)`` of a step's samples."""
    return t.t if isinstance(t, Levels) else t


def fixed(part: object) -> bool:
    """Whether it is of this package and holds no function, so that it never changes."""
    if not is_dataclass(part):
        return part is None or isinstance(part, str | int | float | tuple)
    own = type(part).__module__.partition(".")[0] == __name__.partition(".")[0]
    return own and all(fixed(getattr(part, field.name)) for field in fields(part))
