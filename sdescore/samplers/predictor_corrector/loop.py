r"""The one loop. It knows numbers, a model and noise; no SDE and no method.

The raw output of a network is ``o``, and the output a tableau asks for is ``u y + w o``
(:func:`sdescore.score.convention.conversion`). Where a step weighs only the newest output,
u and w fold into the step's own numbers, and the conversion costs no pass over memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from sdescore import checks
from sdescore.errors import DivergenceError, IncompatibleError, TimeError
from sdescore.noise.sources import NoiseStream
from sdescore.samplers.predictor_corrector.chain import Program, Row
from sdescore.samplers.request import Request, called, not_finite, require_rows_apart
from sdescore.score.convention import Coefficients, pair
from sdescore.score.interface import log_density_of, require_times
from sdescore.score.model import ScoreModel
from sdescore.score.variance import VarianceReader
from sdescore.wrappers import owner_of, undisturbed

# Rows between two looks at whether the state is still finite: a look waits for the device.
CHECK_EVERY = 16


class BoundModel:
    """Evaluation ``k`` of a program at any state.

    The program asks for an output of some kind, which is ``u[k] x + w[k] call(x, k)``. ``watch`` is
    told ``(x, k, o)`` of each call.
    """

    watch: Callable[[Tensor, int, Tensor], object] | None = None
    copies = False  # whether a call gets its own copy of the state, for autograd to keep

    def __init__(self, request: Request, samples: range, program: Program) -> None:
        model, device = request.model, request.device
        self._labels = request.labels(samples)
        self._marginal, self._made = program.marginal, False
        self._dtype, self._net_dtype = request.dtype, None
        self._times = times = torch.tensor(program.times, dtype=torch.float64, device="cpu")
        self._numbers: Coefficients | None = None
        self.model: Any = model
        self._function: Any = model
        if isinstance(model, ScoreModel) and model.convention is not None:
            # The network is called in the model's place. What the convention makes of its output
            # goes into the numbers u and w, and costs no pass over memory.
            self._numbers = numbers = model.convention.at(times, program.marginal)
            self._function, self._who, self._net_dtype = model.net, "the network", model.dtype
            self._scales = numbers.input_scale.tolist()
            value = numbers.time_value  # integer levels stay integers
            of_time = getattr(model.net, "time_dtype", self._net_dtype)
            value = value.to(device, of_time if value.is_floating_point() else None)
            self._inputs = value[:, None].expand(len(times), len(samples)).unbind(0)
        else:
            require_times(model, times)
            first = samples.start == request.samples.start
            self._made = first and getattr(owner_of(model), "made_of_scores", False)
            self._who, self._scales = "the score", [1.0] * len(times)
            self._inputs = times.to(device, self._dtype).unbind(0)
        self._log_density = log_density_of(model) if program.needs_log_density else None
        self.variance = VarianceReader(self._function) if program.needs_variance else None
        self._function = self.variance or self._function
        self.u, self.w = self.numbers(program.outputs)
        for t, u, w in zip(program.times, self.u, self.w, strict=True):
            if not math.isfinite(u + w):
                raise TimeError(
                    "expected evaluation times with sigma_t > 0, and alpha_t > 0 for a model that "
                    f"predicts the score or epsilon, got t = {t:g}; end or start the grid elsewhere"
                )

    def checked(self, x: Tensor) -> Tensor:
        """``x``, the states at the start; a score made of others that sees the batch is refused."""
        if self._made and self._marginal is not None:
            require_rows_apart(self.model, x, self._inputs, self._marginal, self._labels)
        return x

    def numbers(self, outputs: list[str]) -> tuple[list[float], list[float]]:
        """``(u, w)`` that turn evaluation ``k``'s raw output into ``outputs[k]``."""
        if self._numbers is None and set(outputs) <= {"score"}:
            return [0.0] * len(outputs), [1.0] * len(outputs)
        numbers, t = self._numbers, self._times
        if numbers is None:
            alpha_t, sigma_t = self._marginal  # type: ignore[misc]
            from_score = pair("score", alpha_t, sigma_t)
            numbers = Coefficients(alpha_t, sigma_t, from_score, t, torch.ones_like(t))
        u, w = torch.zeros_like(t), torch.ones_like(t)
        for kind in set(outputs):
            asked = torch.tensor([o == kind for o in outputs], dtype=torch.bool, device="cpu")
            all_u, all_w = numbers.to(kind)
            u, w = torch.where(asked, all_u, u), torch.where(asked, all_w, w)
        return u.tolist(), w.tolist()

    def call(self, x: Tensor, k: int) -> Tensor:
        """The raw output at ``x`` in the state's dtype, and no view of ``x``, which may be
        updated in place."""
        scale = self._scales[k]
        y = x if scale == 1.0 and not self.copies else scale * x
        if self._net_dtype is not None:
            y = y.to(self._net_dtype)
        o = called(self._function, y, self._inputs[k], *self._labels, who=self._who)
        if is_compiling():  # a graph has no addresses to compare
            return o.to(self._dtype, copy=True)
        if o.dtype != self._dtype:
            o = o.to(self._dtype)
        elif o.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
            o = o.clone()
        if self.watch is not None:
            self.watch(x, k, o)
        return o

    def output(self, x: Tensor, k: int) -> Tensor:
        """The output of evaluation ``k``, of the kind that the program asks for; no view of x."""
        o = self.call(x, k)
        if self.watch is None and (self.u[k], self.w[k]) == (0.0, 1.0):
            return o
        converted = o * self.w[k]
        return converted.add_(x, alpha=self.u[k]) if self.u[k] else converted

    def scaled_output(self, x: Tensor, k: int, room: Tensor | None) -> Tensor:
        """The output asked for at evaluation ``k`` over ``w[k]``, or as it is where that is 0.

        One pass over memory, ``o + (u/w) x``, into ``room`` where there is some.
        """
        if not self.w[k]:
            return self.output(x, k)
        o = self.call(x, k)
        if self.u[k]:
            return torch.add(o, x, alpha=self.u[k] / self.w[k], out=room)
        return copied(o, room)


@dataclass
class At:
    """The score, the log density and the learned variance at evaluation ``k``'s time."""

    bound: BoundModel
    k: int

    def __call__(self, x: Tensor) -> Tensor:
        return self.bound.output(x, self.k)

    def log_density(self, x: Tensor) -> Tensor:
        """``log p(x)`` up to a constant, ``(B,)``."""
        bound = self.bound
        if bound._log_density is None:
            raise IncompatibleError(
                "expected needs_log_density = True of a corrector that asks for log densities, got "
                "False; set it in the class"
            )
        # A ScoreModel takes the time in float64, other scores in the state's dtype.
        exact = isinstance(bound.model, ScoreModel)
        t = bound._times[self.k].to(x.device) if exact else bound._inputs[self.k]
        return undisturbed(bound._log_density, x, t, *bound._labels, who="log_density")  # type: ignore[no-any-return]

    def with_variance(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The score and the network's v, each like ``x``; see :class:`sdescore.Ancestral`."""
        score, reader = self.bound.output(x, self.k), self.bound.variance
        if reader is None:
            got = "False; set it in the class"
            expected = "needs_variance = True of a predictor that asks for a learned variance"
            checks.refuse(expected, got, IncompatibleError)
        return score, reader.of(x)


def run(
    rows: list[Row],
    model: BoundModel,
    noise: NoiseStream,
    x: Tensor,
    first_sample: int,
    after_row: Callable[[], object] | None = None,
) -> Tensor:
    """The state after all rows; ``x`` may be updated in place."""
    steps = fold(rows, model)
    outputs: list[Tensor] = []
    saved, saved_outputs = x.clone(), list(outputs)
    for first in range(0, len(rows), CHECK_EVERY):
        block = range(first, min(first + CHECK_EVERY, len(rows)))
        for i in block:
            x = advance(steps[i], x, outputs, model, noise, reuse=True)
            if after_row is not None:
                after_row()
        # A check waits for the device, so there are few. A NaN stays, and draws are repeatable, so
        # a second pass over the rows finds the step that failed.
        if not math.isfinite(x.sum().item()):
            for i in block:
                saved = advance(steps[i], saved, saved_outputs, model, noise)
                require_finite(rows[i], saved, first_sample)
            require_finite(rows[block[-1]], x, first_sample)
        saved.copy_(x)
        rooms = chain(saved_outputs, repeat(None))
        saved_outputs = [copied(o, room) for o, room in zip(outputs, rooms, strict=False)]
    return x


def copied(o: Tensor, room: Tensor | None) -> Tensor:
    """A copy, in ``room`` where there is some."""
    return o.clone() if room is None else room.copy_(o)


@dataclass(slots=True)
class Folded:
    """A one-stage, one-output row with the model's convention folded in: ``a x + b o + c z``."""

    evaluation: int
    a: float | Tensor | None  # None is 1
    b: float
    draw: int
    c: float


@dataclass(slots=True)
class General:
    """Any other row, with its weights on the scaled outputs."""

    row: Row
    a: Sequence[float | Tensor]
    b: list[list[float]]


def fold(rows: list[Row], model: BoundModel, *, for_graph: bool = False) -> list[Folded | General]:
    """The numbers of all rows, for the outputs as the model gives them.

    A row that needs one output uses it raw. Other rows store ``o + (u/w) x``
    (:meth:`BoundModel.scaled_output`), which saves a pass over memory. Their weights contain the
    factor w that is missing there.

    Torch multiplies by a tensor ``()`` at half the cost of a Python number, to the same bits. A
    compiled graph takes the numbers: tensors on the CPU would keep it from a CUDA graph.
    """
    folded: list[Folded] = []
    general: list[General] = []
    steps: list[Folded | General] = []
    past: list[float] = []
    for row in rows:
        if row.single:
            k, b = row.evaluations.start, row.b[0][0]
            a = row.a[0] + b * model.u[k]
            one = Folded(k, None, b * model.w[k], row.draws[0], row.c[0][0])
            if a != 1.0:
                one.a = a
                folded.append(one)
            steps.append(one)
            continue
        own, scaled = [] if row.move.corrects else past, []
        for k, weights in zip(row.evaluations, row.b, strict=False):  # a custom row has no weights
            own.insert(0, model.w[k] or 1.0)
            del own[row.outputs :]
            scaled.append([b * w for b, w in zip(weights, own, strict=False)])
        general.append(General(row, row.a, scaled))
        steps.append(general[-1])
    if not (for_graph or is_compiling()):
        numbers = [step.a for step in folded] + [a for step in general for a in step.a]
        tensors = iter(torch.tensor(numbers, dtype=model._dtype, device="cpu").unbind(0))
        for one, tensor in zip(folded, tensors, strict=False):
            one.a = tensor
        for many in general:
            many.a = list(islice(tensors, len(many.a)))
    return steps


def advance(
    step: Folded | General,
    x: Tensor,
    outputs: list[Tensor],
    model: BoundModel,
    noise: NoiseStream,
    *,
    reuse: bool = False,
) -> Tensor:
    """One row.

    ``outputs`` holds a multistep method's past outputs, newest first. ``reuse`` says that nothing
    else refers to them, so the memory of one that is dropped may be used for the next.
    """
    if isinstance(step, Folded):
        o = model.call(x, step.evaluation)
        if step.a is not None:
            x.mul_(step.a)
        x.add_(o, alpha=step.b)
        return x if step.draw < 0 else x.add_(noise.draw(step.draw), alpha=step.c)
    row, a_all, b_all = step.row, step.a, step.b
    if row.move.custom is not None:
        score, noises = At(model, row.evaluations.start), map(noise.draw, row.draws)
        y = row.move.custom(x, score, noises=noises)
        checks.same_shape(y, x, "a step's result", "its state")
        return y.to(x)
    # A draw is valid until the next, and a step's noises are shared by its stages.
    several = len(row.draws) > 1
    z = [None if d < 0 else noise.draw(d).clone() if several else noise.draw(d) for d in row.draws]
    own = [] if row.move.corrects else outputs
    y = x if row.start is None else _with_noises(row.start[0] * x, row.start[1], z)
    for j, k in enumerate(row.evaluations):
        room = own.pop() if reuse and len(own) == row.outputs else None
        own.insert(0, model.scaled_output(y, k, room))
        del own[row.outputs :]
        y = x.mul_(a_all[j]) if j + 1 == len(a_all) else a_all[j] * x
        for weight, o in zip(b_all[j], own, strict=False):
            if weight:
                y.add_(o, alpha=weight)
        y = _with_noises(y, row.c[j], z)
    return y


def _with_noises(y: Tensor, weights: list[float], z: list[Tensor | None]) -> Tensor:
    for weight, noise in zip(weights, z, strict=True):
        if noise is not None and weight:
            y.add_(noise, alpha=weight)
    return y


def require_finite(row: Row, x: Tensor, first_sample: int) -> None:
    """Refuse to go on from a state that is not finite after ``row``."""
    samples, named = not_finite(x, first_sample)
    move = row.move
    if samples:
        raise DivergenceError(
            f"the state is not finite after step {move.step} (t = {move.t:g} → {move.s:g}), in "
            f"{named}. The score is not finite there, or the step is too large: check the model at "
            "this t, use more steps or a smaller corrector step",
            step=move.step,
            t=move.t,
            samples=samples,
        )
