r"""Explicit score matching: the Fisher divergence itself, where the data's score is known.

.. math:: J_{ESM}(\theta) = \tfrac12\, E_p \|s_\theta(x) - \nabla \log p(x)\|^2

(Hyvärinen 2005, JMLR 6, section 2). The target is known for exact scores, and for a kernel density
estimate (:func:`sdescore.losses.kernel_density.kernel_density_score`), whose score Vincent 2011
(Neural Computation 23(7), section 4) puts in place of the data's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore.checks import require_same_shape
from sdescore.losses.given import AnyScore, check_request, evaluate, weighted
from sdescore.losses.loss import Loss
from sdescore.shapes import sum_event
from sdescore.typing import Time

__all__ = ["explicit_loss"]


def explicit_loss(
    score: AnyScore,
    x: Tensor,
    target: Tensor | AnyScore,
    *,
    t: Time | None = None,
    weight: float | Tensor | None = None,
) -> Loss:
    r"""``½ ‖s(x) − target‖²``, summed over the event.

    Parameters
    ----------
    score : callable
        ``score(x)``, or ``score(x, t)`` with ``(B,)`` times where ``t`` is given.
    x : Tensor
        ``(B, *E)``, B >= 1.
    target : Tensor or callable
        The score to match: like ``x``, or called as ``score`` is, without gradients. None flow into
        ``x`` either.
    t : float or Tensor, optional
        ``()`` or ``(B,)``.
    weight : float or Tensor, optional
        ``()`` or ``(B,)``, >= 0: a factor of each sample's loss.

    Raises
    ------
    ShapeError, TimeError, ScheduleError, IncompatibleError
        A bad argument, or a score or target that is not like ``x``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> from sdescore.losses.explicit import explicit_loss
    >>> explicit_loss(lambda x: -x / 4, torch.ones(3, 2), lambda x: -x).mean.item()
    0.5625
    """
    given = check_request(score, x, t, weight)
    if isinstance(target, Tensor):
        require_same_shape(target, x, "target")
        wanted = target.to(x.device)
    else:
        asked = check_request(target, x, t, weight)
        with torch.no_grad():
            wanted = evaluate(target, asked, asked.x, "the target")
    s = evaluate(score, given, given.x)
    working = torch.promote_types(x.dtype, torch.float32)
    return weighted(0.5 * sum_event((s.to(working) - wanted.to(working)).square()), given)
