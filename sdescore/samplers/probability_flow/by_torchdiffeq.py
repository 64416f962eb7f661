"""The flow by torchdiffeq's methods, in place of :func:`.ode.dormand_prince`.

torchdiffeq takes one step size for all rows, measures the first step by a probe outside the range,
steps over the end and interpolates back, and goes on for ever on a NaN where asserts are off. So
here the end is a step's end (``step_t``), every angle is brought back into the range, and the error
norm is the worst row's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError

if TYPE_CHECKING:
    from sdescore.samplers.probability_flow.flow import ProbabilityFlow
    from sdescore.samplers.probability_flow.ode import FlowODE

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun3", "rk4")


def by_torchdiffeq(ode: FlowODE, flow: ProbabilityFlow, y: Tensor, angles: Tensor) -> Tensor:
    """Rows at the last of these angles; a fixed-step method steps between all."""
    from torchdiffeq import odeint

    device, got = y.device, f"{y.device}; move the model to the CPU"
    fits = checks.with_float64(device) == device
    checks.that(fits, f"a device with float64 for {flow.method}", got, ShapeError)
    angles = angles.to(device)
    ends = angles[[0, -1]]

    def worst_row(error: Tensor) -> Tensor:  # no gradient enters the steps
        return ode.row_norms(error.detach()).max().to(error)

    options: dict[str, object] = {"step_t": ends[1:], "norm": worst_row}
    if flow.method in FIXED:
        options = {"grid_constructor": lambda _f, _y, _t: angles}
    tolerances = {"rtol": flow.rtol, "atol": flow.atol}
    try:
        found = odeint(ode, y, ends, **tolerances, method=flow.method, options=options)
    except AssertionError:
        if not ode.calling:  # so it is not the model's own
            none = torch.zeros(len(y), dtype=torch.bool, device="cpu")
            ode.require(none, "its step underflowed", angles[-1:], slice(None))
        raise
    return cast(Tensor, found[-1])


def fixed_angles(
    flow: ProbabilityFlow, path: tuple[float, float], start: float, end: float
) -> Tensor:
    """The ends of a fixed-step method's steps, those of the path exactly."""
    if flow.grid is None:
        steps = flow.steps or 1
        return torch.linspace(start, end, steps + 1, dtype=torch.float64, device="cpu")
    alpha, sigma = flow.sde.marginal(flow.times if path[0] > path[1] else flow.times.flip(0))
    angles = torch.atan2(sigma, alpha)
    angles[0], angles[-1] = start, end
    return angles
