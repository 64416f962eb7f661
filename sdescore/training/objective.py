"""The value of an objective in a training run, and what is refused of it."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.losses.levels import Objective
from sdescore.losses.loss import Loss
from sdescore.losses.times import TimeDistribution
from sdescore.losses.weighting import one_per_time
from sdescore.score.model import ScoreModel
from sdescore.typing import Condition


def usable(loss: object, samples: int) -> Loss:
    """What an objective returned, refused unless it is a loss of so many samples."""
    parts = loss if isinstance(loss, Loss) else ()
    shapes = [part.shape if isinstance(part, Tensor) else None for part in parts]
    if not isinstance(loss, Loss) or shapes != [(samples,), ()]:
        expected = f"the objective to return a Loss with per_sample ({samples},) and a 0-dim mean"
        got = f"{type(loss).__name__}; use Loss.of(per_sample)"
        checks.refuse(expected, got, IncompatibleError)
    return loss


def loss_at(
    objective: Objective,
    times: TimeDistribution,
    model: ScoreModel,
    x0: Tensor,
    label: Condition | None,
    t: Tensor,
    generator: torch.Generator,
    noise: Tensor | None = None,
) -> Loss:
    """An objective at the times ``t`` ``(B,)``, a proposal's importance weight included."""
    takes = noise is not None and "noise" in inspect.signature(objective).parameters
    more = {"noise": noise} if takes else {}
    found = usable(objective(model, x0, t=t, label=label, generator=generator, **more), len(t))
    importance = times.importance_weight(model.sde, t)
    if importance is None:
        return found
    return found.weighted(one_per_time("importance weight", importance, t))
