"""Where a chain is, between two of its steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sdescore.errors import IncompatibleError
from sdescore.noise.counter import Domain
from sdescore.samplers.predictor_corrector.chain import Program
from sdescore.samplers.request import domain_at

__all__ = ["SamplerState"]


@dataclass
class Run:
    """What all states of one run share.

    Attributes
    ----------
    domain : int
        Of the run's noise.
    furthest : int
        The latest step that the run has reached.
    rewinds : list of int
        One number, how many rewinds there were, shared by a run and all runs rewound from it.
    """

    domain: int = Domain.SAMPLER
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
        return Run(domain, self.step, self.run.rewinds)

    def require_of(self, program: Program, first_time: float) -> None:
        """Refuse a state that no run of this program passes through."""
        done = [row for row in program.rows if row.move.step < self.step]
        t = done[-1].move.s if done else first_time
        last = program.rows[-1].move.step + 1 if program.rows else 0
        if not 0 <= self.step <= last or self.t != t:
            raise IncompatibleError(
                f"expected a state of this sampler, which after step {min(self.step, last)} of "
                f"{last} is at t = {t:g}, got step {self.step} at t = {self.t:g}; resume with the "
                "sampler it came from, or pass init= and a grid that starts there"
            )
