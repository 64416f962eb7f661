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
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import DivergenceError, ShapeError, TimeError
from sdescore.noise.counter import Domain, NormalStream
from sdescore.samplers.probability_flow.likelihood import LogLikelihood, standard_error, t_quantile
from sdescore.samplers.request import Request, called, not_finite
from sdescore.score.convention import Convention
from sdescore.score.divergence import (
    PROBE_DISTRIBUTIONS,
    exact_trace,
    probe_traces,
    probes_from_normal,
)
from sdescore.score.interface import require_times
from sdescore.score.model import ScoreModel

if TYPE_CHECKING:
    from sdescore.samplers.probability_flow.flow import ProbabilityFlow

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "adaptive_heun")
FIXED = ("euler", "midpoint", "heun3", "rk4")
DIVERGENCES = ("exact", "hutchinson")

Divergence = Callable[[Tensor, Tensor], Tensor]
"""``(score, x) -> (B, K)``: K estimates of each sample's ∇·s, the score made from ``x``."""


@dataclass(frozen=True)
class Trace:
    """How :meth:`sdescore.ProbabilityFlow.log_likelihood` finds its divergences."""

    divergence: str
    probes: int
    probe_distribution: str
    seed: int

    def __post_init__(self) -> None:
        checks.choice("divergence", self.divergence, DIVERGENCES)
        checks.choice("probe_distribution", self.probe_distribution, PROBE_DISTRIBUTIONS)
        vars(self).update(probes=checks.count("probes", self.probes), seed=checks.seed(self.seed))

    @property
    def estimates(self) -> int:
        """K, the number of estimates per sample."""
        return 1 if self.divergence == "exact" else self.probes

    def of(self, samples: range, x: Tensor) -> Divergence:
        """The rule for these samples, fixed probes and all; ``x`` ``(B, *E)`` is their state."""
        # PyTorch cannot take several derivatives of a network under autocast at a time.
        chunk = 1 if torch.is_autocast_enabled(x.device.type) else None
        if self.divergence == "exact":
            return lambda s, x: exact_trace(s, x, chunk_size=chunk).unsqueeze(1)
        stream = NormalStream(self.seed, samples, x.shape[1:], device=x.device, domain=Domain.TRACE)
        probes = probes_from_normal(self.probe_distribution, stream.draw(range(self.probes)).to(x))
        return lambda s, x: probe_traces(s, x, probes, chunk_size=chunk)

    def likelihood(
        self,
        latent: Tensor,
        integrals: Tensor,
        prior_std: float,
        log_volume: float,
        evaluations: int,
    ) -> LogLikelihood:
        """What the states at T ``(B, *E)`` and the K integrals ``(B, K)`` say of the data, whose
        unit has ``log_volume`` nats among states."""
        log_det = integrals.mean(1) - log_volume
        numel = math.prod(latent.shape[1:])
        squares = latent.reshape(len(latent), numel).div(prior_std).square().sum(1)
        prior = -0.5 * squares - numel * (math.log(prior_std) + 0.5 * math.log(2 * math.pi))
        error = margin = torch.zeros_like(log_det)
        # In d = 1 the probes ±1 are exact.
        if self.divergence != "exact" and (numel > 1 or self.probe_distribution == "gaussian"):
            error = standard_error(integrals)
            margin = error * t_quantile(max(1, self.probes - 1))
        return LogLikelihood(prior + log_det, error, margin, latent, log_det, evaluations)


class BoundScore:
    """A model's score at any state and time of an interval, its samples' labels included."""

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

    def __call__(self, x: Tensor, time: float) -> Tensor:
        """The score at ``x`` ``(B, *E)``, like it."""
        if self._convention is None:
            t = torch.tensor(time, dtype=x.dtype, device=x.device)
            return called(self._model, x, t, *self._labels, who="the score").to(x.dtype)
        numbers = self._convention.at(torch.tensor(time, dtype=torch.float64, device="cpu"))
        u, w = (number.item() for number in numbers.to("score"))
        if not math.isfinite(u + w):
            raise TimeError(
                f"expected t with sigma_t > 0 to get the score from {self._convention.prediction}, "
                f"got sigma_t = {numbers.sigma.item():g} at t = {time:g}; raise t_min"
            )
        scaled = (numbers.input_scale.item() * x).to(self._dtype)
        value = numbers.time_value  # integer levels stay integers
        value = value.to(x.device, self._dtype if value.is_floating_point() else None)
        value = value.expand(len(x))
        o = self._model.net(scaled, value, *self._labels)
        o = checks.score_output(o, scaled, "the network").to(x.dtype)
        return w * o + u * x if u else w * o


class FlowODE:
    r"""``dx/dt = f x − ½ g² s`` and ``f d − ½ g² ∇·s``, row by row.

    ``score(x, time)`` takes a number as time. Without a ``divergence`` the state alone is
    integrated. ``first_sample`` is row 0 in the whole request, for messages.
    """

    def __init__(
        self,
        flow: ProbabilityFlow,
        score: Callable[[Tensor, float], Tensor],
        divergence: Divergence | None,
        first_sample: int,
    ) -> None:
        self._flow, self._score, self._divergence = flow, score, divergence
        self._first_sample = first_sample
        self.evaluations = 0
        self._t = math.nan
        self._calling = False

    def solve(self, x: Tensor, integrals: int, path: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Take ``x`` ``(B, *E)`` from ``path[0]`` to ``path[1]``; its divergences' integrals
        on the way are ``(B, K)``."""
        from torchdiffeq import odeint

        flow, self._shape = self._flow, x.shape
        numel = math.prod(x.shape[1:])
        y = torch.cat([x.reshape(len(x), numel), x.new_zeros(len(x), integrals)], 1)
        if x.numel() == 0:
            return x, y[:, numel:]
        device, got = x.device, f"{x.device}; move the model to the CPU"
        fits = checks.with_float64(device) == device
        checks.that(fits, "a device with float64 for ProbabilityFlow", got, ShapeError)
        times = torch.tensor(path, dtype=torch.float64, device=device)

        def grid(_f: object, _y: object, _t: object) -> Tensor:
            steps = flow.steps or 1
            return torch.linspace(*path, steps + 1, dtype=times.dtype, device="cpu").to(times)

        options: dict[str, object] = {"step_t": times[1:], "norm": worst_row(numel)}
        if flow.method in FIXED:
            options = {"grid_constructor": grid}
        tolerances = {"rtol": flow.rtol, "atol": flow.atol}
        try:
            y = odeint(self, y, times, **tolerances, method=flow.method, options=options)[-1]
        except AssertionError as error:
            if self._calling:
                raise  # the model's own
            raise self._stuck(f"the step size underflowed ({error!s:.60})") from error
        return y[:, :numel].reshape(x.shape), y[:, numel:]

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """``dy/dt`` of rows ``y`` ``(B, d + K)``, in torchdiffeq's order of arguments."""
        low, high = self._flow.interval
        self._t = time = min(max(t.item(), low), high)
        if self.evaluations >= self._flow.max_evaluations:
            raise self._stuck(f"it called the model {self.evaluations} times, its limit")
        self.evaluations += 1
        f, g2 = (rate.item() for rate in self._flow.sde.rates(time))
        numel = math.prod(self._shape[1:])
        x = y[:, :numel].reshape(self._shape)
        if self._divergence is None:
            rows = (f * x - 0.5 * g2 * self._evaluate(x, time)).reshape(y.shape)
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
        samples, named = not_finite(rows, self._first_sample)
        if samples:
            raise DivergenceError(
                f"the flow is not finite at evaluation {self.evaluations} (t = {time:g}), in "
                f"{named}. The score is not finite there: check the model at this t, or raise "
                "t_min",
                step=self.evaluations,
                t=time,
                samples=samples,
            )
        return rows

    def _evaluate(self, x: Tensor, time: float) -> Tensor:
        self._calling = True
        s = self._score(x, time)
        self._calling = False
        return s

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
