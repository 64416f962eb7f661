"""One chunk of samples, each at its own time, until all are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor

from sdescore.errors import DivergenceError
from sdescore.noise.sources import NoiseStream
from sdescore.samplers.adaptive.controller import next_step, on_a_scale, scaled_error
from sdescore.samplers.adaptive.denoiser import name_samples
from sdescore.samplers.adaptive.pairs import EmbeddedPair, attempt
from sdescore.samplers.adaptive.path import NoisePath
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align

__all__ = ["AdaptiveResult"]

FIRST, SHORTEST = 0.1, 1e-7  # steps, of the range of λ

Evaluate = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""``(x, t, rows, trial) -> x̂₀``, of these rows of the chunk."""


@dataclass(frozen=True)
class Rules:
    """What all samples have in common."""

    sde: LinearSDE
    pair: EmbeddedPair
    eta: float
    rtol: float
    atol: float
    longest: float
    max_steps: int
    first_lam: float
    last_lam: float


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

    @classmethod
    def at_start(cls, rules: Rules, x: Tensor) -> Batch:
        """All rows at T."""

        def all_at(value: float) -> Tensor:
            return torch.full((len(x),), value, dtype=torch.float64, device="cpu")

        first_step = min(rules.longest, FIRST * (rules.last_lam - rules.first_lam))
        return cls(
            rows=torch.arange(len(x), device="cpu"),
            x=x.clone(),
            first=torch.empty_like(x),
            fresh=torch.ones(len(x), dtype=torch.bool, device="cpu"),
            t=all_at(rules.sde.T),
            lam=all_at(rules.first_lam),
            h=all_at(first_step),
            error=all_at(1.0),
        )

    def keep(self, rows: Tensor) -> None:
        """Go on with these alone."""
        for name, value in vars(self).items():
            setattr(self, name, value[rows.to(value.device)])


@dataclass(frozen=True, eq=False)
class AdaptiveResult:
    """Samples, where they are, and what each of them cost.

    Attributes
    ----------
    x : Tensor
        ``(B, *E)``.
    t : Tensor
        ``(B,)`` float64 on the CPU: the time each is at; 0 after the last denoise.
    accepted, rejected : Tensor
        ``(B,)`` int64 on the CPU: steps taken, and steps tried and rejected.
    evaluations : Tensor
        ``(B,)`` int64 on the CPU: score evaluations, the last denoise among them.
    """

    x: Tensor
    t: Tensor
    accepted: Tensor
    rejected: Tensor
    evaluations: Tensor

    @classmethod
    def at_start(cls, x: Tensor, T: float, evaluations: Tensor) -> AdaptiveResult:
        """All samples at T."""
        t = torch.full((len(x),), T, dtype=torch.float64, device="cpu")
        accepted, rejected = torch.zeros(2, len(x), dtype=torch.int64, device="cpu").unbind(0)
        return cls(x, t, accepted, rejected, evaluations)


def run(
    rules: Rules, at: AdaptiveResult, stream: NoiseStream, evaluate: Evaluate, samples: Tensor
) -> Iterator[None]:
    """Try one step of each sample after the other; ``at`` is written to after each trial.

    Raises
    ------
    DivergenceError
        A sample needs more or shorter steps than the rules allow.
    """
    batch = Batch.at_start(rules, at.x)
    # Draw 0 started the samples. Every trial makes as many draws, so those of a sample are numbered
    # by its own trials, whatever becomes of the others.
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
    rules: Rules,
    batch: Batch,
    path: NoisePath | None,
    evaluate: Evaluate,
    trial: int,
) -> Tensor:
    """One trial of every sample: whether its step was taken, ``(B,)`` bool; the batch moves on."""
    device = batch.x.device
    left = rules.last_lam - batch.lam
    # The last two steps share what is left, so that none is a sliver.
    h = torch.where(batch.h < left, torch.minimum(batch.h, left / 2), left)
    lam = torch.where(h < left, batch.lam + h, rules.last_lam)
    s = torch.where(h < left, rules.sde.time_at_half_log_snr(lam), rules.sde.t_min)
    lam = rules.sde.half_log_snr(s)
    if bool(batch.fresh.any()):
        new = batch.fresh.to(device)
        rows = batch.rows[batch.fresh]
        batch.first[new] = evaluate(batch.x[new], batch.t[batch.fresh], rows, trial)
    y, difference = attempt(
        rules.pair,
        rules.sde,
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
    batch.h = on_a_scale(h).clamp(max=rules.longest)
    batch.x = torch.where(align(good.to(device), y), y, batch.x)
    batch.t, batch.lam = torch.where(good, s, batch.t), torch.where(good, lam, batch.lam)
    batch.fresh = good
    if path is not None:
        path.forget(batch.lam)
    return good


def require_progress(rules: Rules, batch: Batch, samples: Tensor, trial: int) -> None:
    """Refuse to go on with samples that get nowhere.

    Raises
    ------
    DivergenceError
        Names them and their times.
    """
    shortest = SHORTEST * (rules.last_lam - rules.first_lam)
    slow = (batch.h < shortest) | (trial >= rules.max_steps)
    if not bool(slow.any()):
        return
    stuck, times = samples[batch.rows[slow]].tolist(), batch.t[slow].tolist()
    raise DivergenceError(
        f"expected the tolerance to be met in max_steps={rules.max_steps} steps, each longer than "
        f"{SHORTEST:g} of the range of log(alpha/sigma); after {trial} steps that is not so in "
        f"{name_samples(stuck, times)}. Raise rtol, atol or max_steps, or check whether the "
        "score is smooth there",
        step=trial,
        t=times[0],
        samples=stuck,
    )
