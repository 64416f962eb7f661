"""Any model as a denoiser with a time of its own for every sample."""

from __future__ import annotations

from torch import Tensor

from sdescore.errors import DivergenceError, IncompatibleError
from sdescore.samplers.model import Model, version_of
from sdescore.score.interface import require_times
from sdescore.score.model import ScoreModel
from sdescore.score.parameterization import convert
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import flat


def denoised(model: Model, sde: LinearSDE, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
    """x̂₀ at states ``(B, *E)`` and times ``(B,)`` float64, a fresh tensor like ``x``.

    Raises
    ------
    IncompatibleError
        The score returns no tensor, or another shape than its input's, or changes its input.
    """
    version = version_of(x)
    if isinstance(model, ScoreModel) and model.convention is not None:
        found = model.predict("x0", x, t, label).clone()
    else:
        given = (x, t.to(x)) if label is None else (x, t.to(x), label)
        score = model(*given)
        if not isinstance(score, Tensor) or score.shape != x.shape:
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise IncompatibleError(
                f"expected the score to return a tensor of its input's shape {tuple(x.shape)}, "
                f"got {got}"
            )
        found = convert(score.to(x.dtype), x, *sde.marginal(t), "score", "x0")
    if version_of(x) != version:
        raise IncompatibleError(
            "expected the score to leave its input as it is, got one that changed it in place; "
            "work on x.clone()"
        )
    return found


def require_any_time(model: Model, t: Tensor) -> None:
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
