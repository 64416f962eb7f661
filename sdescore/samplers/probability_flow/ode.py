r"""The probability-flow ODE of some samples, with its divergence, and torchdiffeq held to it.

With :math:`r_t = \sqrt{\alpha_t^2 + \sigma_t^2}`, the state :math:`y = x_t / r_t` and the angle
:math:`\varphi = \arctan(\sigma_t / \alpha_t)`

.. math:: y = \cos\varphi\, x_0 + \sin\varphi\, \epsilon, \qquad
   \frac{\mathrm{d}y}{\mathrm{d}\varphi} = \hat v(y, \varphi)
   = \cos\varphi\, \hat\epsilon - \sin\varphi\, \hat x_0, \qquad
   \hat x_0 = \cos\varphi\, y - \sin\varphi\, \hat v

(Salimans & Ho 2022, arXiv:2202.00512, appendix D). No α, σ or time is left in it: every linear SDE
has this one flow, and no noise schedule makes it stiff. A solver then needs as many steps on one
SDE as on another. Between the angles of two times a density changes by

.. math:: \log\Bigl|\det \frac{\partial x_T}{\partial x_t}\Bigr|
   = d \log\frac{r_T}{r_t} + \int \nabla_y \cdot \hat v\, \mathrm{d}\varphi .

The solver's state is one row per sample: the flattened y and K integrals of the divergence.

torchdiffeq measures the first step by a probe outside the range, steps over the end and
interpolates back, goes on for ever on a NaN where asserts are off, and takes one step size for
all rows. So the end is a step's end (``step_t``), every angle is brought back into the range,
every derivative must be finite, calls are counted, and the error norm is the worst row's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import DivergenceError, ShapeError, TimeError
from sdescore.samplers.probability_flow.trace import Divergence
from sdescore.samplers.request import Request, called, not_finite
from sdescore.score.convention import Convention
from sdescore.score.interface import require_times
from sdescore.score.model import ScoreModel
from sdescore.sde.linear import LinearSDE

if TYPE_CHECKING:
    from sdescore.samplers.probability_flow.flow import ProbabilityFlow

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun3", "rk4")


class Point(NamedTuple):
    """A time of the flow: ``cosine = α/r`` and ``sine = σ/r`` of its angle, and r."""

    cosine: float
    sine: float
    r: float

    @property
    def angle(self) -> float:
        """φ in [0, π/2]."""
        return math.atan2(self.sine, self.cosine)


class Clock:
    """The angle φ between two times of an SDE, and back; it rises with the time."""

    def __init__(self, sde: LinearSDE, interval: tuple[float, float]) -> None:
        self._sde, self._interval = sde, interval
        self._ends = self.at(interval[0]).angle, self.at(interval[1]).angle

    def at(self, time: float) -> Point:
        """The point of a time."""
        alpha, sigma = (value.item() for value in self._sde.marginal(time))
        r = math.hypot(alpha, sigma)
        return Point(alpha / r, sigma / r, r)

    def time(self, angle: float) -> float:
        """The time of an angle; one outside the interval's becomes its end."""
        (low, high), (first, last) = self._ends, self._interval
        if angle <= low:
            return first
        if angle >= high:
            return last
        log_snr = -2 * math.log(math.tan(angle))
        return min(max(self._sde.time_at_log_snr(log_snr).item(), first), last)


class Velocity:
    """A model's v̂ of some samples, their labels included, as ``w o + c y`` with its output o."""

    def __init__(self, request: Request, samples: range, interval: tuple[float, float]) -> None:
        self._model: Any = request.model
        self._labels = request.labels(samples)
        self._convention: Convention | None = None
        ends = torch.tensor(interval, dtype=torch.float64, device="cpu")
        if not isinstance(request.model, ScoreModel):
            require_times(request.model, ends)
            return
        request.model.require_times(ends)
        # The network is called in the model's place, by the convention's numbers at each time.
        self._convention = request.model.convention
        self._dtype = request.model.dtype

    def __call__(self, y: Tensor, time: float, point: Point) -> tuple[Tensor, float, float]:
        """``(o, w, c)`` at ``y`` ``(B, *E)``; o is like it.

        Raises
        ------
        TimeError
            The output says nothing of v̂ there: it is the score where σ_t = 0 or α_t = 0, or ε where
            α_t = 0.
        """
        if self._convention is None:
            t = torch.tensor(time, dtype=y.dtype, device=y.device)
            o = called(self._model, point.r * y, t, *self._labels, who="the score").to(y.dtype)
            tangent = math.tan(point.angle)
            return o, -point.r * tangent, -tangent  # v̂ = −tan φ (r s + y)
        numbers = self._convention.at(torch.tensor(time, dtype=torch.float64, device="cpu"))
        p, q = (value.item() for value in numbers.pair)
        w = 1 / determinant if (determinant := point.cosine * q - point.sine * p) else math.inf
        c = -(point.sine * q + point.cosine * p) * w
        if not math.isfinite(w + c):
            expected = (
                f"0 < sigma_t and 0 < alpha_t to get the flow from {self._convention.prediction}"
            )
            got = f"{point.r * point.sine:g} and {point.r * point.cosine:g} at t = {time:g}"
            checks.refuse(expected, f"{got}; raise t_min, or lower the SDE's T", TimeError)
        scaled = (numbers.input_scale.item() * point.r * y).to(self._dtype)
        value = numbers.time_value  # integer levels stay integers
        value = value.to(y.device, self._dtype if value.is_floating_point() else None)
        o = self._model.net(scaled, value.expand(len(y)), *self._labels)
        return checks.score_output(o, scaled, "the network").to(y.dtype), w, c


class FlowODE:
    r"""``dy/dφ = v̂`` and ``∇·v̂``, row by row.

    Without a ``divergence`` the state alone is integrated. ``first_sample`` is row 0 in the whole
    request, for messages.
    """

    def __init__(
        self,
        flow: ProbabilityFlow,
        velocity: Callable[[Tensor, float, Point], tuple[Tensor, float, float]],
        divergence: Divergence | None,
        first_sample: int,
    ) -> None:
        self._flow, self._velocity, self._divergence = flow, velocity, divergence
        self._first_sample, self._clock = first_sample, Clock(flow.sde, flow.interval)
        self.evaluations = 0
        self._t = math.nan
        self._calling = False

    def solve(self, x: Tensor, integrals: int, path: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Take ``x`` ``(B, *E)`` from the time ``path[0]`` to ``path[1]``.

        K = ``integrals`` estimates of ``log |det ∂x_end/∂x_start|`` are ``(B, K)``.
        """
        from torchdiffeq import odeint

        flow, self._shape = self._flow, x.shape
        numel = math.prod(x.shape[1:])
        start, end = (self._clock.at(time) for time in path)
        y = torch.cat([x.reshape(len(x), numel) / start.r, x.new_zeros(len(x), integrals)], 1)
        if x.numel() == 0:
            return x, y[:, numel:]
        device, got = x.device, f"{x.device}; move the model to the CPU"
        fits = checks.with_float64(device) == device
        checks.that(fits, "a device with float64 for ProbabilityFlow", got, ShapeError)
        ends = torch.tensor([start.angle, end.angle], dtype=torch.float64, device=device)
        options: dict[str, object] = {"step_t": ends[1:], "norm": worst_row(numel)}
        if flow.method in FIXED:
            angles = self._angles(path).to(device)
            options = {"grid_constructor": lambda _f, _y, _t: angles}
        tolerances = {"rtol": flow.rtol, "atol": flow.atol}
        try:
            y = odeint(self, y, ends, **tolerances, method=flow.method, options=options)[-1]
        except AssertionError as error:
            if self._calling:
                raise  # the model's own
            raise self._stuck(f"the step size underflowed ({error!s:.60})") from error
        scaling = numel * math.log(end.r / start.r)
        return end.r * y[:, :numel].reshape(x.shape), y[:, numel:] + scaling

    def _angles(self, path: tuple[float, float]) -> Tensor:
        """The ends of a fixed-step method's steps, those of the path exactly."""
        flow, (first, last) = self._flow, (self._clock.at(time).angle for time in path)
        if flow.grid is None:
            return torch.linspace(
                first, last, (flow.steps or 0) + 1, dtype=torch.float64, device="cpu"
            )
        alpha, sigma = flow.sde.marginal(flow.times if path[0] > path[1] else flow.times.flip(0))
        angles = torch.atan2(sigma, alpha)
        angles[0], angles[-1] = first, last
        return angles

    def denoised(self, x: Tensor, time: float) -> Tensor:
        """``E[x_0 | x_t]`` of states ``(B, *E)`` at a time."""
        point = self._clock.at(time)
        y = x / point.r
        o, w, c = self._evaluate(y, time, point)
        return point.cosine * y - point.sine * (w * o + c * y)

    def __call__(self, angle: Tensor, rows: Tensor) -> Tensor:
        """The derivative of rows ``(B, d + K)``, in torchdiffeq's order of arguments."""
        self._t = time = self._clock.time(angle.item())
        if self.evaluations >= self._flow.max_evaluations:
            raise self._stuck(f"it called the model {self.evaluations} times, its limit")
        self.evaluations += 1
        point, numel = self._clock.at(time), math.prod(self._shape[1:])
        y = rows[:, :numel].reshape(self._shape)
        if self._divergence is None:
            o, w, c = self._evaluate(y, time, point)
            found = (w * o + c * y).reshape(rows.shape)
        else:
            # Tensors of inference mode cannot enter autograd.
            with torch.inference_mode(False), torch.enable_grad():
                y = y.clone().detach().requires_grad_()
                o, w, c = self._evaluate(y, time, point)
                # For ∇x̂₀, a multiple of ∇o − shift I: x̂₀ = cos φ y − sin φ (w o + c y).
                shift = (point.cosine - point.sine * c) / (point.sine * w or math.inf)
                divergence = self._divergence(o, y, shift)
            v = (w * o.detach() + c * y.detach()).reshape(len(y), numel)
            found = torch.cat([v, w * divergence + c * numel], 1)
        samples, named = not_finite(found, self._first_sample)
        if samples:
            raise DivergenceError(
                f"the flow is not finite at evaluation {self.evaluations} (t = {time:g}), in "
                f"{named}. The score is not finite there: check the model at this t, or raise "
                "t_min",
                step=self.evaluations,
                t=time,
                samples=samples,
            )
        return found

    def _evaluate(self, y: Tensor, time: float, point: Point) -> tuple[Tensor, float, float]:
        self._calling = True
        found = self._velocity(y, time, point)
        self._calling = False
        return found

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
