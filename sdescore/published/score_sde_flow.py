r"""The probability flow in the time t, as score_sde solves it (Song et al. 2021, arXiv:2011.13456).

.. math:: \frac{\mathrm{d}x}{\mathrm{d}t} = f x - \tfrac12 g^2 s(x, t), \qquad
   \frac{\mathrm{d} \log p}{\mathrm{d}t} = -\Bigl(f d - \tfrac12 g^2\, \nabla \cdot s\Bigr)

(eqs. 13 and 39), by scipy's RK45 on all numbers of the batch together. It takes one step size for
the whole batch, from the RMS of all errors. :mod:`sdescore.samplers.probability_flow.velocity` has
the velocity v̂ in the angle φ, with :math:`r = \sqrt{\alpha^2 + \sigma^2}` and y = x/r. There

.. math:: s = - \frac{\hat v \cot\varphi + y}{r}, \qquad
   \nabla \cdot s = - \frac{\cot\varphi\, \nabla_y \cdot \hat v + d}{r^2} .
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.published.score_sde_steps import ScoreSDEStep
from sdescore.samplers.probability_flow.flow import ProbabilityFlow
from sdescore.samplers.probability_flow.ode import FlowODE
from sdescore.shapes import flat

__all__ = ["ScoreSDEFlow"]


class TimeODE(FlowODE):
    """The flow in t, by scipy's RK45; its rows are those of :class:`FlowODE` with x for y."""

    _flow: ScoreSDEFlow
    differentiable = False

    def solve(
        self, x: Tensor, integrals: int, path: tuple[float, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take ``x`` ``(B, *E)`` from ``path[0]`` to ``path[1]``; as in the base class."""
        from scipy.integrate import solve_ivp

        flow, numel = self._flow, self._numel
        rows = torch.cat([flat(x), x.new_zeros(len(x), integrals)], 1)
        calls = torch.zeros(len(x), dtype=torch.int64, device="cpu")
        if x.numel() == 0:
            return x, rows[:, numel:], calls

        def rates(time: float, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            state = torch.from_numpy(numbers).reshape(rows.shape).to(rows)
            return self._by_time(time, state).to("cpu", torch.float64).flatten().numpy()

        start = rows.to("cpu", torch.float64).flatten().numpy()
        found = solve_ivp(rates, path, start, method="RK45", rtol=flow.rtol, atol=flow.atol)
        if not found.success:
            none = torch.zeros(len(x), dtype=torch.bool, device="cpu")
            angle = torch.tensor(
                [self._clock.at(found.t[-1])[0]], dtype=torch.float64, device="cpu"
            )
            self.require(none, found.message, angle, slice(None))
        end = torch.from_numpy(found.y[:, -1].copy()).reshape(rows.shape).to(rows)
        return end[:, :numel].reshape(x.shape), end[:, numel:], calls + self.evaluations

    def denoised(self, x: Tensor, time: float) -> Tensor:
        """The mean of a reverse-diffusion step from states ``(B, *E)``."""
        flow, (angle, r) = self._flow, self._clock.at(time)
        self._divergence = None
        y = flat(x) / r
        there = torch.tensor(angle, dtype=torch.float64, device="cpu")
        score = -(self(there, y) / math.tan(angle) + y) / r
        t = torch.tensor([time], dtype=torch.float64, device="cpu")
        step = ScoreSDEStep("reverse_diffusion", flow.num_scales).ending(flow.sde, t)
        return step.step(0, x, [], lambda _x, _t: score.reshape(x.shape), [])

    def _by_time(self, time: float, rows: Tensor) -> Tensor:
        """The derivative by t of rows ``(B, d + K)``."""
        numel, (angle, r) = self._numel, self._clock.at(time)
        f, g2 = (rate.item() for rate in self._flow.sde.rates(time))
        x = rows[:, :numel]
        y = x / r
        there = torch.tensor(angle, dtype=torch.float64, device="cpu")
        by_angle = self(there, torch.cat([y, rows[:, numel:]], 1))
        v, divergence = by_angle[:, :numel], by_angle[:, numel:]
        cotangent, weight = 1 / math.tan(angle), 0.5 * g2 / r
        velocity = f * x + weight * (cotangent * v + y)
        growth = f * numel + weight / r * (cotangent * divergence + numel)
        return torch.cat([velocity, growth], 1)


@dataclass(frozen=True)
class ScoreSDEFlow(ProbabilityFlow):
    """score_sde's solver of the probability flow, with the fields of :class:`ProbabilityFlow`.

    :func:`sdescore.published.score_sde_ode` makes one with the code's settings. A result depends on
    its batch within the tolerance.

    Parameters
    ----------
    num_scales : int
        N >= 2. The last denoise is the code's reverse-diffusion step for N scales.

    Raises
    ------
    IncompatibleError
        The SDE is not linear, or has a table of levels; another method than ``"rk45"``.
    ParameterError
        A number is out of range, or ``steps`` or ``grid`` is passed.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> flow = ss.published.ScoreSDEFlow(ss.VPSDE(), rtol=1e-4, atol=1e-4)
    >>> x = flow.sample(ss.GaussianScore([2.0], 0.25, flow.sde), (2000, 1))
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
    """

    method: str = "rk45"
    num_scales: int = 1000
    methods: ClassVar[tuple[str, ...]] = ("rk45",)
    solver: ClassVar[type[FlowODE]] = TimeODE

    def __post_init__(self) -> None:
        super().__post_init__()
        got = (
            f"{type(self.sde).__name__}, a table; use score_sde_pc, or a model on a continuous SDE"
        )
        continuous = not hasattr(self.sde, "level")
        checks.that(continuous, "a continuous SDE for score_sde_ode", got, IncompatibleError)
        ScoreSDEStep("reverse_diffusion", self.num_scales).check(self.sde)
