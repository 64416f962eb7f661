"""A conditional score at one label, or at one part of the label."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, is_tensor

from sdescore import checks
from sdescore.conditions import each_tensor, require_labels
from sdescore.errors import IncompatibleError
from sdescore.guidance.base import GuidedScore, call, log_density
from sdescore.score.interface import knows_density, require_label
from sdescore.score.variance import knows_variance, with_variance
from sdescore.typing import Condition, Score, Time

__all__ = ["condition", "label_part"]


class Relabelled(GuidedScore):
    """A score that is called with another label than its caller's."""

    def __init__(self, score: Score) -> None:
        super().__init__([score])
        self.score = score

    def own_label(self, x: Tensor, label: Condition | None) -> Condition | None:
        """The label that the score is called with."""
        raise NotImplementedError

    def forward(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        return call(self.score, x, t, self.own_label(x, label))

    @property
    def has_log_density(self) -> bool:
        return knows_density(self.score)

    def log_density(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        return log_density(self.score, x, t, self.own_label(x, label))

    @property
    def has_variance(self) -> bool:
        return knows_variance(self.score)

    def with_variance(
        self, x: Tensor, t: Time, label: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        return with_variance(self.score, x, t, self.own_label(x, label))


class _Conditioned(Relabelled):
    def __init__(self, score: Score, label: object) -> None:
        super().__init__(score)
        if not isinstance(label, bool) and isinstance(label, Integral):
            label = torch.tensor(int(label), dtype=torch.int64, device="cpu")
        if not isinstance(label, Tensor | Mapping):
            got = f"{label!r:.200}; labels that differ between samples go to sample(..., label=)"
            expected = "an integer, or one condition (*C) without a batch, for all samples"
            checks.refuse(expected, got, IncompatibleError)
        self.labels = (label,)
        require_labels(rows_of(label, 1), 1)
        require_label(score, rows_of(label, 1))

    def extra_repr(self) -> str:
        shown = each_tensor(lambda part: part.tolist() if part.ndim == 0 else "…", self.labels[0])
        return f"label={shown}"

    def own_label(self, x: Tensor, label: Condition | None) -> Condition | None:
        return rows_of(self.labels[0], len(x), x.device)

    def require_label(self, label: object) -> None:
        expected = "a score that takes a label where one is given"
        got = "condition(score, label), which has its own"
        checks.that(label is None, expected, got, IncompatibleError)


class LabelPart(Relabelled):
    """``score(x, t, label[name])`` of a label that is a dict."""

    def __init__(self, score: Score, name: str) -> None:
        super().__init__(score)
        self.name = checks.instance("name", name, str, '"class"')

    def extra_repr(self) -> str:
        return f"name={self.name!r}"

    def own_label(self, x: Tensor, label: Any) -> Condition | None:
        part: Condition | None = label[self.name]
        return part

    def require_label(self, label: object) -> None:
        expected = f"label to be a dict with the part {self.name!r}"
        there = isinstance(label, Mapping) and self.name in label
        checks.that(there, expected, f"{label!r:.100}", IncompatibleError)
        require_label(self.score, label[self.name])  # type: ignore[index]


def condition(score: Score, label: int | Condition) -> GuidedScore:
    """``score(x, t, label)`` with one label for all samples, as a score ``(x, t)``.

    Parameters
    ----------
    label : int, Tensor or dict
        A class, or another condition: a tensor ``(*C)`` without a batch dimension, or a dict.

    Raises
    ------
    IncompatibleError
        The score is not callable or takes no label, or the label is of another kind.
    ShapeError
        A part of a condition is no tensor that a score takes, e.g. a number that is no integer.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = lambda x, t, label: -(x - label[:, None])  # a class is its mean
    >>> of_class_3 = ss.guidance.condition(score, 3)
    >>> of_class_3(torch.zeros(2, 1), torch.tensor(0.5)).flatten().tolist()
    [3.0, 3.0]
    """
    return _Conditioned(score, label)


def label_part(score: Score, name: str) -> GuidedScore:
    """``score(x, t, label[name])``, for a score that is one of several with labels of their own.

    Parameters
    ----------
    score : callable
        ``(x, t, label)``: a score, or a classifier's log probability.
    name : str
        The part of the dict ``label`` that it takes. A part that is None means no label.

    Raises
    ------
    IncompatibleError
        The score is not callable, or ``name`` is no string; when sampled, ``label`` has no such
        part, or the score does not take it.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> part = ss.guidance.label_part(lambda x, t, y: y[:, None] - x, "mean")
    >>> part(torch.zeros(2, 1), 0.5, {"mean": torch.tensor([3.0, 4.0])}).flatten().tolist()
    [3.0, 4.0]
    """
    return LabelPart(score, name)


def inside(score: Score, x: Tensor, label: Condition | None) -> tuple[Score, Condition | None]:
    """What a score calls in the end, and the labels that it calls it with."""
    if isinstance(score, Relabelled):
        return inside(score.score, x, score.own_label(x, label))
    return score, label


def rows_of(one: Condition, samples: int, device: torch.device | None = None) -> Condition:
    """One condition without a batch, for each of so many samples."""
    rows: Condition = each_tensor(
        lambda part: part.to(device).expand(samples, *part.shape) if is_tensor(part) else part, one
    )
    return rows
