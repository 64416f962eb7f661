"""One chunk of samples, each at its own time, until all are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore.errors import DivergenceError
from sdescore.noise.sources import NoiseStream
from sdescore.samplers.adaptive.controller import next_step, on_a_scale, scaled_error
from sdescore.samplers.adaptive.pairs import attempt
from sdescore.samplers.adaptive.path import NoisePath
from sdescore.samplers.request import called
from sdescore.score.model import ScoreModel
from sdescore.score.parameterization import convert
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align, flat
from sdescore.typing import Condition, Score

if TYPE_CHECKING:
    from sdescore.samplers.adaptive.sampler import AdaptiveSampler

__all__ = ["AdaptiveResult"]

FIRST, SHORTEST = 0.1, 1e-7  # steps, of the range of λ

Evaluate = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""``(x, t, rows, trial) -> x̂₀``, of these rows of the chunk."""


@dataclass(eq=False)
class Batch:
    """The samples on their way; rows, times and steps on the CPU, real numbers in float64."""

    rows: Tensor  # of the chunk
    x: Tensor
    first: Tensor  # x̂₀ at (x, t)
    fresh: Tensor  # whether that has yet to be evaluated
    t: Tensor
    lam: Tensor
    h: Tensor
    error: Tensor  # of the last step taken

    def keep(self, rows: Tensor) -> None:
        """Go on with these alone."""
        for name, value in vars(self).items():
            setattr(self, name, value[rows.to(value.device)])


@dataclass(frozen=True, eq=False)
class AdaptiveResult:
    """Samples, their times, and what each of them cost.

    Attributes
    ----------
    x : Tensor
        ``(B, *E)``.
    t : Tensor
        ``(B,)`` float64 on the CPU: the time of each sample; 0 after the last denoise.
    accepted, rejected : Tensor
        ``(B,)`` int64 on the CPU: steps taken, and steps tried and rejected.
    evaluations : Tensor
        ``(B,)`` int64 on the CPU: score evaluations, the last denoise included. The first calls,
        which test whether the score computes each sample by itself, are not counted.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sampler = ss.AdaptiveSampler(ss.VPSDE())
    >>> found = sampler.solve(ss.GaussianScore([0.0], 1.0, sampler.sde), shape=(8, 1))
    >>> tried = found.accepted + found.rejected
    >>> found.x.shape, bool((found.evaluations > tried).all())
    (torch.Size([8, 1]), True)
    """

    x: Tensor
    t: Tensor
    accepted: Tensor
    rejected: Tensor
    evaluations: Tensor


def run(
    rules: AdaptiveSampler,
    at: AdaptiveResult,
    stream: NoiseStream,
    evaluate: Evaluate,
    samples: Tensor,
) -> Iterator[None]:
    """Try one step of each sample after the other; ``at`` is written to after each trial."""
    first_lam, last_lam = rules.lam_ends
    first_step = min(rules.max_step_size, FIRST * (last_lam - first_lam))
    batch = Batch(
        rows=torch.arange(len(at.x), device="cpu"),
        x=at.x.clone(),
        first=torch.empty_like(at.x),
        fresh=torch.ones(len(at.x), dtype=torch.bool, device="cpu"),
        t=at.t.clone(),
        lam=torch.full_like(at.t, first_lam),
        h=torch.full_like(at.t, first_step),
        error=torch.ones_like(at.t),
    )
    # Draw 0 started the samples. Every trial uses equally many draws, so a draw's number depends on
    # the sample's own trials alone.
    draws = map(stream.draw, count(1))
    path = NoisePath(batch.lam, batch.x, rules.eta, draws) if rules.eta else None
    trial = 0
    while len(batch.rows):
        trial += 1
        good = try_step(rules, batch, path, evaluate, trial)
        at.accepted[batch.rows[good]] += 1
        at.rejected[batch.rows[~good]] += 1
        at.x[batch.rows.to(at.x.device)] = batch.x
        at.t[batch.rows] = batch.t
        done = batch.t == rules.sde.t_min
        if bool(done.any()):
            batch.keep(~done)
            if path is not None:
                path.keep(~done)
        require_progress(rules, batch, samples, trial)
        yield


def try_step(
    rules: AdaptiveSampler, batch: Batch, path: NoisePath | None, evaluate: Evaluate, trial: int
) -> Tensor:
    """One trial of every sample: whether its step was taken, ``(B,)`` bool; the batch moves on."""
    sde, last_lam, device = rules.sde, rules.lam_ends[1], batch.x.device
    left = last_lam - batch.lam
    # The last two steps share what is left, so that none is a sliver.
    h = torch.where(batch.h < left, torch.minimum(batch.h, left / 2), left)
    lam = torch.where(h < left, batch.lam + h, last_lam)
    s = torch.where(h < left, sde.time_at_half_log_snr(lam), sde.t_min)
    lam = sde.half_log_snr(s)
    if bool(batch.fresh.any()):
        new, rows = batch.fresh.to(device), batch.rows[batch.fresh]
        batch.first[new] = evaluate(batch.x[new], batch.t[batch.fresh], rows, trial)
    y, difference = attempt(
        rules.pair,
        sde,
        rules.eta,
        batch.x,
        batch.t,
        s,
        batch.first,
        lambda state, t: evaluate(state, t, batch.rows, trial),
        None if path is None else partial(path.normal, batch.lam),
    )
    error = scaled_error(difference, batch.x, y, rules.rtol, rules.atol)
    good = error <= 1
    h, batch.error = next_step(h, error, batch.error, rules.pair.order, batch.fresh)
    batch.h = on_a_scale(h).clamp(max=rules.max_step_size)
    batch.x = torch.where(align(good.to(device), y), y, batch.x)
    batch.t, batch.lam = torch.where(good, s, batch.t), torch.where(good, lam, batch.lam)
    batch.fresh = good
    if path is not None:
        path.forget(batch.lam)
    return good


def denoised(
    model: Score, sde: LinearSDE, x: Tensor, t: Tensor, labels: tuple[Condition, ...]
) -> Tensor:
    """x̂₀ at states ``(B, *E)`` and times ``(B,)`` float64, a fresh tensor like ``x``."""
    if isinstance(model, ScoreModel) and model.convention is not None:
        predict = partial(model.predict, "x0")
        return called(predict, x, t, *labels, who="the network").clone()
    score = called(model, x, t.to(x), *labels, who="the score")
    return convert(score.to(x.dtype), x, *sde.marginal(t), "score", "x0")


def require_finite(output: Tensor, t: Tensor, samples: Tensor, trial: int) -> None:
    """Refuse an output that is not finite."""
    broken = ~flat(output).isfinite().all(1).cpu()
    what, advice = f"the score is not finite in step {trial}, in", "Check the model at these times"
    refuse_where(broken, t, samples, trial, what, advice)


def require_progress(rules: AdaptiveSampler, batch: Batch, samples: Tensor, trial: int) -> None:
    """Refuse to go on with samples that get nowhere."""
    first_lam, last_lam = rules.lam_ends
    slow = (batch.h < SHORTEST * (last_lam - first_lam)) | (trial >= rules.max_steps)
    what = (
        f"expected the tolerance to be met in max_steps={rules.max_steps} steps, each longer than "
        f"{SHORTEST:g} of the range of log(alpha/sigma); after {trial} steps that is not so in"
    )
    advice = "Raise rtol, atol or max_steps, or check whether the score is smooth there"
    refuse_where(slow, batch.t, samples[batch.rows], trial, what, advice)


def refuse_where(
    bad: Tensor, t: Tensor, samples: Tensor, trial: int, what: str, advice: str
) -> None:
    """Stop where a sample is ``bad``; the error names those, each with its time."""
    if not bool(bad.any()):
        return
    broken, times = samples[bad].tolist(), t[bad].tolist()
    shown = ", ".join(f"{i} (t = {t:g})" for i, t in zip(broken[:8], times, strict=False))
    shown += ", …" if len(broken) > 8 else ""
    error = f"{what} {len(broken)} samples: {shown}. {advice}"
    raise DivergenceError(error, step=trial, t=times[0], samples=broken)
