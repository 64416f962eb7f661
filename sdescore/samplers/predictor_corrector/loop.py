r"""The one loop. It knows numbers, a model and noise; no SDE and no method."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain, repeat
from typing import NamedTuple

from torch import Tensor

from sdescore.checks import require_same_shape
from sdescore.errors import DivergenceError
from sdescore.noise.sources import NoiseStream
from sdescore.samplers.predictor_corrector.binding import BoundModel
from sdescore.samplers.predictor_corrector.chain import Row
from sdescore.shapes import flat

# Rows between two looks at whether the state is still finite: a look waits for the device.
CHECK_EVERY = 16


def run(
    rows: list[Row],
    model: BoundModel,
    noise: NoiseStream,
    x: Tensor,
    first_sample: int,
    after_row: Callable[[], object] | None = None,
) -> Tensor:
    """The state after all rows; ``x`` may be updated in place.

    Raises
    ------
    DivergenceError
        The state turned NaN or infinite.
    """
    steps = fold(rows, model)
    outputs: list[Tensor] = []
    kept, kept_outputs = x.clone(), list(outputs)
    for first in range(0, len(rows), CHECK_EVERY):
        block = range(first, min(first + CHECK_EVERY, len(rows)))
        for i in block:
            x = advance(steps[i], x, outputs, model, noise, reuse=True)
            if after_row is not None:
                after_row()
        # A look waits for the device, so there are few. A NaN stays in the state, and draws
        # can be made again: what broke is found by going over the rows once more.
        if not math.isfinite(x.sum().item()):
            for i in block:
                kept = advance(steps[i], kept, kept_outputs, model, noise)
                require_finite(rows[i], kept, first_sample)
            require_finite(rows[block[-1]], x, first_sample)
        kept.copy_(x)
        rooms = chain(kept_outputs, repeat(None))
        kept_outputs = [copied(o, room) for o, room in zip(outputs, rooms, strict=False)]
    return x


def copied(o: Tensor, room: Tensor | None) -> Tensor:
    """A copy, in ``room`` where there is some."""
    return o.clone() if room is None else room.copy_(o)


class Folded(NamedTuple):
    """A one-stage, one-output row with the model's convention folded in: ``a x + b o + c z``."""

    evaluation: int
    a: float
    b: float
    draw: int
    c: float


class Weighed(NamedTuple):
    """Any other row, with the weights of its outputs as they are kept."""

    row: Row
    evaluations: tuple[int, ...]
    b: tuple[tuple[float, ...], ...]


def fold(rows: list[Row], model: BoundModel) -> list[Folded | Weighed]:
    """All rows' numbers on what the model gives.

    A row that needs one output takes it raw. Others keep theirs as ``o + (u/w) x``
    (:meth:`sdescore.samplers.predictor_corrector.binding.BoundModel.kept`), and their weights take
    the factor w that is missing.
    """
    steps: list[Folded | Weighed] = []
    past: list[float] = []
    for row in rows:
        k = row.evaluations.start
        if row.move.custom is not None:
            steps.append(Weighed(row, tuple(row.evaluations), ()))
        elif row.start is None and row.outputs == len(row.a) == len(row.draws) == 1:
            b = row.b[0][0]
            a = row.a[0] + b * model.u[k]
            steps.append(Folded(k, a, b * model.w[k], row.draws[0], row.c[0][0]))
        else:
            own = [] if row.move.corrects else past
            scaled = []
            for k, weights in zip(row.evaluations, row.b, strict=True):
                own.insert(0, model.factor(k))
                del own[row.outputs :]
                scaled.append(tuple(b * w for b, w in zip(weights, own, strict=False)))
            steps.append(Weighed(row, tuple(row.evaluations), tuple(scaled)))
    return steps


def advance(
    step: Folded | Weighed,
    x: Tensor,
    outputs: list[Tensor],
    model: BoundModel,
    noise: NoiseStream,
    *,
    reuse: bool = False,
) -> Tensor:
    """One row.

    ``outputs`` holds a multistep method's past outputs, newest first; ``reuse`` says that nobody
    else does, so that the memory of one that is forgotten may take the next.
    """
    if isinstance(step, Folded):
        k, a, b, draw, c = step
        o = model.call(x, k)
        if a != 1.0:
            x.mul_(a)
        x.add_(o, alpha=b)
        return x if draw < 0 else x.add_(noise.draw(draw), alpha=c)
    row, evaluations, b_all = step
    if row.move.custom is not None:
        score = model.at(evaluations[0])
        y = row.move.custom(x, score, (noise.draw(draw) for draw in row.draws))
        require_same_shape(y, x, "a step's result", "its state")
        return y.to(x)
    # A draw is valid until the next, and a step's noises are shared by its stages.
    several = len(row.draws) > 1
    z = [None if d < 0 else noise.draw(d).clone() if several else noise.draw(d) for d in row.draws]
    own = [] if row.move.corrects else outputs
    y = x if row.start is None else _with_noises(row.start[0] * x, row.start[1], z)
    for j, k in enumerate(evaluations):
        room = own.pop() if reuse and len(own) == row.outputs else None
        own.insert(0, model.kept(y, k, room))
        del own[row.outputs :]
        y = x.mul_(row.a[j]) if j + 1 == len(row.a) else row.a[j] * x
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
    """Refuse to go on from a state that is not finite after ``row``.

    Raises
    ------
    DivergenceError
        Names the step, the time and the samples.
    """
    finite = flat(x).isfinite().all(1)
    if bool(finite.all()):
        return
    samples = ((~finite).nonzero().flatten() + first_sample).tolist()
    shown = ", ".join(map(str, samples[:8])) + (", …" if len(samples) > 8 else "")
    move = row.move
    raise DivergenceError(
        f"the state is not finite after step {move.step} (t = {move.t:g} → {move.s:g}), in "
        f"{len(samples)} of {len(x)} samples: {shown}. The score is not finite there, or the "
        "step is too large: check the model at this t, use more steps or a smaller corrector step",
        step=move.step,
        t=move.t,
        samples=samples,
    )
