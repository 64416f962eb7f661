r"""Explicit score matching: the Fisher divergence itself, where the data's score is known.

.. math:: J_{ESM}(\theta) = \tfrac12\, E_p \|s_\theta(x) - \nabla \log p(x)\|^2

(Hyvärinen 2005, JMLR 6, section 2). The target is known for exact scores, and for a kernel density
estimate (:func:`sdescore.losses.kernel_density.kernel_density_score`), whose score Vincent 2011
(Neural Computation 23(7), section 4) puts in place of the data's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore import checks
from sdescore.losses.loss import Loss
from sdescore.losses.matching import matching
from sdescore.losses.weighting import Weighting
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import sum_event
from sdescore.typing import Time

__all__ = ["explicit_loss"]


def explicit_loss(
    model: Callable[..., Tensor],
    x0: Tensor,
    target: Tensor | Callable[..., Tensor],
    *,
    t: Time | None = None,
    weighting: str | Weighting = "sigma2",
    weight: float | Tensor | None = None,
    label: Tensor | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    sde: LinearSDE | None = None,
) -> Loss:
    r"""``½ ‖s(x) − target‖²``, summed over the event.

    Parameters
    ----------
    model, x0, t, weighting, weight, label, noise, generator, sde
        As in :func:`sdescore.losses.implicit_loss`.
    target : Tensor or callable
        The score to match. A tensor is like ``x0``, and the score at the noised data where ``t`` is
        passed. A function is called as the model is, with the state and the time if any, without
        labels and without gradients.

    Raises
    ------
    ShapeError, TimeError, ParameterError, IncompatibleError
        A bad argument, or a score or target that is not like ``x0``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> from sdescore.losses.explicit import explicit_loss
    >>> explicit_loss(lambda x: -x / 4, torch.ones(3, 2), lambda x: -x).mean.item()
    0.5625
    """
    if isinstance(target, Tensor):
        checks.same_shape(target, x0, "target", "x0")
    else:
        checks.function("target", target)
    score, x, factor = matching(
        model,
        x0,
        t,
        weighting=weighting,
        weight=weight,
        label=label,
        noise=noise,
        generator=generator,
        sde=sde,
    )
    if isinstance(target, Tensor):
        wanted = target.to(x.device)
    else:
        with torch.no_grad():
            wanted = checks.score_output(target(x.clone(), *score.arguments[:1]), x, "the target")
    working = torch.promote_types(x.dtype, torch.float32)
    error = score(x).to(working) - wanted.to(working)
    return Loss.of(0.5 * sum_event(error.square())).weighted(factor)
