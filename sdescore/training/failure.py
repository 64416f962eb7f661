"""What is said when a loss or a gradient is no number."""

from __future__ import annotations

import math
import os

from torch import Tensor

from sdescore.errors import DivergenceError


def divergence(
    step: int,
    loss: float,
    per_sample: Tensor,
    t: Tensor,
    index: Tensor,
    path: str | os.PathLike[str] | None,
) -> DivergenceError:
    """The error of a training step; ``per_sample``, ``t`` and ``index`` are ``(B,)``."""
    bad = (~per_sample.detach().isfinite()).cpu()
    where = int(bad.nonzero()[0]) if bool(bad.any()) else int(per_sample.argmax())
    samples = sorted(set(index[bad].tolist()))
    what = f"a loss of {loss:g}" if not math.isfinite(loss) else "a NaN or infinite gradient"
    kept = (
        f"the last good checkpoint is {path}" if path is not None else "no checkpoint was written"
    )
    return DivergenceError(
        f"expected a finite loss and gradient, got {what} at training step {step} (t = "
        f"{t[where].item():g}, data indices {samples[:8]}); the model holds the weights before it, "
        f"{kept}. Lower lr, lengthen warmup, or clip the gradient",
        step=step,
        t=t[where].item(),
        samples=samples,
    )
