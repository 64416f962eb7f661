r"""Weighted sums of two scores: classifier-free guidance, and guidance by a weaker score.

``rescale`` is that of Lin et al. 2023, arXiv:2305.08891, section 3.4. The guided prediction of v is
brought towards the standard deviation that the conditional one has over a sample's elements,

.. math:: v \leftarrow \bigl[\varphi\, \mathrm{std}(v_1)/\mathrm{std}(v) + 1 - \varphi\bigr]\, v,
   \qquad v \propto x + (\alpha^2 + \sigma^2)\, s .

It is the v of the variance-preserving process with the same noise-to-signal ratio, so that the
result is the same on every SDE.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdescore import checks
from sdescore.conditions import alike, each_tensor, joined
from sdescore.guidance.base import GuidedScore, call, log_density
from sdescore.guidance.condition import LabelPart, inside, rows_of
from sdescore.guidance.weight import Omega, Weight, guided_rows
from sdescore.score.interface import knows_density, null_condition_of, require_label
from sdescore.score.variance import knows_variance, with_variance
from sdescore.shapes import align, flat
from sdescore.typing import Condition, Score, Time
from sdescore.wrappers import unwrapped

__all__ = ["autoguidance", "classifier_free"]


class _TwoScores(GuidedScore):
    """``s₁ + w (s₁ − s₀)``; ``shared`` says that both take the label."""

    def __init__(
        self,
        conditional: Score,
        unconditional: Score,
        omega: Omega | None,
        w: Omega | None,
        interval: Sequence[float] | None,
        rescale: float,
        batched: bool,
        shared: bool,
    ) -> None:
        super().__init__([conditional, unconditional])
        self.shared = shared or isinstance(unconditional, LabelPart)
        if not self.shared:
            require_label(unconditional, None)
        self.conditional, self.unconditional = conditional, unconditional
        self.weight = Weight.of(omega, w, interval, getattr(self, "sde", None))
        self.rescale = checks.number("rescale", rescale, at_least=0, at_most=1)
        if self.rescale:
            checks.linear(getattr(self, "sde", None), "rescale", "pass scores with an SDE")
        self.batched = checks.flag("batched", batched)

    def extra_repr(self) -> str:
        weight = f"{self.weight.name}={checks.part_name(self.weight.value)}"
        shown = {"interval": self.weight.interval, "rescale": self.rescale or None}
        options = [f"{name}={value}" for name, value in shown.items() if value is not None]
        return ", ".join([weight, *options, f"batched={self.batched}"])

    def forward(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        w = self.weight.at(x, t, label)
        own, other = self._labels(label)
        rows = guided_rows(w)
        if rows is None:
            return call(self.conditional, x, t, own)
        one, zero = self._in_one_call(x, t, own, other, rows) or (
            call(self.conditional, x, t, own).clone(),  # the other may fill the same memory
            call(self.unconditional, *_chosen(rows, x, t, other)),
        )
        return self._mixed(one, zero, w, rows, x, t)

    def _labels(self, label: Condition | None) -> tuple[Condition | None, Condition | None]:
        """What either score takes of the label."""
        own = self.weight.rest_of(label)
        return own, own if self.shared else None

    def _mixed(
        self,
        one: Tensor,
        zero: Tensor,
        w: float | Tensor,
        rows: Tensor | slice,
        x: Tensor,
        t: Time,
    ) -> Tensor:
        """The guided score of both; ``zero`` is there for some ``rows`` alone."""
        change = one[rows] - zero
        if isinstance(rows, Tensor):
            change = torch.zeros_like(one).index_copy(0, rows, change)
        score = one + (align(w, x) if isinstance(w, Tensor) else w) * change
        if not self.rescale or x[0:1].numel() < 2:
            return score
        alpha_t, sigma_t = (align(v.to(x), x) for v in self.sde.marginal(t))  # type: ignore[attr-defined]
        square = alpha_t.square() + sigma_t.square()
        wanted, v = x + square * one, x + square * score
        ratio = _std(wanted) / _std(v)
        factor = 1 + self.rescale * (torch.where(ratio.isfinite(), ratio, 1.0) - 1)
        return (align(factor, v) * v - x) / square

    def _in_one_call(
        self,
        x: Tensor,
        t: Time,
        own: Condition | None,
        other: Condition | None,
        rows: Tensor | slice,
    ) -> tuple[Tensor, Tensor] | None:
        """Both scores from one call on a larger batch, or None where they need two calls."""
        score, label = inside(self.conditional, x, own)
        second, time, other = _chosen(rows, x, t, other)
        same, null = inside(self.unconditional, second, other)
        if not self.batched or score is not same or label is None:
            return None
        if null is None:
            null = null_condition_of(getattr(unwrapped(score), "net", None))
            null = None if null is None else rows_of(null, len(second), x.device)
        if null is None or not alike(label, null):
            return None
        times = torch.cat([t, time]) if isinstance(t, Tensor) and t.ndim else t  # type: ignore[list-item]
        both = score(torch.cat([x, second]), times, joined(label, null))
        return both[: len(x)], both[len(x) :]

    @property
    def has_log_density(self) -> bool:
        return not self.rescale and all(map(knows_density, self._parts))

    def log_density(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        """``(1 + w) log p₁ − w log p₀``, ``(B,)``, up to a constant."""
        own, other = self._labels(label)
        one = log_density(self.conditional, x, t, own)
        zero = log_density(self.unconditional, x, t, other)
        w = self.weight.at(x, t, label)
        return one + (w.to(one) if isinstance(w, Tensor) else w) * (one - zero)

    @property
    def has_variance(self) -> bool:
        return knows_variance(self.conditional)

    def with_variance(
        self, x: Tensor, t: Time, label: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """The guided score by two calls, and the variance of the conditional one."""
        own, other = self._labels(label)
        one, v = with_variance(self.conditional, x, t, own)
        w = self.weight.at(x, t, label)
        return self._mixed(one, call(self.unconditional, x, t, other), w, slice(None), x, t), v

    def require_times(self, t: Tensor) -> None:
        super().require_times(t)
        self.weight.require_times(t)

    def require_label(self, label: object) -> None:
        self.weight.require_label(label)
        own, other = self._labels(label)  # type: ignore[arg-type]
        require_label(self.conditional, own)
        require_label(self.unconditional, other)


def classifier_free(
    conditional: Score,
    unconditional: Score,
    omega: Omega | None = None,
    *,
    w: Omega | None = None,
    interval: Sequence[float] | None = None,
    rescale: float = 0.0,
    batched: bool = True,
) -> GuidedScore:
    r"""Classifier-free guidance, :math:`\omega\, s(x|y) + (1 - \omega)\, s(x)`.

    Ho & Salimans 2022, arXiv:2207.12598, eq. 6, whose w is ω − 1. If both scores come from one
    model, it is called once, on a batch of twice the size.

    Parameters
    ----------
    conditional : callable
        Called as ``(x, t, label)`` where a label is given, else as ``(x, t)``.
    unconditional : callable
        Called as ``(x, t)``. One network that was trained with dropped labels is both:
        ``classifier_free(model, model, 3.0)`` with ``sample(..., label=labels)``. Where its null
        class has a number of its own, pass ``condition(model, number)``, and for a negative
        condition of each sample :func:`label_part(model, name) <sdescore.guidance.label_part>`.
    omega, w : float, dict, callable or str
        The weight by either name, ω = w + 1. ω = 1 gives the conditional score and ω = 0 the
        unconditional one. It is one finite number; or weights at noise levels σ/α,
        ``{0.1: 1.0, 10.0: 3.0}``, linear in log(σ/α) between them and constant beyond; or a
        function from times, ``()`` or ``(B,)`` float64, to as many weights, or to one. For a weight
        of each sample it is the name of the part of ``label`` that has them, ``(B,)``. The scores
        do not get that part.
    interval : (float, float), optional
        Noise levels, ``low < σ/α <= high``, outside which the weight is ω = 1 (Kynkäänniemi et al.
        2024, arXiv:2404.07724). Where ω is 1, the unconditional score is not called.
    rescale : float
        φ in [0, 1], 0.7 in the paper: how far the standard deviation of the guided v is moved
        towards that of the conditional v (Lin et al. 2023, arXiv:2305.08891, section 3.4;
        :mod:`sdescore.guidance.classifier_free`).
    batched : bool
        False calls the model twice on a batch of the usual size, which takes less memory. Two calls
        are also made if the scores are two objects, or if "no label" cannot be an entry of the
        tensor of labels. This happens if the network declares neither ``null_condition`` nor
        ``config["classes"]``, so that only a call without a label means "no label", or if the
        number passed to ``condition`` stands for a condition of another shape.

    Returns
    -------
    GuidedScore
        It has a ``log_density`` where both scores have one and ``rescale`` is 0.

    Raises
    ------
    IncompatibleError
        The scores are not callable or belong to different SDEs; the network of the unconditional
        model was never trained without a label; or an option needs an SDE and the scores have none.
    ParameterError
        Neither or both of ``omega`` and ``w`` are passed; a weight is not finite, or below ω = 0
        or w = −1; or ``interval``, ``rescale`` or ``batched`` is out of range.
    ShapeError
        The weight is a tensor or a sequence, and not the name of a part of ``label``. When called,
        a function of time returns another number of weights.

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
    return _TwoScores(conditional, unconditional, omega, w, interval, rescale, batched, False)


def autoguidance(
    score: Score,
    weaker: Score,
    omega: Omega | None = None,
    *,
    w: Omega | None = None,
    interval: Sequence[float] | None = None,
    rescale: float = 0.0,
    batched: bool = True,
) -> GuidedScore:
    r"""Guidance by a weaker score of the same data, :math:`\omega\, s + (1 - \omega)\, s_{weaker}`.

    Karras et al. 2024, arXiv:2406.02507: the errors of the weaker score show in which direction
    to correct the better one. Both take the label.

    Parameters
    ----------
    score, weaker : callable
        ``(x, t)`` or ``(x, t, label)``. In the paper the weaker one is a smaller network, or one
        that was trained for a shorter time. :func:`sdescore.guidance.perturbed` makes one of the
        network itself.
    omega, w, interval, rescale, batched
        As in :func:`sdescore.classifier_free`, as are the result and the errors.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> good, blurred = ss.GaussianScore([0.0], 1.0, sde), ss.GaussianScore([0.0], 1.5, sde)
    >>> score = ss.guidance.autoguidance(good, blurred, 2.0, interval=(0.0, 5.0))
    >>> bool(score(torch.ones(1, 1), 0.1) < good(torch.ones(1, 1), 0.1))
    True
    """
    return _TwoScores(score, weaker, omega, w, interval, rescale, batched, True)


def _chosen(
    rows: Tensor | slice, x: Tensor, t: Time, label: Condition | None
) -> tuple[Tensor, Time, Condition | None]:
    """The arguments of a score for some samples alone."""
    time = t[rows] if isinstance(t, Tensor) and t.ndim else t
    return x[rows], time, each_tensor(lambda part: part[rows], label)


def _std(v: Tensor) -> Tensor:
    return flat(v).std(1, correction=0)
