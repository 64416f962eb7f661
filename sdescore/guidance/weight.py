r"""The weight of guidance: a number, a schedule or one for each sample, and an interval.

Two conventions are in use. With ω the guided score is :math:`\omega s_1 + (1 - \omega) s_0`; with
w it is :math:`(1 + w) s_1 - w s_0`, so ω = w + 1 (Ho & Salimans 2022, arXiv:2207.12598, eq. 6).
Here it is computed as :math:`s_1 + w (s_1 - s_0)`, and where w = 0, :math:`s_0` is not called.
A weight is at least ω = 0, the unconditional score alone: below, the guided score would point away
from the condition. A condition to avoid belongs in the place of the unconditional score.

Guidance in an interval of noise levels alone is Kynkäänniemi et al. 2024, arXiv:2404.07724.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.compiler import is_compiling

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import float64
from sdescore.typing import Condition, Time

LEAST = {"omega": 0.0, "w": -1.0}
Schedule: TypeAlias = Callable[[Tensor], Tensor | float]
Omega: TypeAlias = "float | Mapping[float, float] | str | Schedule"
"""A number, weights at noise levels σ/α, the label's part that has them, or a function of t."""


@dataclass(frozen=True)
class Table:
    """Weights at noise levels: linear in log(σ/α) between them, constant beyond."""

    log_levels: tuple[float, ...]  # rising
    weights: tuple[float, ...]

    def __call__(self, log_ratio: Tensor) -> Tensor:
        """The weights at ``log(σ/α)``, float64."""
        at, value = (log_ratio.new_tensor(v) for v in (self.log_levels, self.weights))
        right = torch.searchsorted(at, log_ratio).clamp(1, len(at) - 1)
        share = (log_ratio - at[right - 1]) / (at[right] - at[right - 1])
        return torch.lerp(value[right - 1], value[right], share.clamp(0, 1))


@dataclass(frozen=True)
class Weight:
    """w = ω − 1 of every sample."""

    name: str  # "omega" or "w", as it was given
    value: float | str | Table | Schedule
    interval: tuple[float, float] | None
    sde: LinearSDE | None

    @classmethod
    def of(
        cls,
        omega: Omega | None,
        w: Omega | None,
        interval: Sequence[float] | None,
        sde: LinearSDE | None,
    ) -> Weight:
        """From what a user gave, refused unless it is one weight by one name."""
        expected, got = "one weight, omega= or w= (omega = w + 1)", f"{omega=!r:.60} and {w=!r:.60}"
        checks.that((omega is None) != (w is None), expected, got)
        named: tuple[str, Any] = ("omega", omega) if w is None else ("w", w)
        name, value = named
        if isinstance(value, Mapping):
            at = sorted((checks.number("noise level", level, above=0), level) for level in value)
            checks.that(len(at) > 1, f"{name} at two noise levels or more", f"{value!r:.100}")
            weights = tuple(_number(name, value[level]) for _, level in at)
            levels = torch.tensor([level for level, _ in at], dtype=torch.float64, device="cpu")
            value = Table(tuple(levels.log().tolist()), weights)
        elif isinstance(value, str):
            expected = f"the name of a part of the label as {name}"
            checks.that(value.isidentifier(), expected, f"{value!r:.60}")
        elif not callable(value):
            several = f"{value!r:.60}; pass {name}='{name}', and label={{…, '{name}': weights}}"
            one = getattr(value, "ndim", 0) == 0 and not isinstance(value, Sequence)
            checks.that(one, "weights of samples beside their labels", several, ShapeError)
            value = _number(name, value)
        if interval is not None:
            low, high = _interval(interval)
            interval = low, high
        if interval is not None or isinstance(value, Table):
            checks.linear(sde, "weights by noise level", "pass scores with an SDE")
        return cls(name, value, interval, sde)

    def at(self, x: Tensor, t: Time, label: Condition | None) -> float | Tensor:
        """w: a number, or ``()`` or ``(B,)`` in the dtype and on the device of ``x``."""
        shift = float(self.name == "omega")
        if isinstance(self.value, float) and self.interval is None:
            return self.value - shift
        time = float64(t, like=x)
        w = self._values(time, label) - shift
        if self.interval is not None:
            ratio = self.sde.noise_ratio(time)  # type: ignore[union-attr]
            inside = (ratio > self.interval[0]) & (ratio <= self.interval[1])
            w = torch.where(inside, w, torch.zeros_like(w))
        return w.to(x)

    def _values(self, time: Tensor, label: Any) -> Tensor:
        if isinstance(self.value, float):
            return torch.full_like(time, self.value)
        if isinstance(self.value, str):
            self._require_named(label)
            found: Tensor = label[self.value].to(time)
            return found
        if isinstance(self.value, Table):
            return self.value(self.sde.noise_ratio(time).log())  # type: ignore[union-attr]
        found = float64(self.value(time), like=time)
        expected = f"{self.name}(t) as a number, or one a time, of shape {tuple(time.shape)}"
        fits = found.ndim == 0 or found.shape == time.shape
        checks.that(fits, expected, tuple(found.shape), ShapeError)
        return found

    def rest_of(self, label: Condition | None) -> Condition | None:
        """The label without the weights."""
        if not isinstance(self.value, str) or not isinstance(label, Mapping):
            return label
        return {k: part for k, part in label.items() if k != self.value} or None

    def require_times(self, t: Tensor) -> None:
        """Refuse a schedule that is too low, or not finite, at one of the times ``(n,)``."""
        if callable(self.value) and not isinstance(self.value, Table):
            self._require(f"{self.name}(t)", self._values(float64(t), None))

    def require_label(self, label: object) -> None:
        """Refuse a label without the weight of each sample, where it has to have them."""
        if isinstance(self.value, str):
            self._require(f"label[{self.value!r}]", self._require_named(label))

    def _require_named(self, label: object) -> Tensor:
        weights = label.get(self.value) if isinstance(label, Mapping) else None
        expected = f"label to be a dict with {self.value!r}, real weights (B,)"
        if not isinstance(weights, Tensor) or weights.ndim != 1 or weights.is_complex():
            checks.refuse(expected, f"{label!r:.100}", IncompatibleError)
        return weights

    def _require(self, name: str, values: Tensor) -> None:
        least = checks.finite_tensor(name, values).min().item() if values.numel() else 0.0
        _require_least(name, least, LEAST[self.name])


def guided_rows(w: float | Tensor) -> Tensor | slice | None:
    """The samples with w ≠ 0: all of them as a slice, some by number, or None."""
    if not isinstance(w, Tensor):
        return slice(None) if w else None
    if is_compiling():  # a graph cannot look at a value
        return slice(None)
    some = w != 0
    if bool(some.all()):
        return slice(None)
    return some.nonzero().flatten() if bool(some.any()) else None


def _number(name: str, value: object) -> float:
    found = checks.number(name, value)
    _require_least(name, found, LEAST[name])
    return found


def _require_least(name: str, value: float, least: float) -> None:
    advice = "omega = w + 1, and a condition to avoid belongs in the second score"
    checks.that(value >= least, f"{name} >= {least:g}", f"{value:g}; {advice}")


def _interval(value: Sequence[float]) -> tuple[float, float]:
    expected, got = "interval as noise levels (low, high), 0 <= low < high", f"{value!r:.100}"
    try:
        low, high = map(float, value)
    except (TypeError, ValueError):
        checks.refuse(expected, got)
    checks.that(0 <= low < high, expected, got)  # NaN is in no order
    return low, high
