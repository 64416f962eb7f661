r"""The probability-flow ODE of some samples, with its divergence, and torchdiffeq held to it.

The solver's state is one row per sample: the flattened ``x`` and K integrals of its divergence.

torchdiffeq measures the first step by a probe outside the time range, steps over the last time
and interpolates back, goes on for ever on a NaN where asserts are off, and takes one step size
for all rows. So the last time is a step's end (``step_t``), every time is brought back into the
range, every derivative must be finite, calls are counted, and the error norm is the worst row's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import DivergenceError
from sdescore.samplers.model import called
from sdescore.samplers.probability_flow.likelihood import Divergence
from sdescore.sde.base import as_time
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Score

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun3", "rk4")


@dataclass(frozen=True)
class Solver:
    """What torchdiffeq is asked for; see :class:`sdescore.ProbabilityFlow`.

    Raises
    ------
    IncompatibleError
        An unknown method.
    ParameterError
        A number out of its range, ``steps`` missing or beside an adaptive method.
    """

    method: str
    rtol: float
    atol: float
    steps: int | None
    max_evaluations: int

    def __post_init__(self) -> None:
        checks.choice("method", self.method, ADAPTIVE + FIXED)
        if self.method in FIXED:
            vars(self).update(steps=checks.count("steps", self.steps))
        else:
            checks.that(
                self.steps is None,
                f"no steps for {self.method}, which sets its own by rtol and atol",
                f"steps={self.steps!r}",
            )
        vars(self).update(
            rtol=checks.number("rtol", self.rtol, above=0),
            atol=checks.number("atol", self.atol, above=0),
            max_evaluations=checks.count("max_evaluations", self.max_evaluations),
        )


class FlowODE:
    r"""``dx/dt = f x − ½ g² s`` and ``f d − ½ g² ∇·s``, row by row.

    Parameters
    ----------
    score : callable
        ``score(x, t)``, like ``x``.
    sde : LinearSDE
        Gives f and g².
    interval : (float, float)
        ``(t_min, T)``, the range of times.
    divergence : callable or None
        None integrates the state alone.
    first_sample : int
        Index of row 0 in the whole request, for messages.

    Attributes
    ----------
    evaluations : int
        How often the score was called.
    """

    def __init__(
        self,
        score: Score,
        sde: LinearSDE,
        interval: tuple[float, float],
        *,
        divergence: Divergence | None,
        first_sample: int,
    ) -> None:
        self._score, self._sde = score, sde
        self._interval = interval
        self._divergence = divergence
        self._first_sample = first_sample
        self.evaluations = 0
        self._t = math.nan
        self._calling = False

    def solve(
        self, x: Tensor, integrals: int, path: tuple[float, float], solver: Solver
    ) -> tuple[Tensor, Tensor]:
        """Take ``x`` ``(B, *E)`` from ``path[0]`` to ``path[1]``; its divergences' integrals
        on the way are ``(B, K)``.

        Raises
        ------
        DivergenceError
            The flow is not finite, or the solver cannot reach the end.
        """
        from torchdiffeq import odeint

        self._shape, self._limit = x.shape, solver.max_evaluations
        numel = math.prod(x.shape[1:])
        y = torch.cat([x.reshape(len(x), numel), x.new_zeros(len(x), integrals)], 1)
        if x.numel() == 0:
            return x, y[:, numel:]
        times = torch.tensor(path, dtype=torch.float64, device=x.device)

        def grid(_f: object, _y: object, _t: object) -> Tensor:
            return torch.linspace(
                *path, (solver.steps or 1) + 1, dtype=times.dtype, device="cpu"
            ).to(times)

        options = (
            {"grid_constructor": grid}
            if solver.method in FIXED
            else {"step_t": times[1:], "norm": worst_row(numel)}
        )
        try:
            y = odeint(
                self,
                y,
                times,
                rtol=solver.rtol,
                atol=solver.atol,
                method=solver.method,
                options=options,
            )[-1]
        except AssertionError as error:
            if self._calling:
                raise  # the model's own
            raise self._stuck(f"the step size underflowed ({error!s:.60})") from error
        return y[:, :numel].reshape(x.shape), y[:, numel:]

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """``dy/dt`` of rows ``y`` ``(B, d + K)``, in torchdiffeq's order of arguments.

        Raises
        ------
        DivergenceError
            It is not finite, or the model was called too often.
        """
        low, high = self._interval
        self._t = time = min(max(t.item(), low), high)
        if self.evaluations >= self._limit:
            raise self._stuck(f"it called the model {self._limit} times, its limit")
        self.evaluations += 1
        f, g2 = (rate.item() for rate in self._sde.rates(time))
        numel = math.prod(self._shape[1:])
        x = y[:, :numel].reshape(self._shape)
        if self._divergence is None:
            rows = f * x - 0.5 * g2 * self._evaluate(x, time)
            rows = rows.reshape(y.shape)
        else:
            # Tensors of inference mode cannot enter autograd.
            with torch.inference_mode(False), torch.enable_grad():
                x = x.clone().detach().requires_grad_()
                s = self._evaluate(x, time)
                divergence = self._divergence(s, x)
            velocity = f * x.detach() - 0.5 * g2 * s.detach()
            rows = torch.cat(
                [velocity.reshape(len(x), numel), f * numel - 0.5 * g2 * divergence], 1
            )
        self._check_finite(rows)
        return rows

    def _evaluate(self, x: Tensor, time: float) -> Tensor:
        self._calling = True
        s = called(self._score, x, as_time(time, x), who="the score")
        self._calling = False
        return s.to(x.dtype)

    def _check_finite(self, rows: Tensor) -> None:
        finite = rows.isfinite().all(1)
        if bool(finite.all()):
            return
        samples = [i + self._first_sample for i in (~finite).nonzero().flatten().tolist()]
        shown = ", ".join(map(str, samples[:8])) + (", …" if len(samples) > 8 else "")
        raise DivergenceError(
            f"the flow is not finite at evaluation {self.evaluations} (t = {self._t:g}), in "
            f"{len(samples)} of {len(rows)} samples: {shown}. The score is not finite there: "
            "check the model at this t, or raise t_min",
            step=self.evaluations,
            t=self._t,
            samples=samples,
        )

    def _stuck(self, why: str) -> DivergenceError:
        return DivergenceError(
            f"the solver gave up at t = {self._t:g}: {why}. The flow is too stiff or too rough "
            "for these tolerances: loosen rtol and atol, raise t_min or max_evaluations, or use "
            "float64",
            step=self.evaluations,
            t=self._t,
            samples=[],
        )


def worst_row(numel: int) -> Callable[[Tensor], Tensor]:
    """The largest error of any row: RMS over its ``numel`` elements, each integral on its own."""

    def norm(error: Tensor) -> Tensor:
        state = error[:, :numel].square().mean(1).sqrt()
        return torch.cat([state.unsqueeze(1), error[:, numel:].abs()], 1).max()

    return norm
