"""Classifier guidance: a score and the gradient of a classifier."""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore import checks
from sdescore.conditions import each_tensor
from sdescore.guidance.base import GuidedScore, call, log_density
from sdescore.guidance.condition import LabelPart
from sdescore.score.divergence import gradient
from sdescore.score.interface import knows_density, require_label, require_scalars
from sdescore.typing import Condition, Score, Time

__all__ = ["classifier_guidance"]


class _ClassifierGuidance(GuidedScore):
    def __init__(self, score: Score, log_prob_y: Score, scale: float) -> None:
        super().__init__([score, log_prob_y])
        self.labelled = isinstance(score, LabelPart)
        if not self.labelled:
            require_label(score, None)
        self.score, self.log_prob_y = score, log_prob_y
        self.scale = checks.number("scale", scale, at_least=0)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"

    def require_label(self, label: object) -> None:
        require_label(self.score, label if self.labelled else None)
        require_label(self.log_prob_y, label)

    def forward(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        score = call(self.score, x, t, label if self.labelled else None)
        return score + self.scale * self._gradient(x, t, label).to(x.dtype)

    @property
    def has_log_density(self) -> bool:
        return knows_density(self.score)

    def log_density(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        """``log p(x) + scale · log p(y | x)``, ``(B,)``, up to a constant."""
        own = log_density(self.score, x, t, label if self.labelled else None)
        return own + self.scale * self._log_prob(x, t, label)

    def _log_prob(self, x: Tensor, t: Time, label: Condition | None) -> Tensor:
        value = call(self.log_prob_y, x, t, label)
        require_scalars(value, x, "log_prob_y(x, t)")
        return value

    def _gradient(self, x: Tensor, t: Time, label: Condition | None) -> Tensor:
        """``∇ₓ log p(y | x_t)``, like ``x``; differentiable in turn where ``x`` asks for it."""
        with torch.inference_mode(False):  # whose tensors cannot enter autograd; copies can
            y = x.clone() if x.is_inference() else x
            time = t if isinstance(t, Tensor) else torch.tensor(t, dtype=x.dtype, device=x.device)
            time = time.clone()
            own_label = each_tensor(torch.clone, label)
            return gradient(lambda y: self._log_prob(y, time, own_label), y, "log_prob_y")


def classifier_guidance(score: Score, log_prob_y: Score, scale: float = 1.0) -> GuidedScore:
    r"""Classifier guidance, :math:`s(x) + \text{scale} \cdot \nabla_x \log p_t(y | x)`.

    Song et al. 2021, arXiv:2011.13456, eq. 14; the scale is that of Dhariwal & Nichol 2021,
    arXiv:2105.05233, algorithm 1. With scale 1 and a classifier of the *noisy* state the result
    is the exact conditional score.

    Parameters
    ----------
    score : callable
        ``(x, t)``. Give a conditional score its label by :func:`sdescore.guidance.condition` (one
        label for all samples) or :func:`sdescore.guidance.label_part` (a part of ``label``).
    log_prob_y : callable
        ``(x, t) -> (B,)``, or ``(x, t, label) -> (B,)`` where a sampler is given labels: the log
        probability of what is conditioned on, up to a constant, given ``x = x_t``. It treats each
        sample on its own. Autograd differentiates it, also under ``no_grad``.
    scale : float
        The factor on the classifier's gradient; finite and >= 0.

    Raises
    ------
    IncompatibleError
        A part is not callable, or the parts belong to different SDEs. When called, ``log_prob_y``
        has no gradient.
    ParameterError
        ``scale`` is not finite and >= 0.
    ShapeError
        When called, the value of ``log_prob_y`` is not ``(B,)``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> score = ss.GaussianScore([0.0], 1.0, ss.VPSDE())
    >>> guided = ss.classifier_guidance(score, lambda x, t: 3 * x[:, 0], scale=2.0)
    >>> guided(torch.ones(1, 1), torch.tensor(0.5))
    tensor([[5.]])
    """
    return _ClassifierGuidance(score, log_prob_y, scale)
