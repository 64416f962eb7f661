r"""The velocity of the flow from a model's output, at angles, and its divergence.

With :math:`r_t = \sqrt{\alpha_t^2 + \sigma_t^2}`, the state :math:`y = x_t / r_t` and the angle
:math:`\varphi = \arctan(\sigma_t / \alpha_t)`

.. math:: y = \cos\varphi\, x_0 + \sin\varphi\, \epsilon, \qquad
   \frac{\mathrm{d}y}{\mathrm{d}\varphi} = \hat v(y, \varphi)
   = \cos\varphi\, \hat\epsilon - \sin\varphi\, \hat x_0, \qquad
   \hat x_0 = \cos\varphi\, y - \sin\varphi\, \hat v

(Salimans & Ho 2022, arXiv:2202.00512, appendix D). No α, σ or time is left in it: every linear SDE
has this one flow, and no noise schedule makes it stiff. A solver then needs as many steps on one
SDE as on another.

A model's output o determines v̂. With its convention ``o = p x₀ + q ε``, and with
:math:`D = \cos\varphi\, q - \sin\varphi\, p`,

.. math:: \hat v = w\, o + c\, y, \qquad w = 1 / D, \qquad
   c = -(\sin\varphi\, q + \cos\varphi\, p) / D .

From the score it is :math:`\hat v = -\tan\varphi\, (r s + y)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdescore import checks
from sdescore.conditions import each_tensor
from sdescore.errors import IncompatibleError, ShapeError, TimeError
from sdescore.noise.counter import Domain, NormalStream
from sdescore.samplers.probability_flow.likelihood import LogLikelihood, standard_error, t_quantile
from sdescore.samplers.request import Request, called, evaluating
from sdescore.score.convention import Convention
from sdescore.score.divergence import (
    PROBE_DISTRIBUTIONS,
    deflated_traces,
    exact_trace,
    probe_traces,
    probes_from_normal,
)
from sdescore.score.interface import require_times
from sdescore.score.model import ScoreModel
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align
from sdescore.wrappers import undisturbed

Selection = Tensor | slice
"""Which samples of a part are still on their way: their numbers, or all."""

Divergence = Callable[[Tensor, Tensor, Tensor, Selection], Tensor]
"""``(o, y, μ, present) -> (B, K)``: K estimates of the ∇·o of these samples, o made from ``y``. The
denoiser's Jacobian is a multiple of ``∇o − μ I``; μ is ``(B, 1)`` or ``(1, 1)``."""

DIVERGENCES = ("exact", "hutchinson", "hutch++")


class Clock:
    """The angle φ between two times of an SDE, and back; it rises with the time."""

    def __init__(self, sde: LinearSDE, interval: tuple[float, float]) -> None:
        self._sde, self.interval = sde, interval
        self._ends = self.at(interval[0])[0], self.at(interval[1])[0]

    def at(self, time: float) -> tuple[float, float]:
        """``(φ, r)`` of a time, φ in [0, π/2]."""
        alpha, sigma = (value.item() for value in self._sde.marginal(time))
        return math.atan2(sigma, alpha), math.hypot(sigma, alpha)

    def time(self, angle: Tensor) -> Tensor:
        """The times of float64 angles; one outside the interval's becomes its end."""
        (low, high), (first, last) = self._ends, self.interval
        log_snr = -2 * angle.clamp(low, high).tan().log()
        time = self._sde._time_at_log_snr(log_snr).clamp(first, last)
        return torch.where(angle <= low, first, torch.where(angle >= high, last, time))


class Numbers(NamedTuple):
    """A model at n angles: it is called with ``scale · y`` and ``value``, and v̂ is ``w o + c y``.

    With that o, ∇x̂₀ is a multiple of ``∇o − shift I``.

    ``angle`` ``(n,)`` is float64 on the CPU, ``value`` ``(n,)`` what the model takes as time. The
    others are ``(n, 1)``, in the dtype and on the device of the state.
    """

    angle: Tensor
    value: Tensor
    scale: Tensor
    w: Tensor
    c: Tensor
    shift: Tensor

    def split(self, size: int) -> list[Numbers]:
        """Those of each ``size`` angles."""
        parts = (torch.split(part, size) for part in self)
        return [Numbers(*part) for part in zip(*parts, strict=True)]


class Velocity:
    """A model's v̂ of some samples, their labels included."""

    def __init__(self, request: Request, samples: range, clock: Clock, sde: LinearSDE) -> None:
        self._model: Any = request.model
        self._labels = request.labels(samples)
        self._clock, self._sde = clock, sde
        self._convention: Convention | None = None
        ends = torch.tensor(clock.interval, dtype=torch.float64, device="cpu")
        if not isinstance(request.model, ScoreModel):
            require_times(request.model, ends)
            return
        request.model.require_times(ends)
        # The network is called in the model's place, by the convention's numbers at each time.
        self._convention = request.model.convention
        self._dtype = request.model.dtype

    def at(self, angle: Tensor, like: Tensor) -> Numbers:
        """The model at float64 angles ``(n,)``.

        Raises
        ------
        TimeError
            The output says nothing of v̂ there: it is the score where σ_t = 0 or α_t = 0, or ε where
            α_t = 0.
        """
        time = self._clock.time(angle)
        alpha, sigma = self._sde.marginal(time)
        # Not by torch.hypot, which rounds a number otherwise beside others.
        scale = r = (alpha.square() + sigma.square()).sqrt()
        if self._convention is None:
            value, c = time.to(like), -sigma / alpha
            w = r * c
        else:
            numbers = self._convention.at(time, (alpha, sigma))
            (p, q), value = numbers.pair, numbers.time_value  # integer levels stay integers
            scale = numbers.input_scale * r
            w = r / (alpha * q - sigma * p)
            c = -(sigma * q + alpha * p) / r * w
            of_time = getattr(self._model.net, "time_dtype", self._dtype)
            value = value.to(like.device, of_time if value.is_floating_point() else None)
            for i in (~(w + c).isfinite()).nonzero().flatten().tolist():
                kind = self._convention.prediction
                got = f"{sigma[i]:g} and {alpha[i]:g} at t = {time[i]:g}"
                expected = f"0 < sigma_t and 0 < alpha_t to get the flow from {kind}"
                checks.refuse(expected, f"{got}; raise t_min, or lower the SDE's T", TimeError)
        from_output = sigma / r * w  # x̂₀ = cos φ y − sin φ v̂, with its sign
        shift = (alpha - sigma * c) / r / from_output.where(from_output != 0, math.inf)
        parts = (part.to(like).unsqueeze(1) for part in (scale, w, c, shift))
        return Numbers(angle, value, *parts)

    def output(self, y: Tensor, numbers: Numbers, present: Selection) -> Tensor:
        """The model's output o at ``y`` ``(B, *E)``, like it."""
        labels = self._labels
        if not isinstance(present, slice):
            labels = tuple(each_tensor(lambda part: part[present], label) for label in labels)
        value = numbers.value.expand(len(y))
        x = (numbers.scale * y.reshape(len(y), -1)).reshape(y.shape)
        # Backward passes run through the network again, when the call that began them is over.
        with evaluating(self._model):
            if self._convention is None:
                return called(self._model, x, value, *labels, who="the score").to(y.dtype)
            x = x.to(self._dtype)
            net = self._model.net
            if labels:
                o = undisturbed(partial(net, x), value, *labels, who="the network")
            else:
                o = net(x, value)
            return checks.score_output(o, x, "the network").to(y.dtype)


@dataclass(frozen=True)
class Trace:
    """How :meth:`sdescore.ProbabilityFlow.log_likelihood` finds its divergences."""

    divergence: str
    probes: int | Tensor
    probe_distribution: str
    seed: int
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        checks.choice("divergence", self.divergence, DIVERGENCES)
        checks.choice("probe_distribution", self.probe_distribution, PROBE_DISTRIBUTIONS)
        vars(self).update(seed=checks.seed(self.seed))
        if self.chunk_size is not None:
            vars(self).update(chunk_size=checks.count("chunk_size", self.chunk_size))
        if not isinstance(self.probes, Tensor):
            vars(self).update(probes=checks.count("probes", self.probes))
        elif self.divergence == "exact":
            expected = 'divergence="hutchinson" or "hutch++" for probes of your own'
            checks.refuse(expected, 'divergence="exact"', IncompatibleError)

    @property
    def count(self) -> int:
        """The number of probes."""
        return len(self.probes) if isinstance(self.probes, Tensor) else self.probes

    @property
    def estimates(self) -> int:
        """K, the number of estimates per sample."""
        if self.divergence == "exact":
            return 1
        K = self.count
        return K if self.divergence == "hutchinson" else K - 2 * (K // 3)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse probes of one's own that are not finite numbers ``(K, *shape)``."""
        if isinstance(self.probes, Tensor):
            got = tuple(self.probes.shape)
            fits = len(got) > 0 and got[0] > 0 and got[1:] == shape
            checks.that(fits, f"probes of shape (K, {str(shape)[1:]}", got, ShapeError)
            checks.finite_tensor("probes", self.probes)
        if self.divergence == "hutch++":
            d, K = math.prod(shape[1:]), self.count
            expected = (
                f'3 <= probes < {d} for "hutch++" (the exact divergence takes {d} derivatives)'
            )
            checks.that(3 <= K < d, expected, f"probes={K}")

    def of(self, samples: range, x: Tensor) -> Divergence:
        """The rule for these samples, fixed probes and all; ``x`` ``(B, *E)`` is their state."""
        # PyTorch cannot take several derivatives of a network under autocast at a time.
        chunk = 1 if torch.is_autocast_enabled(x.device.type) else self.chunk_size
        graph = torch.is_grad_enabled()
        if self.divergence == "exact":
            return lambda o, y, _, __: exact_trace(
                o, y, chunk_size=chunk, create_graph=graph
            ).unsqueeze(1)
        if isinstance(self.probes, Tensor):
            probes = self.probes[:, samples.start : samples.stop].to(x)
        else:
            shape = x.shape[1:]
            stream = NormalStream(self.seed, samples, shape, device=x.device, domain=Domain.TRACE)
            probes = stream.draw(range(self.probes)).to(x)
            if self.divergence == "hutchinson":
                probes = probes_from_normal(self.probe_distribution, probes)
        if self.divergence == "hutch++":
            k = len(probes) // 3
            sketch, rest = probes[:k], probes[2 * k :]
            return lambda o, y, shift, present: deflated_traces(
                o,
                y,
                sketch[:, present],
                rest[:, present],
                align(shift.squeeze(1), y),
                chunk_size=chunk,
                create_graph=graph,
            )
        return lambda o, y, _, present: probe_traces(
            o, y, probes[:, present], chunk_size=chunk, create_graph=graph
        )

    def likelihood(
        self,
        latent: Tensor,
        integrals: Tensor,
        prior_std: float,
        log_volume: float,
        evaluations: Tensor,
    ) -> LogLikelihood:
        """What the states at T ``(B, *E)`` and the K integrals ``(B, K)`` say of the data, whose
        unit has ``log_volume`` nats among states."""
        log_det = integrals.mean(1) - log_volume
        numel = math.prod(latent.shape[1:])
        squares = latent.reshape(len(latent), numel).div(prior_std).square().sum(1)
        prior = -0.5 * squares - numel * (math.log(prior_std) + 0.5 * math.log(2 * math.pi))
        error = margin = torch.zeros_like(log_det)
        # In d = 1 the probes ±1 are exact.
        own = isinstance(self.probes, Tensor) or self.probe_distribution == "gaussian"
        if self.divergence != "exact" and (numel > 1 or own):
            error = standard_error(integrals)
            # One estimate knows no error: both are NaN.
            margin = error * t_quantile(self.estimates - 1) if self.estimates > 1 else error
        return LogLikelihood(prior + log_det, error, margin, latent, log_det, evaluations)
