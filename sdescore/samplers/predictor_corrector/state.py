"""Where a chain is between two of its steps, and how it goes on from there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.noise.counter import Domain
from sdescore.samplers.predictor_corrector.chain import Program
from sdescore.samplers.predictor_corrector.loop import BoundModel, advance, fold, require_finite
from sdescore.samplers.request import Request, domain_at, evaluating

if TYPE_CHECKING:
    from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector

__all__ = ["SamplerState"]


@dataclass
class Run:
    """What all states of one run share: the domain of its noise, which samples it has (None: all),
    the latest step it has reached, and how many rewinds there were, one number shared with all runs
    rewound from it."""

    domain: int = Domain.SAMPLER
    samples: range | None = None
    furthest: int = 0
    rewinds: list[int] = field(default_factory=lambda: [0])


@dataclass
class SamplerState:
    """Where a chain is. Change ``x`` to steer it; keep the object to resume.

    Attributes
    ----------
    step : int
        How many sampler steps are done.
    t : float
        The time ``x`` is at; 0 after the last denoise.
    x : Tensor
        ``(B, *E)``.
    denoised : Tensor or None
        ``E[x_0 | x_t]`` from the last evaluation; None before the first and on a
        non-linear SDE.
    outputs : list of Tensor
        A multistep predictor's past outputs, each up to a factor that the sampler knows.
    run : Run
        The run that it belongs to. A state that is copied or saved keeps what was known then.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sampler = ss.PredictorCorrector(ss.VPSDE(), steps=8)
    >>> score = ss.GaussianScore([0.0], 0.25, sampler.sde)
    >>> for state in sampler.iterate(score, (1000, 1)):
    ...     if state.step % 4 == 0:
    ...         print(f"t = {state.t:.1f}: {state.x.std():.1f}, {state.denoised.std():.1f}")
    t = 0.2: 0.6, 0.1
    t = 0.0: 0.5, 0.5
    """

    step: int
    t: float
    x: Tensor
    denoised: Tensor | None
    outputs: list[Tensor]
    run: Run = field(default_factory=Run, repr=False)

    def resumed(self) -> Run:
        """The run that goes on from here: this one at its latest step, else another one.

        The steps after an earlier state were run before. Their noise is known to the samples that
        came of it, so a run that rewinds draws other noise.
        """
        if self.step >= self.run.furthest:
            return self.run
        self.run.rewinds[0] += 1
        domain = domain_at(Domain.RESTART, self.t, self.run.rewinds[0])
        return Run(domain, self.run.samples, self.step, self.run.rewinds)

    def require_of(
        self, program: Program, first_time: float, samples: range | None
    ) -> range | None:
        """Its own samples; refuse a state of others, or that no run of the program passes."""
        done = [row for row in program.rows if row.move.step < self.step]
        t = done[-1].move.s if done else first_time
        last = program.rows[-1].move.step + 1 if program.rows else 0
        if not 0 <= self.step <= last or self.t != t:
            raise IncompatibleError(
                f"expected a state of this sampler, which after step {min(self.step, last)} of "
                f"{last} is at t = {t:g}, got step {self.step} at t = {self.t:g}; resume with the "
                "sampler it came from, or pass init= and a grid that starts there"
            )
        own = self.run.samples
        if samples is not None and samples != own:
            checks.refuse(f"samples={own}, which are the state's", samples, IncompatibleError)
        return own


def steps_from(
    sampler: PredictorCorrector, request: Request, start: SamplerState, run: Run
) -> Iterator[SamplerState]:
    """The chain from a state on; see :meth:`sdescore.PredictorCorrector.iterate`."""
    program, samples = sampler.program, request.samples
    stream = request.open(samples, program.spans, run.domain)
    x = request.start(samples, sampler.start_std, stream)
    state = replace(start, x=x, outputs=list(start.outputs), run=run)
    bound = BoundModel(request, samples, program)
    with evaluating(request.model), torch.no_grad():
        bound.checked(x)
    done = sum(row.move.step < state.step for row in program.rows)
    steps, rows = fold(program.rows, bound)[done:], program.rows[done:]
    if program.marginal is not None:
        u, w = bound.numbers(["x0"] * len(program.times))

        def watch(y: Tensor, k: int, o: Tensor) -> None:
            state.denoised = u[k] * y + w[k] * o

        bound.watch = watch
    for i, row in enumerate(rows):
        with evaluating(request.model), torch.no_grad():
            state.x = advance(steps[i], state.x, state.outputs, bound, stream)
            require_finite(row, state.x, samples.start)
        state.t = row.move.s
        if i + 1 == len(rows) or rows[i + 1].move.step > row.move.step:
            state.step = row.move.step + 1
            run.furthest = max(run.furthest, state.step)
            yield state
            # The state a caller has kept stays as it is.
            checks.same_shape(state.x, x, "state.x", "the chain's state")
            steered = state.x.detach().to(request.device, request.dtype, copy=True)
            state = replace(state, x=steered, outputs=list(state.outputs))
