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

from sdescore.correctors.base import ScoreAt
from sdescore.errors import IncompatibleError, TimeError
from sdescore.samplers.model import IN_A_GRAPH, UNCOUNTED, Model, version_of
from sdescore.samplers.predictor_corrector.chain import Program
from sdescore.score.convention import conversion, pair
from sdescore.score.interface import log_density_of, require_times
from sdescore.score.model import ScoreModel, call_net
from sdescore.sde.base import SDE


class BoundModel:
    """Evaluation ``k`` of a program at any state.

    Attributes
    ----------
    u, w : list of float
        The output that evaluation ``k`` is asked for is ``u[k] x + w[k] call(x, k)``.
    """

    def __init__(
        self,
        model: Model,
        sde: SDE,
        program: Program,
        batch: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        label: Tensor | None = None,
        needs_log_density: bool = False,
    ) -> None:
        self.sde, self.program = sde, program
        self._label = label
        self._dtype = dtype
        times = torch.tensor(program.times, dtype=torch.float64)
        self._times = times
        self._model: Any = model
        self._from = None
        if isinstance(model, ScoreModel) and model.convention is not None:
            numbers = model.convention.at(times)
            self._from = numbers.pair
            self._net, self._net_dtype = model.net, model.dtype
            self._scales = numbers.input_scale.tolist()
            value = model.network_time(numbers.time_value).to(device)
            self._inputs = value[:, None].expand(len(times), batch).unbind(0)
            self.call = self._call_network
        else:
            require_times(model, times)
            self._inputs = times.to(device, dtype).unbind(0)
            self.call = self._call_score
        self._log_density = log_density_of(model) if needs_log_density else None
        self.u, self.w = self.numbers(program.outputs)
        for t, u, w in zip(program.times, self.u, self.w, strict=True):
            if not math.isfinite(u + w):
                raise TimeError(
                    f"expected evaluation times with sigma_t > 0 for this model, got t = {t:g}; "
                    "end the grid earlier"
                )

    def numbers(self, outputs: list[str]) -> tuple[list[float], list[float]]:
        """``(u, w)`` that turn evaluation ``k``'s raw output into ``outputs[k]``."""
        ones = [1.0] * len(outputs)
        if self._from is None and set(outputs) <= {"score"}:
            return [0.0] * len(outputs), ones
        alpha_t, sigma_t = self.sde.marginal(self._times)  # type: ignore[attr-defined]
        from_ = self._from or pair("score", alpha_t, sigma_t)
        u, w = torch.zeros_like(self._times), torch.ones_like(self._times)
        for kind in set(outputs):
            chosen = torch.tensor([o == kind for o in outputs])
            all_u, all_w = conversion(alpha_t, sigma_t, from_, pair(kind, alpha_t, sigma_t))
            u, w = torch.where(chosen, all_u, u), torch.where(chosen, all_w, w)
        return u.tolist(), w.tolist()

    call: Callable[[Tensor, int], Tensor]
    """``call(x, k)``: the model's raw output at ``x``, a tensor that is not ``x`` itself."""

    def _call_network(self, x: Tensor, k: int) -> Tensor:
        scale = self._scales[k]
        given = x if scale == 1.0 else scale * x
        if self._net_dtype != self._dtype:
            given = given.to(self._net_dtype)
        version = version_of(x)
        o = call_net(self._net, given, self._inputs[k], self._label)
        return self._own(o, x, version)

    def _call_score(self, x: Tensor, k: int) -> Tensor:
        version = version_of(x)
        if self._label is None:
            o = self._model(x, self._inputs[k])
        else:
            o = self._model(x, self._inputs[k], self._label)
        if not isinstance(o, Tensor) or o.shape != x.shape:
            got = tuple(o.shape) if isinstance(o, Tensor) else type(o).__name__
            raise IncompatibleError(
                f"expected the score to return a tensor of its input's shape {tuple(x.shape)}, "
                f"got {got}"
            )
        return self._own(o, x, version)

    def _own(self, o: Tensor, x: Tensor, version: int) -> Tensor:
        """The output in the state's dtype, and no view of ``x``, which is updated in place."""
        if version == IN_A_GRAPH:  # which has neither versions nor addresses
            return o.to(self._dtype, copy=True)
        if version != UNCOUNTED and x._version != version:
            raise IncompatibleError(
                "expected the score to leave its input as it is, got one that changed it in "
                "place; work on x.clone()"
            )
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
        given = (x, t) if self._label is None else (x, t, self._label)
        return self._log_density(*given)

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
