"""The variance that a network learned beside its prediction (Nichol & Dhariwal 2021).

Such a network has a method ``with_variance(x, c)``, or ``with_variance(x, c, label)``. It returns
the prediction and v, each like ``x``: −1 stands for the smaller of DDPM's two variances and 1 for
the larger (:class:`sdescore.Ancestral`). A score may have ``with_variance(x, t)`` in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sdescore import checks
from sdescore.conditions import in_dtype
from sdescore.errors import IncompatibleError
from sdescore.score.convention import Coefficients
from sdescore.score.model import ScoreModel
from sdescore.score.parameterization import combine
from sdescore.typing import Condition, Score, Time
from sdescore.wrappers import unwrapped


def knows_variance(part: object) -> bool:
    """Whether a network or score has a learned variance."""
    part = unwrapped(part)
    if isinstance(part, ScoreModel):
        return knows_variance(part.net)
    return callable(getattr(part, "with_variance", None)) and getattr(part, "has_variance", True)


def require_variance(part: object) -> None:
    """Refuse a network or score without a learned variance."""
    got = f"{type(unwrapped(part)).__name__} without; use 'fixed_small' or 'fixed_large'"
    advice = "or wrap a network that returns twice the channels: ss.nets.LearnedVariance(net)"
    expected = "a network with a learned variance for variance='learned_range'"
    checks.that(knows_variance(part), expected, f"{got}, {advice}", IncompatibleError)


def with_variance(
    score: Score, x: Tensor, t: Time, label: Condition | None = None
) -> tuple[Tensor, Tensor]:
    """A score and the learned variance v at ``x``, each like ``x`` ``(B, *E)``."""
    require_variance(score)
    model: Any = unwrapped(score)
    if not isinstance(model, ScoreModel):
        s, v = model.with_variance(x, t, *(() if label is None else (label,)))
        return s, v
    numbers = model._numbers(x, t)
    y, v = output_with_variance(model, x, numbers, label)
    return combine(x, y, *numbers.to("score")), v


def output_with_variance(
    model: ScoreModel, x: Tensor, numbers: Coefficients, label: Condition | None
) -> tuple[Tensor, Tensor]:
    """The network's own output and v, each like ``x``; see :meth:`ScoreModel.output_at`."""
    scaled, value = model._inputs(x, numbers, label)
    conditions = () if label is None else (in_dtype(label, scaled.dtype),)
    reader = VarianceReader(model.net)
    y = reader(scaled, value, *conditions)
    return checks.score_output(y, scaled, "the network").to(x.dtype), reader.of(x)


class VarianceReader:
    """A network or score, called for its prediction; it keeps the variance of the last call."""

    def __init__(self, part: Any) -> None:
        require_variance(part)
        self._function: Callable[..., tuple[Tensor, Tensor]] = unwrapped(part).with_variance
        self._last: Tensor | None = None

    def __call__(self, x: Tensor, *rest: Tensor | Condition) -> Tensor:
        """The prediction."""
        y, self._last = self._function(x, *rest)
        return y

    def of(self, x: Tensor) -> Tensor:
        """The variance v of the last call, refused unless it is like ``x``; in x's dtype."""
        return checks.score_output(self._last, x, "the learned variance").to(x)
