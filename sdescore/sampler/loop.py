r"""The one loop. It knows numbers, a model and noise; no SDE and no method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.errors import DivergenceError
from sdescore.noise import NoiseStream
from sdescore.sampler.binding import BoundModel
from sdescore.sampler.program import Row

__all__ = ["advance", "check_finite", "run"]

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
    # Sums are finite if and only if the state is (short of overflow); they are made on the
    # device and looked at rarely, so the row that broke is known without waiting at each.
    sums = torch.zeros(len(rows), dtype=x.dtype, device=x.device)
    slots, dims = sums.unbind(0), tuple(range(x.ndim))
    outputs: list[Tensor] = []
    looked = 0
    for i, row in enumerate(rows):
        x = advance(row, x, outputs, model, noise)
        torch.sum(x, dims, out=slots[i])
        if i + 1 - looked == CHECK_EVERY or i + 1 == len(rows):
            check_finite(sums[looked : i + 1], rows[looked : i + 1], x, first_sample)
            looked = i + 1
        after_row()
    return x


def advance(
    row: Row, x: Tensor, outputs: list[Tensor], model: BoundModel, noise: NoiseStream
) -> Tensor:
    """One row. ``outputs`` holds a multistep method's past outputs, newest first."""
    if row.custom is not None:
        k = row.evaluations[0]
        z = noise.draw(row.draws[0]) if row.draws else torch.zeros_like(x)
        return row.custom(x, lambda y: model.output(y, k), z)
    if row.outputs == 1 and len(row.a) == 1 and len(row.draws) == 1:
        return _advance_simple(row, x, model, noise)
    return _advance_general(row, x, outputs, model, noise)


def _advance_simple(row: Row, x: Tensor, model: BoundModel, noise: NoiseStream) -> Tensor:
    k = row.evaluations.start
    b = row.b[0][0]
    a = row.a[0] + b * model.u[k]
    o = model.call(x, k)
    if a != 1.0:
        x.mul_(a)
    x.add_(o, alpha=b * model.w[k])
    draw = row.draws[0]
    return x if draw < 0 else x.add_(noise.draw(draw), alpha=row.c[0][0])


def _advance_general(
    row: Row, x: Tensor, outputs: list[Tensor], model: BoundModel, noise: NoiseStream
) -> Tensor:
    # A draw is valid until the next, and a step's noises are shared by its stages.
    z = [noise.draw(d).clone() if d >= 0 else None for d in row.draws]
    own = outputs if row.s < row.t else []
    y = x
    for j, k in enumerate(row.evaluations):
        own.insert(0, model.output(y, k))
        del own[row.outputs :]
        y = row.a[j] * x
        for weight, o in zip(row.b[j], own, strict=False):
            if weight:
                y.add_(o, alpha=weight)
        for weight, noise_k in zip(row.c[j], z, strict=True):
            if noise_k is not None and weight:
                y.add_(noise_k, alpha=weight)
    return y


def check_finite(sums: Tensor, rows: list[Row], x: Tensor, first_sample: int) -> None:
    """Refuse to go on from a state that is not finite.

    Raises
    ------
    DivergenceError
        Names the step, the time and the samples.
    """
    finite = sums.isfinite()
    if bool(finite.all()):
        return
    row = rows[int((~finite).nonzero()[0])]
    bad = (~x.reshape(x.shape[0], -1).isfinite().all(1)).nonzero().flatten() + first_sample
    samples = bad.tolist()
    shown = ", ".join(map(str, samples[:8])) + (", …" if len(samples) > 8 else "")
    raise DivergenceError(
        f"the state is not finite after step {row.step} (t = {row.t:g} → {row.s:g}), in "
        f"{len(samples)} of {x.shape[0]} samples: {shown}. The score is not finite there, or the "
        "step is too large: use more steps, a smaller corrector step, or check the model at "
        "this t",
        step=row.step,
        t=row.t,
        samples=samples,
    )
