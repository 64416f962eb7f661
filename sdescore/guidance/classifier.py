"""Classifier guidance: a score and the gradient of a classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore.checks import finite, require
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.guidance.base import AnyScore, GuidedScore, call

__all__ = ["classifier_guidance"]


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


def classifier_guidance(score: AnyScore, log_prob_y: AnyScore, scale: float = 1.0) -> GuidedScore:
    r"""Classifier guidance, :math:`s(x) + \text{scale} \cdot \nabla_x \log p_t(y | x)`.

    Song et al. 2021, arXiv:2011.13456, eq. 14; the scale is that of Dhariwal & Nichol 2021,
    arXiv:2105.05233, algorithm 1. With scale 1 and a classifier of the *noisy* state the result
    is the exact conditional score.

    Parameters
    ----------
    score : callable
        ``(x, t)``; for a conditional one bind its label with :func:`sdescore.guidance.condition`.
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
