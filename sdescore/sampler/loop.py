r"""The one loop. It knows numbers, a model and noise; no SDE and no method."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from sdescore.errors import DivergenceError
from sdescore.noise import NoiseStream
from sdescore.sampler.binding import BoundModel
from sdescore.sampler.program import Row
from sdescore.shapes import flat, require_same_shape

__all__ = ["advance", "fold", "require_finite", "run"]

# Rows between two looks at whether the state is still finite: a look waits for the device.
CHECK_EVERY = 16


def run(
    rows: list[Row],
    model: BoundModel,
    noise: NoiseStream,
    x: Tensor,
    first_sample: int,
    after_row: Callable[[], object],
) -> Tensor:
    """The state after all rows; ``x`` may be updated in place.

    Raises
    ------
    DivergenceError
        The state turned NaN or infinite.
    """
    folded = [fold(row, model) for row in rows]
    outputs: list[Tensor] = []
    kept, kept_outputs, since = x.clone(), list(outputs), 0
    for i, row in enumerate(rows):
        x = advance(row, folded[i], x, outputs, model, noise)
        if i + 1 - since == CHECK_EVERY or i + 1 == len(rows):
            # A look waits for the device, so there are few. A NaN stays in the state, and
            # draws can be made again: what broke is found by going over the rows once more.
            if not bool(x.sum().isfinite()):
                for j in range(since, i + 1):
                    kept = advance(rows[j], folded[j], kept, kept_outputs, model, noise)
                    require_finite(rows[j], kept, first_sample)
                require_finite(row, x, first_sample)
            kept.copy_(x)
            kept_outputs, since = list(outputs), i + 1
        after_row()
    return x


class Folded(NamedTuple):
    """A one-stage, one-output row with the model's convention folded in: ``a x + b o + c z``."""

    evaluation: int
    a: float
    b: float
    draw: int
    c: float


def fold(row: Row, model: BoundModel) -> Folded | None:
    """The row's numbers on the model's raw output, or None where the row needs more."""
    if row.custom is not None or row.start is not None:
        return None
    if row.outputs != 1 or len(row.a) != 1 or len(row.draws) != 1:
        return None
    k, b = row.evaluations.start, row.b[0][0]
    return Folded(k, row.a[0] + b * model.u[k], b * model.w[k], row.draws[0], row.c[0][0])


def advance(
    row: Row,
    folded: Folded | None,
    x: Tensor,
    outputs: list[Tensor],
    model: BoundModel,
    noise: NoiseStream,
) -> Tensor:
    """One row. ``outputs`` holds a multistep method's past outputs, newest first."""
    if folded is not None:
        k, a, b, draw, c = folded
        o = model.call(x, k)
        if a != 1.0:
            x.mul_(a)
        x.add_(o, alpha=b)
        return x if draw < 0 else x.add_(noise.draw(draw), alpha=c)
    if row.custom is not None:
        score = model.at(row.evaluations.start)
        y = row.custom(x, score, (noise.draw(draw) for draw in row.draws))
        require_same_shape(y, x, "a step's result", "its state")
        return y.to(x)
    return _advance_general(row, x, outputs, model, noise)


def _advance_general(
    row: Row, x: Tensor, outputs: list[Tensor], model: BoundModel, noise: NoiseStream
) -> Tensor:
    # A draw is valid until the next, and a step's noises are shared by its stages.
    several = len(row.draws) > 1
    z = [None if d < 0 else noise.draw(d).clone() if several else noise.draw(d) for d in row.draws]
    own = [] if row.corrects else outputs
    y = x if row.start is None else _with_noises(row.start[0] * x, row.start[1], z)
    for j, k in enumerate(row.evaluations):
        own.insert(0, model.output(y, k))
        del own[row.outputs :]
        y = x.mul_(row.a[j]) if j + 1 == len(row.a) else row.a[j] * x
        for weight, o in zip(row.b[j], own, strict=False):
            if weight:
                y.add_(o, alpha=weight)
        y = _with_noises(y, row.c[j], z)
    return y


def _with_noises(y: Tensor, weights: tuple[float, ...], z: list[Tensor | None]) -> Tensor:
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
    raise DivergenceError(
        f"the state is not finite after step {row.step} (t = {row.t:g} → {row.s:g}), in "
        f"{len(samples)} of {len(x)} samples: {shown}. The score is not finite there, or the "
        "step is too large: check the model at this t, use more steps or a smaller corrector step",
        step=row.step,
        t=row.t,
        samples=samples,
    )
