r"""Times and orders of the multistep solvers in :math:`\lambda = \log(\alpha/\sigma)`."""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError, TimeError
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Predictor

SKIP_TYPES = ("time_uniform", "time_quadratic", "logSNR")


class Multistep(Predictor):
    """A multistep method of the probability flow with a ``solver_order``."""

    solver_order: int

    @property
    def order(self) -> int:  # type: ignore[override]
        """The order of the error of the distribution: 2 at most."""
        return min(self.solver_order, 2)

    @property
    def eta(self) -> float:
        """Zero, for the steps are those of the probability flow."""
        return 0.0


def time_steps(sde: LinearSDE, skip_type: str, steps: int, t_end: float | None) -> Tensor:
    """``steps + 1`` times from T to ``t_end``, at equal steps in t, √t or λ; float64."""
    checks.choice("skip_type", skip_type, SKIP_TYPES)
    last = sde.t_min if t_end is None else t_end
    last = checks.number("t_end", last, at_least=0, below=sde.T, error=TimeError)
    start, end = sde.T, last
    if skip_type == "time_quadratic":
        start, end = sde.T**0.5, last**0.5
    elif skip_type == "logSNR":
        start, end = (sde.half_log_snr(t).item() for t in (sde.T, last))
    times = torch.linspace(start, end, steps + 1, dtype=torch.float64, device="cpu")
    if skip_type == "time_quadratic":
        times = times.square()
    elif skip_type == "logSNR":
        times = sde.time_at_half_log_snr(times)
    times[0], times[-1] = sde.T, last
    return times


def orders(order: int, steps: int, lower_at_the_end: bool) -> list[int]:
    """Each step's order: as many outputs as exist, at the end as many as steps are left."""
    left = [steps - n if lower_at_the_end else order for n in range(steps)]
    return [min(order, n + 1, left[n]) for n in range(steps)]


def check_steps(steps: int, order: int, highest: int) -> tuple[int, int]:
    """The number of steps and the order, refused where there are fewer steps than the order."""
    order = checks.count("order", order, at_most=highest)
    return checks.count("steps", steps, at_least=order, error=ScheduleError), order
