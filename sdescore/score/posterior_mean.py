"""The score and the posterior mean E[x_0 | x_t], from one call of the network."""

from __future__ import annotations

from torch import Tensor

from sdescore import checks
from sdescore.errors import TimeError
from sdescore.score.model import ScoreModel
from sdescore.score.parameterization import combine
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align
from sdescore.typing import Condition, Score, Time


def score_and_mean(
    score: Score, sde: LinearSDE, x: Tensor, t: Time, label: Condition | None
) -> tuple[Tensor, Tensor]:
    """``s(x, t)`` and ``E[x_0 | x_t]`` in the units of the states, each like ``x`` ``(B, *E)``.

    A network's own prediction is converted to both, where Tweedie's formula would lose digits at
    large σ. Raises ``TimeError`` where σ_t = 0 leaves one of them undefined.
    """
    if isinstance(score, ScoreModel) and score.convention is not None:
        numbers = score._numbers(x, t)
        y = score.output_at(x, numbers, label)
        pairs = numbers.to("score"), numbers.to("x0")
        usable = bool(sum(map(sum, pairs)).isfinite().all())  # type: ignore[union-attr]
        checks.that(usable, "t with alpha_t, sigma_t > 0", f"t = {t!r:.100}", TimeError)
        s, x0 = (combine(x, y, u, w) for u, w in pairs)
        return s, x0
    s = score(x, t) if label is None else score(x, t, label)
    alpha_t, sigma_t = (align(v.to(x), x) for v in sde.marginal(t))
    return s, (x + sigma_t.square() * s) / alpha_t
