r"""Guidance: score in, score out.

Bayes' rule on the marginals, :math:`p_t(x | y) \propto p_t(x)\, p_t(y | x)`, is a sum of scores,

.. math:: \nabla_x \log p_t(x | y) = \nabla_x \log p_t(x) + \nabla_x \log p_t(y | x)

(Song et al. 2021, arXiv:2011.13456, eq. 14; Dhariwal & Nichol 2021, arXiv:2105.05233,
section 4.1), so a classifier on noisy states turns an unconditional score into a conditional
one. Without a classifier, two scores are mixed (Ho & Salimans 2022, arXiv:2207.12598, eq. 6,
whose w is ω − 1):

.. math:: s_\omega = \omega\, s(x | y) + (1 - \omega)\, s(x) .

ω = 1 is the conditional score and ω = 0 the unconditional one. Beyond 1 the result is sharper,
and it is the score of no diffused density: a sampler then draws from no law that is known.

Every guided score is a module that holds its parts, so a sampler finds their parameters, device,
dtype and SDE, and puts them in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sdescore.errors import IncompatibleError, ShapeError
from sdescore.score.under import require_times
from sdescore.sde.base import SDE, finite, require

__all__ = ["GuidedScore", "classifier_free", "classifier_guidance", "condition"]

AnyScore = Callable[..., Tensor]
"""``score(x, t)`` or ``score(x, t, label)``, like ``x``."""


class GuidedScore(nn.Module):
    """A score made of others; call it as ``score(x, t)`` or ``score(x, t, label)``.

    Attributes
    ----------
    sde : SDE
        That of the parts; absent where none has one.

    Raises
    ------
    IncompatibleError
        A part is not callable, or two parts belong to different SDEs.
    """

    sde: SDE

    def __init__(self, parts: Sequence[AnyScore]) -> None:
        super().__init__()
        for part in parts:
            if isinstance(part, type) or not callable(part):
                raise IncompatibleError(f"expected a callable score, got {part!r:.200}")
        sdes = [part.sde for part in parts if hasattr(part, "sde")]
        if any(sde != sdes[0] for sde in sdes):
            raise IncompatibleError(
                f"expected scores on one SDE, got {sdes[0]!r:.200} and {sdes[-1]!r:.200}"
            )
        if sdes:
            self.sde = sdes[0]
        self._parts = tuple(parts)  # a tuple registers no module twice

    def require_times(self, t: Tensor) -> None:
        """Refuse times ``(n,)`` that a part does not cover; a sampler asks before it starts.

        Raises
        ------
        TimeError
            See above.
        """
        for part in self._parts:
            require_times(part, t)


class _ClassifierFree(GuidedScore):
    def __init__(self, conditional: AnyScore, unconditional: AnyScore, weight: float) -> None:
        super().__init__([conditional, unconditional])
        require(finite(weight), "a finite guidance weight", f"weight={weight!r}")
        self.conditional, self.unconditional = conditional, unconditional
        self.weight = float(weight)

    def extra_repr(self) -> str:
        return f"weight={self.weight}"

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        given = call(self.conditional, x, t, label)
        return self.weight * given + (1 - self.weight) * self.unconditional(x, t)


class _ClassifierGuidance(GuidedScore):
    def __init__(self, score: AnyScore, log_prob_y: AnyScore, scale: float) -> None:
        super().__init__([score, log_prob_y])
        require(finite(scale), "a finite guidance scale", f"scale={scale!r}")
        self.score, self.log_prob_y, self.scale = score, log_prob_y, float(scale)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return self.score(x, t) + self.scale * self._gradient(x, t, label).to(x.dtype)

    def _gradient(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """``∇ₓ log p(y | x_t)``, like ``x``; differentiable in turn where ``x`` asks for it."""
        outer = torch.is_grad_enabled() and x.requires_grad
        # A sampler runs without gradients; tensors of inference mode cannot enter autograd.
        with torch.inference_mode(False), torch.enable_grad():
            y = x if outer else x.clone().detach().requires_grad_()
            given = None if label is None else label.clone()
            log_prob = call(self.log_prob_y, y, torch.as_tensor(t).clone(), given)
            if not isinstance(log_prob, Tensor) or log_prob.shape != x.shape[:1]:
                got = tuple(log_prob.shape) if isinstance(log_prob, Tensor) else type(log_prob)
                raise ShapeError(
                    f"expected log_prob_y(x, t) of shape ({x.shape[0]},), one log probability "
                    f"per sample, got {got}"
                )
            gradient = None
            if log_prob.requires_grad:
                (gradient,) = torch.autograd.grad(
                    log_prob.sum(), y, create_graph=outer, allow_unused=True
                )
        if gradient is None:
            raise IncompatibleError(
                "expected log_prob_y to be differentiable in x, got a result that does not "
                "depend on x; compute it with torch, without detach() or no_grad()"
            )
        return gradient


class _Conditioned(GuidedScore):
    def __init__(self, score: AnyScore, label: int) -> None:
        super().__init__([score])
        if isinstance(label, bool) or not isinstance(label, int):
            raise IncompatibleError(
                f"expected an integer label for all samples, got {label!r:.200}; labels that "
                "differ between samples go to sample(..., label=)"
            )
        self.score, self.label = score, label

    def extra_repr(self) -> str:
        return f"label={self.label}"

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        label = torch.full(x.shape[:1], self.label, dtype=torch.int64, device=x.device)
        return self.score(x, t, label)


def classifier_free(conditional: AnyScore, unconditional: AnyScore, weight: float) -> GuidedScore:
    r"""Classifier-free guidance, :math:`\omega\, s(x|y) + (1 - \omega)\, s(x)`.

    Ho & Salimans 2022, arXiv:2207.12598, eq. 6 with :math:`\omega = 1 + w`.

    Parameters
    ----------
    conditional : callable
        Called as ``(x, t, label)`` where a label is given, else as ``(x, t)``.
    unconditional : callable
        Called as ``(x, t)``. One network that was trained with dropped labels is both:
        ``classifier_free(model, model, 3.0)`` with ``sample(..., label=labels)``; where its
        null class has a number of its own, ``condition(model, number)``.
    weight : float
        ω, finite.

    Raises
    ------
    IncompatibleError
        Scores that are not callable or belong to different SDEs.
    ScheduleError
        A weight that is not finite.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> given, any_ = ss.GaussianScore([2.0], 0.1, sde), ss.GaussianScore([0.0], 1.0, sde)
    >>> sampler = ss.PredictorCorrector(sde, steps=100)
    >>> x = sampler.sample(ss.classifier_free(given, any_, 1.0), shape=(2000, 1))
    >>> bool((x.mean() - 2).abs() < 0.05)
    True
    """
    return _ClassifierFree(conditional, unconditional, weight)


def classifier_guidance(score: AnyScore, log_prob_y: AnyScore, scale: float = 1.0) -> GuidedScore:
    r"""Classifier guidance, :math:`s(x) + \text{scale} \cdot \nabla_x \log p_t(y | x)`.

    Song et al. 2021, arXiv:2011.13456, eq. 14; the scale is that of Dhariwal & Nichol 2021,
    arXiv:2105.05233, algorithm 1. With scale 1 and a classifier of the *noisy* state the result
    is the exact conditional score.

    Parameters
    ----------
    score : callable
        ``(x, t)``; for a conditional one bind its label with :func:`condition`.
    log_prob_y : callable
        ``(x, t) -> (B,)``, or ``(x, t, label) -> (B,)`` where a sampler is given labels: the
        log probability of what is conditioned on, up to a constant, given ``x = x_t``. Each
        sample on its own; differentiated by autograd, also under ``no_grad``.
    scale : float
        Finite.

    Raises
    ------
    IncompatibleError
        Parts that are not callable or belong to different SDEs; when called, a ``log_prob_y``
        without a gradient.
    ScheduleError
        A scale that is not finite.
    ShapeError
        When called: ``log_prob_y`` is not ``(B,)``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.GaussianScore([0.0], 1.0, ss.VPSDE())
    >>> guided = ss.classifier_guidance(score, lambda x, t: 3 * x[:, 0], scale=2.0)
    >>> guided(torch.ones(1, 1), torch.tensor(0.5))
    tensor([[5.]])
    """
    return _ClassifierGuidance(score, log_prob_y, scale)


def condition(score: AnyScore, label: int) -> GuidedScore:
    """``score(x, t, label)`` with one integer label for all samples, as a score ``(x, t)``.

    Raises
    ------
    IncompatibleError
        The score is not callable, or the label no integer.
    """
    return _Conditioned(score, label)


def call(score: AnyScore, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
    """``score(x, t, label)``, or ``score(x, t)`` without a label."""
    return score(x, t) if label is None else score(x, t, label)
