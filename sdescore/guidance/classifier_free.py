"""Classifier-free guidance: two scores, mixed; and a conditional score at one label."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

import torch
from torch import Tensor, is_tensor

from sdescore import checks
from sdescore.conditions import alike, each_tensor, joined, require_labels
from sdescore.errors import IncompatibleError
from sdescore.guidance.base import GuidedScore, call
from sdescore.score.interface import null_condition_of, require_label, unwrapped
from sdescore.score.variance import knows_variance, with_variance
from sdescore.typing import Condition, Score

__all__ = ["classifier_free", "condition"]


class _ClassifierFree(GuidedScore):
    def __init__(
        self, conditional: Score, unconditional: Score, weight: float, batched: bool
    ) -> None:
        super().__init__([conditional, unconditional])
        require_label(unconditional, None)
        self.conditional, self.unconditional = conditional, unconditional
        self.weight = checks.number("weight", weight)
        self.batched = checks.flag("batched", batched)

    def extra_repr(self) -> str:
        return f"weight={self.weight}, batched={self.batched}"

    def forward(self, x: Tensor, t: Tensor, label: Condition | None = None) -> Tensor:
        conditional, unconditional = self._in_one_call(x, t, label) or (
            call(self.conditional, x, t, label),
            self.unconditional(x, t),
        )
        return self.weight * conditional + (1 - self.weight) * unconditional

    def _in_one_call(
        self, x: Tensor, t: Tensor, label: Condition | None
    ) -> tuple[Tensor, Tensor] | None:
        """Both scores from one call on the batch twice, or None where they need two calls."""
        score, label = _inside(self.conditional, x, label)
        other, null = _inside(self.unconditional, x, None)
        if not self.batched or score is not other or label is None:
            return None
        if null is None:
            null = null_condition_of(getattr(unwrapped(score), "net", None))
            null = None if null is None else _rows(null, len(x), x.device)
        if null is None or not alike(label, null):
            return None
        times = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
        both = score(torch.cat([x, x]), times, joined(label, null))
        return both[: len(x)], both[len(x) :]

    @property
    def has_variance(self) -> bool:
        return knows_variance(self.conditional)

    def with_variance(
        self, x: Tensor, t: Tensor, label: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """The guided score by two calls, and the variance of the conditional one."""
        conditional, v = with_variance(self.conditional, x, t, label)
        return self.weight * conditional + (1 - self.weight) * self.unconditional(x, t), v

    def require_label(self, label: object) -> None:
        require_label(self.conditional, label)


def classifier_free(
    conditional: Score, unconditional: Score, weight: float, *, batched: bool = True
) -> GuidedScore:
    r"""Classifier-free guidance, :math:`\omega\, s(x|y) + (1 - \omega)\, s(x)`.

    Ho & Salimans 2022, arXiv:2207.12598, eq. 6 with :math:`\omega = 1 + w`. If both scores come
    from one model, it is called once, on a batch of twice the size.

    Parameters
    ----------
    conditional : callable
        Called as ``(x, t, label)`` where a label is given, else as ``(x, t)``.
    unconditional : callable
        Called as ``(x, t)``. One network that was trained with dropped labels is both:
        ``classifier_free(model, model, 3.0)`` with ``sample(..., label=labels)``. Where its null
        class has a number of its own, pass ``condition(model, number)``.
    weight : float
        ω, finite.
    batched : bool
        False calls the model twice on a batch of the usual size, which takes less memory. Two calls
        are also made where the scores are two objects, and where the model's "no label" cannot
        stand beside the labels in one tensor: the network declares neither ``null_condition`` nor
        ``config["classes"]`` and knows it as a call without a label alone, or the number passed to
        ``condition`` stands for a condition of another shape.

    Raises
    ------
    IncompatibleError
        Scores that are not callable or belong to different SDEs; or an unconditional model whose
        network was never trained without a label.
    ParameterError
        A weight that is not finite, or ``batched`` is not True or False.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> class_a, any_class = ss.GaussianScore([2.0], 0.1, sde), ss.GaussianScore([0.0], 1.0, sde)
    >>> sampler = ss.PredictorCorrector(sde, steps=100)
    >>> x = sampler.sample(ss.classifier_free(class_a, any_class, 1.0), shape=(2000, 1))
    >>> bool((x.mean() - 2).abs() < 0.05)
    True
    """
    return _ClassifierFree(conditional, unconditional, weight, batched)


def _inside(score: Score, x: Tensor, label: Condition | None) -> tuple[Score, Condition | None]:
    """What a score calls, and the labels of all samples: those that are bound, or ``label``."""
    if not isinstance(score, _Conditioned):
        return score, label
    return score.score, _rows(score.labels[0], len(x), x.device)


def _rows(one: Condition, samples: int, device: torch.device | None = None) -> Condition:
    """One condition without a batch, for each of so many samples."""
    rows: Condition = each_tensor(
        lambda part: part.to(device).expand(samples, *part.shape) if is_tensor(part) else part, one
    )
    return rows


class _Conditioned(GuidedScore):
    def __init__(self, score: Score, label: object) -> None:
        super().__init__([score])
        if not isinstance(label, bool) and isinstance(label, Integral):
            label = torch.tensor(int(label), dtype=torch.int64, device="cpu")
        if not isinstance(label, Tensor | Mapping):
            got = f"{label!r:.200}; labels that differ between samples go to sample(..., label=)"
            expected = "an integer, or one condition (*C) without a batch, for all samples"
            checks.refuse(expected, got, IncompatibleError)
        self.score, self.labels = score, (label,)
        require_labels(_rows(label, 1), 1)
        require_label(score, _rows(label, 1))

    def extra_repr(self) -> str:
        shown = each_tensor(lambda part: part.tolist() if part.ndim == 0 else "…", self.labels[0])
        return f"label={shown}"

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.score(x, t, _rows(self.labels[0], len(x), x.device))

    @property
    def has_variance(self) -> bool:
        return knows_variance(self.score)

    def with_variance(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return with_variance(self.score, x, t, _rows(self.labels[0], len(x), x.device))


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
        A part of a condition is no tensor that a score takes, such as a number that is no integer.
    """
    return _Conditioned(score, label)
