"""Where a chain is, between two of its steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sdescore.errors import IncompatibleError
from sdescore.samplers.predictor_corrector.chain import Program

__all__ = ["SamplerState"]


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
    """

    step: int
    t: float
    x: Tensor
    denoised: Tensor | None
    outputs: list[Tensor]


def require_own(state: SamplerState, program: Program, first_time: float) -> None:
    """Refuse a state that no run of this program passes through.

    Raises
    ------
    IncompatibleError
        Its step does not exist, or is at another time.
    """
    done = [row for row in program.rows if row.move.step < state.step]
    t = done[-1].move.s if done else first_time
    last = program.rows[-1].move.step + 1 if program.rows else 0
    if not 0 <= state.step <= last or state.t != t:
        raise IncompatibleError(
            f"expected a state of this sampler, which after step {min(state.step, last)} of {last} "
            f"is at t = {t:g}, got step {state.step} at t = {state.t:g}; resume with the sampler "
            "it came from, or pass init= and a grid that starts there"
        )
