"""Times between the ends of a step."""

from __future__ import annotations

from torch import Tensor

from sdescore.checks import require
from sdescore.sde.linear import LinearSDE


def time_at(sde: LinearSDE, lam: Tensor) -> Tensor:
    """The times where ``log(α/σ)`` is ``lam``, any shape, float64; gradients flow.

    Raises
    ------
    TimeError
        No time in [0, T] has that log-SNR.
    ScheduleError
        It is infinite.
    """
    finite = bool(lam.isfinite().all())
    require(finite, "a grid where sigma_t > 0", "a step that ends where the log-SNR is infinite")
    t = sde.time_at_log_snr(2 * lam.detach())
    if not lam.requires_grad:
        return t
    # Most SDEs bisect, which has no gradient: dλ/dt = −g²/(2σ²) of the inverse gives it.
    slope = -sde.rates(t)[1] / (2 * sde.marginal(t)[1].square())
    return t + (lam - lam.detach()) / slope
