r"""The probability-flow ODE of some samples, with its divergence, and its solvers.

The flow is :math:`\mathrm{d}y/\mathrm{d}\varphi = \hat v` in the angle φ
(:mod:`sdescore.samplers.probability_flow.velocity`). Between the angles of two times a density
changes by

.. math:: \log\Bigl|\det \frac{\partial x_T}{\partial x_t}\Bigr|
   = d \log\frac{r_T}{r_t} + \int \nabla_y \cdot \hat v\, \mathrm{d}\varphi .

A solver's state is one row per sample: the flattened y and K integrals of the divergence.

With any method every derivative must be finite, and calls are counted. The methods but ``"dopri5"``
are torchdiffeq's (:mod:`sdescore.samplers.probability_flow.by_torchdiffeq`).

**A step size for each sample.** ``"dopri5"`` is Dormand and Prince's method of order 5.

.. math:: k_i = \hat v\Bigl(y + h \sum_{j<i} a_{ij} k_j,\; \varphi + c_i h\Bigr), \qquad
   y' = y + h \sum_i b_i k_i, \qquad E = h \sum_i e_i k_i

(Dormand & Prince 1980, J. Comput. Appl. Math. 6(1), table 2; E is the difference to the method of
order 4.) The last k of a step is the first of the next.

A sample's error e is the root mean square of :math:`E / (a + r \max(|y|, |y'|))` over the elements
of its state, or the largest such number of its integrals. Its step is taken if e ≤ 1; the next is
:math:`0.9\, e^{-1/5}` times as long, within bounds, and not longer right after a rejection. The
first step is Hairer's (Hairer, Nørsett & Wanner 1993, II.4), from one more evaluation close by.

Nothing here looks at two samples at once. A network, though, rounds differently in another batch,
and the error changes a little with it. So steps have four sizes to an octave: such a change is lost
unless e lies at the edge between two sizes, or at 1.

Samples that have arrived leave the batch.

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
from sdescore.errors import IncompatibleError, TimeError
from sdescore.samplers.adaptive.run import refuse_where
from sdescore.samplers.probability_flow.by_torchdiffeq import by_torchdiffeq, fixed_angles
from sdescore.samplers.probability_flow.velocity import (
    Clock,
    Divergence,
    Numbers,
    Selection,
    Trace,
    Velocity,
)
from sdescore.samplers.request import Request, Tick, require_separate
from sdescore.wrappers import owner_of

if TYPE_CHECKING:
    from sdescore.samplers.probability_flow.flow import ProbabilityFlow

C = (1 / 5, 3 / 10, 4 / 5, 8 / 9)  # the last two are 1
A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
ORDER, SAFETY, SHRINK, GROW = 5, 0.9, 0.2, 5.0
PROBE, SHORTEST = 1e-3, 1e-12  # in radians
SIZES = 4  # of a step, to an octave


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
            kind = getattr(owner_of(request.model), "prediction", "score")
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
        self.calling = False

    def solve(
        self, x: Tensor, integrals: int, path: tuple[float, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take ``x`` ``(B, *E)`` from the time ``path[0]`` to ``path[1]``.

        K = ``integrals`` estimates of ``log |det ∂x_end/∂x_start|`` are ``(B, K)``. The third
        result is how often the model was called with each sample, ``(B,)`` int64 on the CPU.
        """
        (start, r_start), (end, r_end) = (self._clock.at(time) for time in path)
        y = torch.cat([x.reshape(len(x), self._numel) / r_start, x.new_zeros(len(x), integrals)], 1)
        if self._graph and self._divergence is not None and not y.requires_grad:
            y.requires_grad_()  # here: the backward pass computes again where this is not allowed
        if x.numel() == 0:
            return x, y[:, self._numel :], torch.zeros(len(x), dtype=torch.int64, device="cpu")
        if self._flow.method == "dopri5":
            if len(x) > 1:
                self._require_separate(y[:2, : self._numel], start, end)
            y, calls = dormand_prince(self, y, start, end)
        else:
            y = by_torchdiffeq(self, self._flow, y, fixed_angles(self._flow, path, start, end))
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

    def denoised(self, x: Tensor, time: float) -> Tensor:
        """``E[x_0 | x_t]`` of states ``(B, *E)`` at a time."""
        angle, r = self._clock.at(time)
        self._divergence = None
        y = x.reshape(len(x), self._numel) / r
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
            return w * self._output(state, numbers, present).reshape(y.shape) + c * y
        with torch.enable_grad():
            state = state.clone() if self._graph else state.detach().clone()
            if not state.requires_grad:
                state.requires_grad_()
            o = self._output(state, numbers, present)
            divergence = self._divergence(o, state, numbers.shift, present)
        v = w * (o if self._graph else o.detach()).reshape(flat_state.shape) + c * flat_state
        return torch.cat([v, w * divergence + c * self._numel], 1)

    def _output(self, state: Tensor, numbers: Numbers, present: Selection) -> Tensor:
        self.calling = True
        o = self._velocity.output(state, numbers, present)
        self.calling = False
        return o

    def error(self, difference: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """The error of each row over its tolerance, ``(B,)`` float64 on the CPU."""
        with torch.no_grad():
            scale = self._flow.atol + self._flow.rtol * torch.maximum(before.abs(), after.abs())
            return self.row_norms(difference / scale).nan_to_num(nan=math.inf).cpu()

    def row_norms(self, error: Tensor) -> Tensor:
        """RMS over the elements of a row's state, or its largest integral where that is more."""
        error = error.to(checks.with_float64(error.device), torch.float64)
        state = error[:, : self._numel].square().mean(1, keepdim=True).sqrt()
        return torch.cat([state, error[:, self._numel :].abs()], 1).amax(1)

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


def dormand_prince(ode: FlowODE, y: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
    """Take rows ``(B, d + K)`` from the angle ``start`` to ``end``, each by its own steps.

    The second result is how often the model was called with each row: ``(B,)`` int64 on the CPU.
    """
    sign = 1.0 if end > start else -1.0
    rows = torch.arange(len(y), device="cpu")  # those on their way
    present: Selection = slice(None)
    angle = torch.full((len(y),), start, dtype=torch.float64, device="cpu")
    k = ode.rates(y, ode.at(angle, y), present)
    h, grows = first_step(ode, y, k, angle, sign), torch.ones_like(rows, dtype=torch.bool)
    parts, order, calls = [], [], []
    while True:
        left = (end - angle).abs()
        # The last two steps share what is left, so that none is a sliver.
        step = torch.where(h < left, torch.minimum(h, left / 2), left)
        last = step == left
        after = torch.where(last, end, angle + sign * step)
        angles = torch.cat([*(angle + sign * c * step for c in C), after])
        stages = ode.at(angles, y).split(len(y))
        signed = (sign * step).to(y).unsqueeze(1)
        slopes = [k]
        for row, numbers in zip(A, (*stages, stages[-1]), strict=True):
            new = y + signed * combined(row, slopes)
            slopes.append(ode.rates(new, numbers, present))
        error = ode.error(signed * combined(E, slopes), y, new)
        good = error <= 1
        factor = (SAFETY * error ** (-1 / ORDER)).clamp(SHRINK, GROW)
        factor = torch.where(good & ~grows, factor.clamp(max=1.0), factor)
        h, grows, angle = on_a_scale(step * factor), good, torch.where(good, after, angle)
        taken = good.to(y.device).unsqueeze(1)
        y, k = torch.where(taken, new, y), torch.where(taken, slopes[-1], k)
        moving = ~(good & last)
        if not bool(moving.all()):
            stay = moving.to(y.device)
            parts.append(y[~stay])
            order.append(rows[~moving])
            calls.append(torch.full_like(order[-1], ode.evaluations))
            y, k, rows, angle, h = y[stay], k[stay], rows[moving], angle[moving], h[moving]
            grows, present = grows[moving], rows.to(y.device)
            if not len(rows):
                break
        ode.require(h >= SHORTEST, f"its step fell below {SHORTEST:g} radians", angle, rows)
    place = torch.cat(order).argsort()
    return torch.cat(parts)[place.to(y.device)], torch.cat(calls)[place]


def first_step(ode: FlowODE, y: Tensor, k: Tensor, angle: Tensor, sign: float) -> Tensor:
    """The first step of each row: about a hundredth of the tolerance, by y′ and y″."""
    near = ode.rates(y + sign * PROBE * k, ode.at(angle + sign * PROBE, y), slice(None))
    curvature = ode.error((near - k) / PROBE, y, y)
    return on_a_scale((0.01 / torch.maximum(ode.error(k, y, y), curvature)) ** (1 / ORDER))


def combined(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """``Σ w k``, in one order, so that a row's sum does not depend on the others."""
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total = total.add(slope, alpha=weight)
    return total


def on_a_scale(h: Tensor) -> Tensor:
    """``h`` rounded to a scale of some sizes to an octave, at most one radian."""
    # Not by exp2, which rounds a number otherwise beside others.
    return (SIZES * h.clamp(max=1.0).log2()).round().mul(math.log(2) / SIZES).exp()


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
