"""Classifier-free guidance: two scores, mixed; and a conditional score at one label."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

import torch
from torch import Tensor, is_tensor

from sdescore import checks
from sdescore.conditions import each_tensor, require_labels
from sdescore.errors import IncompatibleError
from sdescore.guidance.base import GuidedScore, call
from sdescore.score.interface import require_label
from sdescore.typing import Condition, Score

__all__ = ["classifier_free", "condition"]


class _ClassifierFree(GuidedScore):
    def __init__(self, conditional: Score, unconditional: Score, weight: float) -> None:
        super().__init__([conditional, unconditional])
        require_label(unconditional, None)
        self.conditional, self.unconditional = conditional, unconditional
        self.weight = checks.number("weight", weight)

    def extra_repr(self) -> str:
        return f"weight={self.weight}"

    def forward(self, x: Tensor, t: Tensor, label: Condition | None = None) -> Tensor:
        conditional = call(self.conditional, x, t, label)
        return self.weight * conditional + (1 - self.weight) * self.unconditional(x, t)

    def require_label(self, label: object) -> None:
        require_label(self.conditional, label)


def classifier_free(conditional: Score, unconditional: Score, weight: float) -> GuidedScore:
    r"""Classifier-free guidance, :math:`\omega\, s(x|y) + (1 - \omega)\, s(x)`.

    Ho & Salimans 2022, arXiv:2207.12598, eq. 6 with :math:`\omega = 1 + w`.

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

    Raises
    ------
    IncompatibleError
        Scores that are not callable or belong to different SDEs; or an unconditional model whose
        network was never trained without a label.
    ParameterError
        A weight that is not finite.

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
    return _ClassifierFree(conditional, unconditional, weight)


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
        require_labels(self._rows(1), 1)
        require_label(score, self._rows(1))

    def extra_repr(self) -> str:
        shown = each_tensor(lambda part: part.tolist() if part.ndim == 0 else "…", self.labels[0])
        return f"label={shown}"

    def _rows(self, samples: int, device: torch.device | None = None) -> Condition:
        """The label of each sample."""
        rows: Condition = each_tensor(
            lambda part: part.to(device).expand(samples, *part.shape) if is_tensor(part) else part,
            self.labels[0],
        )
        return rows

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.score(x, t, self._rows(len(x), x.device))


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
