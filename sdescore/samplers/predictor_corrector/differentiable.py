"""The loop with a graph, for ``differentiable=True``.

It takes the rows of :mod:`sdescore.samplers.predictor_corrector.loop` in blocks of about √n. The
forward pass keeps the states between blocks. The backward pass runs each block again, and keeps the
graph of that block alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sdescore.noise.sources import NoiseStream
from sdescore.samplers.predictor_corrector.chain import Row
from sdescore.samplers.predictor_corrector.loop import BoundModel, advance, fold, require_finite
from sdescore.samplers.request import evaluating


def run_with_graph(
    rows: list[Row],
    model: BoundModel,
    noise: NoiseStream,
    x: Tensor,
    first_sample: int,
    after_row: Callable[[], object] | None = None,
) -> Tensor:
    """The state after all rows, as a function of the model, the labels and ``x``."""
    steps, size = fold(rows, model), max(1, math.isqrt(len(rows)))
    model.copies = True

    def block(first: int, x: Tensor, *outputs: Tensor) -> tuple[Tensor, ...]:
        # A step writes into its state; what the block started from must be there in backward.
        x, past = x.clone(), list(outputs)
        # In backward, the network may be in train mode again.
        with evaluating(model.model):
            for i in range(first, min(first + size, len(rows))):
                x = advance(steps[i], x, past, model, noise)
                require_finite(rows[i], x, first_sample)
        return x, *past

    outputs: tuple[Tensor, ...] = ()
    for first in range(0, len(rows), size):
        x, *outputs = checkpoint(block, first, x, *outputs, use_reentrant=False)
        for _ in range(first, min(first + size, len(rows))):
            if after_row is not None:
                after_row()
    return x
