"""Any model as a denoiser with a time of its own for every sample."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from sdescore.errors import DivergenceError
from sdescore.samplers.request import called
from sdescore.score.interface import require_times
from sdescore.score.model import ScoreModel
from sdescore.score.parameterization import convert
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import flat
from sdescore.typing import Score


def denoised(
    model: Score, sde: LinearSDE, x: Tensor, t: Tensor, labels: tuple[Tensor, ...]
) -> Tensor:
    """x̂₀ at states ``(B, *E)`` and times ``(B,)`` float64, a fresh tensor like ``x``.

    Raises
    ------
    IncompatibleError, ShapeError
        The score returns no tensor, or another shape than its input's, or changes its input.
    """
    if isinstance(model, ScoreModel) and model.convention is not None:
        predict = partial(model.predict, "x0")
        return called(predict, x, t, *labels, who="the network").clone()
    score = called(model, x, t.to(x), *labels, who="the score")
    return convert(score.to(x.dtype), x, *sde.marginal(t), "score", "x0")


def require_any_time(model: Score, t: Tensor) -> None:
    """Refuse a model that does not cover the times ``(n,)`` float64, before it is called.

    Raises
    ------
    TimeError
        A time that it cannot be given, such as one between the levels of a network of levels.
    """
    require_times(model, t)


def require_finite(output: Tensor, t: Tensor, samples: Tensor, trial: int) -> None:
    """Refuse an output that is not finite.

    Raises
    ------
    DivergenceError
        Names the samples and their times.
    """
    finite = flat(output).isfinite().all(1).cpu()
    if bool(finite.all()):
        return
    broken, times = samples[~finite].tolist(), t[~finite].tolist()
    raise DivergenceError(
        f"the score is not finite in step {trial}, in {name_samples(broken, times)}. Check the "
        "model at these times",
        step=trial,
        t=times[0],
        samples=broken,
    )


def name_samples(samples: list[int], times: list[float]) -> str:
    """How many samples there are, and which, each with its time."""
    shown = ", ".join(f"{i} (t = {t:g})" for i, t in zip(samples[:8], times, strict=False))
    return f"{len(samples)} samples: {shown}{', …' if len(samples) > 8 else ''}"
