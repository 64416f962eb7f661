r"""A score model bound to a program: every number it needs, computed once for all steps.

The raw output of a network is ``o``, and the output a tableau asks for is ``u y + w o``
(:func:`sdescore.score.convention.conversion`). Where a step weighs only the newest output,
u and w fold into the step's own numbers, and the conversion costs no pass over memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from sdescore.correctors.base import ScoreAt
from sdescore.errors import IncompatibleError, TimeError
from sdescore.samplers.model import called
from sdescore.samplers.predictor_corrector.chain import Program
from sdescore.samplers.request import Request
from sdescore.score.convention import Coefficients, pair
from sdescore.score.interface import log_density_of, require_times
from sdescore.score.model import ScoreModel
from sdescore.sde.base import SDE


class BoundModel:
    """Evaluation ``k`` of a program at any state.

    Attributes
    ----------
    u, w : list of float
        The output that evaluation ``k`` is asked for is ``u[k] x + w[k] call(x, k)``.
    """

    def __init__(self, request: Request, samples: range, sde: SDE, program: Program) -> None:
        model, dtype, device = request.model, request.dtype, request.device
        self._labels = request.labels(samples)
        self.sde, self.program = sde, program
        self._dtype = dtype
        self._times = times = torch.tensor(program.times, dtype=torch.float64, device="cpu")
        self._model: Any = model
        self._numbers: Coefficients | None = None
        if isinstance(model, ScoreModel) and model.convention is not None:
            # The network is called in the model's place. What the convention makes of its output
            # goes into the numbers u and w, and costs no pass over memory.
            self._numbers = numbers = model.convention.at(times)
            self._net, self._net_dtype = model.net, model.dtype
            self._scales = numbers.input_scale.tolist()
            value = model.network_time(numbers.time_value).to(device)
            self._inputs = value[:, None].expand(len(times), len(samples)).unbind(0)
            self.call = self._call_network
        else:
            require_times(model, times)
            self._inputs = times.to(device, dtype).unbind(0)
            self.call = self._call_score
        self._log_density = log_density_of(model) if program.needs_log_density else None
        self.u, self.w = self.numbers(program.outputs)
        for t, u, w in zip(program.times, self.u, self.w, strict=True):
            if not math.isfinite(u + w):
                raise TimeError(
                    f"expected evaluation times with sigma_t > 0 for this model, got t = {t:g}; "
                    "end the grid earlier"
                )

    def numbers(self, outputs: list[str]) -> tuple[list[float], list[float]]:
        """``(u, w)`` that turn evaluation ``k``'s raw output into ``outputs[k]``."""
        if self._numbers is None and set(outputs) <= {"score"}:
            return [0.0] * len(outputs), [1.0] * len(outputs)
        numbers = self._numbers
        if numbers is None:
            t = self._times
            alpha_t, sigma_t = self.sde.marginal(t)  # type: ignore[attr-defined]
            one = torch.ones_like(t)
            numbers = Coefficients(alpha_t, sigma_t, pair("score", alpha_t, sigma_t), t, one)
        u, w = torch.zeros_like(self._times), torch.ones_like(self._times)
        for kind in set(outputs):
            asked = torch.tensor([o == kind for o in outputs], device="cpu")
            all_u, all_w = numbers.to(kind)
            u, w = torch.where(asked, all_u, u), torch.where(asked, all_w, w)
        return u.tolist(), w.tolist()

    call: Callable[[Tensor, int], Tensor]
    """``call(x, k)``: the model's raw output at ``x``, a tensor that is not ``x`` itself."""

    def _call_network(self, x: Tensor, k: int) -> Tensor:
        scale = self._scales[k]
        y = x if scale == 1.0 else scale * x
        if self._net_dtype != self._dtype:
            y = y.to(self._net_dtype)
        o = called(self._net, y, self._inputs[k], *self._labels, who="the network")
        return self._own(o, x)

    def _call_score(self, x: Tensor, k: int) -> Tensor:
        o = called(self._model, x, self._inputs[k], *self._labels, who="the score")
        return self._own(o, x)

    def _own(self, o: Tensor, x: Tensor) -> Tensor:
        """The output in the state's dtype, and no view of ``x``, which is updated in place."""
        if is_compiling():  # a graph has no addresses to compare
            return o.to(self._dtype, copy=True)
        if o.dtype != self._dtype:
            return o.to(self._dtype)
        shared = o.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        return o.clone() if shared else o

    def output(self, x: Tensor, k: int) -> Tensor:
        """The output evaluation ``k`` is asked for, a fresh tensor."""
        o = self.call(x, k)
        converted = o * self.w[k]
        return converted.add_(x, alpha=self.u[k]) if self.u[k] else converted

    def factor(self, k: int) -> float:
        """What the output evaluation ``k`` is asked for is of what is :meth:`kept`: w, or 1."""
        return self.w[k] or 1.0

    def kept(self, x: Tensor, k: int, room: Tensor | None) -> Tensor:
        """The output evaluation ``k`` is asked for over its factor, a tensor of the sampler's own.

        One pass over memory, ``o + (u/w) x``, into ``room`` where there is some.
        """
        if not self.w[k]:
            return self.output(x, k)
        o = self.call(x, k)
        if self.u[k]:
            return torch.add(o, x, alpha=self.u[k] / self.w[k], out=room)
        return o.clone() if room is None else room.copy_(o)

    def log_density(self, x: Tensor, k: int) -> Tensor:
        """``log p(x)`` at evaluation ``k``'s time, up to a constant: ``(B,)``.

        Raises
        ------
        IncompatibleError
            The program does not say that it needs one.
        """
        if self._log_density is None:
            raise IncompatibleError(
                "expected needs_log_density = True of a corrector that asks for log densities, got "
                "False; set it in the class"
            )
        # A ScoreModel takes the time in float64, other scores in the state's dtype.
        t = self._times[k].to(x.device) if isinstance(self._model, ScoreModel) else self._inputs[k]
        return self._log_density(x, t, *self._labels)

    def at(self, k: int) -> ScoreAt:
        """The score, and the log density, at evaluation ``k``'s time."""
        return _At(self, k)


class _At:
    def __init__(self, model: BoundModel, k: int) -> None:
        self._model, self._k = model, k

    def __call__(self, x: Tensor) -> Tensor:
        return self._model.output(x, self._k)

    def log_density(self, x: Tensor) -> Tensor:
        return self._model.log_density(x, self._k)
