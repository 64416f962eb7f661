r"""The velocity of the flow from a model's output, at angles.

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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdescore import checks
from sdescore.conditions import each_tensor
from sdescore.errors import TimeError
from sdescore.samplers.request import Request, called, evaluating
from sdescore.score.convention import Convention
from sdescore.score.interface import require_times
from sdescore.score.model import ScoreModel
from sdescore.sde.linear import LinearSDE

Selection = Tensor | slice
"""Which samples of a part are still on their way: their numbers, or all."""


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
        time = self._sde.time_at_log_snr(log_snr).clamp(first, last)
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
            value = value.to(like.device, self._dtype if value.is_floating_point() else None)
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
            o = self._model.net(x, value, *labels)
            return checks.score_output(o, x, "the network").to(y.dtype)
