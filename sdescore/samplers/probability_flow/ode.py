r"""The probability-flow ODE of some samples, with its divergence, and its solvers.

The flow is :math:`\mathrm{d}y/\mathrm{d}\varphi = \hat v` in the angle φ
(:mod:`sdescore.samplers.probability_flow.velocity`). Between the angles of two times a density
changes by

.. math:: \log\Bigl|\det \frac{\partial x_T}{\partial x_t}\Bigr|
   = d \log\frac{r_T}{r_t} + \int \nabla_y \cdot \hat v\, \mathrm{d}\varphi .

A solver's state is one row per sample: the flattened y and K integrals of the divergence.

``"dopri5"`` is :mod:`sdescore.samplers.probability_flow.dormand_prince`. The other methods are
torchdiffeq's, which takes one step size for all rows, measures the first step by a probe outside
the range, steps over the end and interpolates back, and goes on for ever on a NaN where asserts are
off. So there the end is a step's end (``step_t``), every angle is brought back into the range, and
the error norm is the worst row's. With any method every derivative must be finite, and calls are
counted.

The graph of a differentiable result holds the rows of each evaluation alone. A backward pass
evaluates the model again (Chen et al. 2016, arXiv:1604.06174, section 4). The gradient is that of
the numbers as they were computed, with the lengths of the steps as constants.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError, TimeError
from sdescore.samplers.adaptive.run import refuse_where
from sdescore.samplers.probability_flow.dormand_prince import dormand_prince
from sdescore.samplers.probability_flow.trace import Divergence, Trace
from sdescore.samplers.probability_flow.velocity import Clock, Numbers, Selection, Velocity
from sdescore.samplers.request import Request, Tick, require_separate
from sdescore.score.interface import unwrapped
from sdescore.shapes import flat

if TYPE_CHECKING:
    from sdescore.samplers.probability_flow.flow import ProbabilityFlow

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun3", "rk4")


class FlowODE:
    r"""``dy/dφ = v̂`` and ``∇·v̂`` of some samples of a request, row by row.

    Without a ``divergence`` the state alone is integrated.
    """

    differentiable: ClassVar[bool] = True

    def __init__(
        self,
        flow: ProbabilityFlow,
        request: Request,
        samples: range,
        divergence: Divergence | None,
    ) -> None:
        end = flow.interval[1]
        if flow.sde.marginal(end)[0].item() == 0:  # where rounding would hide that 1/α is infinite
            kind = getattr(unwrapped(request.model), "prediction", "score")
            expected = "a network that says x0, such as prediction='v', for alpha_t = 0 at"
            got = f"one that predicts {kind}; end the flow's grid below it"
            fits = kind not in ("score", "epsilon")
            checks.that(fits, f"{expected} t = {end:g}", got, TimeError)
        self._flow, self._divergence, self._graph = flow, divergence, request.differentiable
        self._first_sample, self._event = samples.start, request.shape[1:]
        self._numel = math.prod(self._event)
        self._clock = Clock(flow.sde, flow.interval)
        self._velocity = Velocity(request, samples, self._clock, flow.sde)
        self.at = self._velocity.at
        self.evaluations = 0
        self._calling = False

    def solve(
        self, x: Tensor, integrals: int, path: tuple[float, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take ``x`` ``(B, *E)`` from the time ``path[0]`` to ``path[1]``.

        K = ``integrals`` estimates of ``log |det ∂x_end/∂x_start|`` are ``(B, K)``. The third
        result is how often the model was called with each sample, ``(B,)`` int64 on the CPU.
        """
        (start, r_start), (end, r_end) = (self._clock.at(time) for time in path)
        y = torch.cat([flat(x) / r_start, x.new_zeros(len(x), integrals)], 1)
        if x.numel() == 0:
            return x, y[:, self._numel :], torch.zeros(len(x), dtype=torch.int64, device="cpu")
        if self._flow.method == "dopri5":
            if len(x) > 1:
                self._require_separate(y[:2, : self._numel], start, end)
            y, calls = dormand_prince(self, y, start, end)
        else:
            y = self._by_torchdiffeq(y, self._angles(path, start, end))
            calls = torch.full((len(x),), self.evaluations, dtype=torch.int64, device="cpu")
        scaling = self._numel * math.log(r_end / r_start)
        x = (r_end * y[:, : self._numel]).reshape(x.shape)
        return x, y[:, self._numel :] + scaling, calls

    def _require_separate(self, y: Tensor, start: float, end: float) -> None:
        """Refuse a model that sees more of a batch than each sample and its time."""
        two, rows = y.reshape(2, *self._event), torch.arange(2, device=y.device)
        middle = 0.5 * (start + end)
        angles = torch.tensor([start, middle], dtype=torch.float64, device="cpu")
        with torch.no_grad():
            both = self._output(two, self.at(angles, y), rows)
            alone = self._output(two[1:], self.at(angles[1:], y), rows[1:])
        require_separate(both, alone)

    def _by_torchdiffeq(self, y: Tensor, angles: Tensor) -> Tensor:
        """Rows at the last of these angles; a fixed-step method steps between all."""
        from torchdiffeq import odeint

        flow, device, got = self._flow, y.device, f"{y.device}; move the model to the CPU"
        fits = checks.with_float64(device) == device
        checks.that(fits, f"a device with float64 for {flow.method}", got, ShapeError)
        angles = angles.to(device)
        ends = angles[[0, -1]]
        options: dict[str, object] = {"step_t": ends[1:], "norm": self._worst_row}
        if flow.method in FIXED:
            options = {"grid_constructor": lambda _f, _y, _t: angles}
        tolerances = {"rtol": flow.rtol, "atol": flow.atol}
        try:
            found = odeint(self, y, ends, **tolerances, method=flow.method, options=options)
        except AssertionError:
            if not self._calling:  # so it is not the model's own
                none = torch.zeros(len(y), dtype=torch.bool, device="cpu")
                self.require(none, "its step underflowed", angles[-1:], slice(None))
            raise
        return cast(Tensor, found[-1])

    def _angles(self, path: tuple[float, float], start: float, end: float) -> Tensor:
        """The ends of a fixed-step method's steps, those of the path exactly."""
        flow = self._flow
        if flow.grid is None:
            steps = flow.steps or 1
            return torch.linspace(start, end, steps + 1, dtype=torch.float64, device="cpu")
        alpha, sigma = flow.sde.marginal(flow.times if path[0] > path[1] else flow.times.flip(0))
        angles = torch.atan2(sigma, alpha)
        angles[0], angles[-1] = start, end
        return angles

    def denoised(self, x: Tensor, time: float) -> Tensor:
        """``E[x_0 | x_t]`` of states ``(B, *E)`` at a time."""
        angle, r = self._clock.at(time)
        self._divergence = None
        y = flat(x) / r
        there = torch.tensor([angle], dtype=torch.float64, device="cpu")
        v = self.rates(y, self.at(there, y), slice(None))
        return (math.cos(angle) * y - math.sin(angle) * v).reshape(x.shape)

    def __call__(self, angle: Tensor, y: Tensor) -> Tensor:
        """The derivative of rows ``(B, d + K)``, in torchdiffeq's order of arguments."""
        return self.rates(
            y, self.at(angle.detach().to("cpu", torch.float64).reshape(1), y), slice(None)
        )

    def rates(self, y: Tensor, numbers: Numbers, present: Selection) -> Tensor:
        """The derivative of rows ``(B, d + K)`` of these samples, each at its own angle."""
        if self.evaluations >= self._flow.max_evaluations:
            none = torch.zeros(len(y), dtype=torch.bool, device="cpu")
            why = f"the model was called {self.evaluations} times, its limit"
            self.require(none, why, numbers.angle, present)
        self.evaluations += 1
        if self._graph:
            found = checkpoint(
                self._derivative, y, numbers, present, use_reentrant=False, preserve_rng_state=False
            )
        else:
            found = self._derivative(y, numbers, present)
        broken = ~found.isfinite().all(1)
        what = f"the flow is not finite at evaluation {self.evaluations}, in"
        advice = "The score is not finite there: check the model at this t, or raise t_min"
        self._refuse(broken, numbers.angle, present, what, advice)
        return cast(Tensor, found)

    def _derivative(self, y: Tensor, numbers: Numbers, present: Selection) -> Tensor:
        flat_state, w, c = y[:, : self._numel], numbers.w, numbers.c
        state = flat_state.reshape(len(y), *self._event)
        if self._divergence is None:
            return w * flat(self._output(state, numbers, present)) + c * flat_state
        with torch.enable_grad():
            state = state.clone() if self._graph else state.detach().clone()
            if not state.requires_grad:
                state.requires_grad_()
            o = self._output(state, numbers, present)
            divergence = self._divergence(o, state, numbers.shift, present)
        v = w * flat(o if self._graph else o.detach()) + c * flat_state
        return torch.cat([v, w * divergence + c * self._numel], 1)

    def _output(self, state: Tensor, numbers: Numbers, present: Selection) -> Tensor:
        self._calling = True
        o = self._velocity.output(state, numbers, present)
        self._calling = False
        return o

    def error(self, difference: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """The error of each row over its tolerance, ``(B,)`` float64 on the CPU."""
        with torch.no_grad():
            scale = self._flow.atol + self._flow.rtol * torch.maximum(before.abs(), after.abs())
            return self._row_norms(difference / scale).nan_to_num(nan=math.inf).cpu()

    def _row_norms(self, error: Tensor) -> Tensor:
        """RMS over the elements of a row's state, or its largest integral where that is more."""
        error = error.to(checks.with_float64(error.device), torch.float64)
        state = error[:, : self._numel].square().mean(1, keepdim=True).sqrt()
        return torch.cat([state, error[:, self._numel :].abs()], 1).amax(1)

    def _worst_row(self, error: Tensor) -> Tensor:
        """torchdiffeq's norm: every row meets the tolerance; no gradient enters the steps."""
        return self._row_norms(error.detach()).max().to(error)

    def require(self, fine: Tensor, why: str, angle: Tensor, present: Selection) -> None:
        """Give up where a row is not ``fine``; ``angle`` is where each is."""
        advice = (
            "The flow is too stiff or too rough for these tolerances: loosen rtol and atol, raise "
            "t_min or max_evaluations, or use float64"
        )
        self._refuse(~fine, angle, present, f"the solver gave up: {why}, in", advice)

    def _refuse(
        self, bad: Tensor, angle: Tensor, present: Selection, what: str, advice: str
    ) -> None:
        if bool(bad.any()):
            t, rows = self._clock.time(angle).expand(len(bad)), torch.arange(len(bad), device="cpu")
            samples = self._first_sample + (rows if isinstance(present, slice) else present.cpu())
            refuse_where(bad.cpu(), t, samples, self.evaluations, what, advice)


def follow(
    flow: ProbabilityFlow,
    request: Request,
    path: tuple[float, float],
    max_batch: int | None,
    progress: bool,
    differentiable: bool,
    trace: Trace | None = None,
    denoise: bool = False,
) -> tuple[Tensor, ...]:
    """Data or states at T, at the path's end; integrals ``(B, K)``; model calls ``(B,)``."""
    std = flow.start_std
    checks.that(
        flow.solver.differentiable or not differentiable,
        "a solver of ProbabilityFlow for differentiable=True",
        f"{type(flow).__name__}, whose numbers pass through NumPy",
        IncompatibleError,
    )
    request.keep_graph(differentiable)

    def part(samples: range, tick: Tick | None) -> tuple[Tensor, ...]:
        # Tensors of inference mode cannot enter autograd, which a divergence needs.
        with torch.inference_mode(False), torch.set_grad_enabled(differentiable):
            x = request.start(samples, std)
            if path[0] < path[1] and not request.scale.plain:
                x = request.scale.to_state(x)
            rule = None if trace is None else trace.of(samples, x)
            ode = flow.solver(flow, request, samples, rule)
            x, integrals, calls = ode.solve(x, 0 if trace is None else trace.estimates, path)
            if denoise and x.numel():
                x = ode.denoised(x, path[1])
        if tick is not None:
            tick(len(samples))
        return x, integrals, calls

    return request.fill(part, max_batch, progress, data=path[0] > path[1])
