r"""Implicit score matching: the Fisher divergence without the data's score.

.. math::
   J_{ISM}(\theta) = E_p \bigl[ \tfrac12 \|s_\theta\|^2 + \operatorname{tr} \nabla s_\theta \bigr]
   = J_{ESM}(\theta) - \tfrac12 E_p \|\nabla \log p\|^2

(Hyvärinen 2005, JMLR 6, theorem 1), for a p with a differentiable density and
:math:`p\, s_\theta \to 0` at infinity. The score's derivative must exist as well: a network of
ReLUs has one that is constant between its kinks and an energy of them a second one that is 0, and
the objective does not see the kinks. Use smooth activations.

The trace is taken exactly, at the price of d derivatives, or by Hutchinson's probes
(:mod:`sdescore.score.divergence`), which is sliced score matching with reduced variance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore.errors import IncompatibleError
from sdescore.losses.given import (
    AnyScore,
    check_law,
    check_probes,
    check_request,
    draw_probes,
    evaluate,
    weighted,
    with_gradients,
)
from sdescore.losses.loss import Loss
from sdescore.score.divergence import check_chunk_size, exact_trace, probe_traces
from sdescore.shapes import sum_event
from sdescore.typing import Time

__all__ = ["implicit_loss"]

TRACES = ("exact", "hutchinson")


def implicit_loss(
    score: AnyScore,
    x: Tensor,
    *,
    t: Time | None = None,
    trace: str = "exact",
    probes: int | Tensor = 1,
    probe_law: str = "rademacher",
    chunk_size: int | None = None,
    weight: float | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Loss:
    r"""``½ ‖s(x)‖² + tr ∇s(x)``.

    Parameters
    ----------
    score : callable
        ``score(x)``, or ``score(x, t)`` with ``(B,)`` times where ``t`` is given; differentiable in
        ``x``, each sample by itself (no batch normalisation in training mode). A network or an
        energy's gradient.
    x : Tensor
        ``(B, *E)``, B >= 1; samples of p. No gradient flows into them.
    t : float or Tensor, optional
        ``()`` or ``(B,)``.
    trace : {"exact", "hutchinson"}
        d derivatives of the score, or one per probe.
    probes : int or Tensor
        K >= 1, for ``"hutchinson"``; or the probes themselves, ``(K, B, *E)``.
    probe_law : {"rademacher", "gaussian", "sphere"}
        Rademacher's variance is the least of the three for a Jacobian near diagonal.
    chunk_size : int, optional
        Derivatives taken at a time, see :func:`sdescore.score.divergence.exact_trace`.
    weight : float or Tensor, optional
        ``()`` or ``(B,)``, >= 0: a factor of each sample's loss.
    generator : torch.Generator, optional
        Draws the probes; the global generator by default.

    Returns
    -------
    Loss
        ``(per_sample, mean)``; without gradients where autograd is switched off.

    Raises
    ------
    IncompatibleError
        An unknown option, probes beside an exact trace, or a score that autograd cannot
        differentiate in ``x``.
    ShapeError, TimeError, ScheduleError
        A bad argument, or a score that is not like ``x``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> from sdescore.losses.implicit import implicit_loss
    >>> implicit_loss(lambda x: -x, torch.ones(4, 2)).mean.item()  # ½·2 − 2
    -1.0
    """
    if trace not in TRACES:
        raise IncompatibleError(f"expected trace among {', '.join(TRACES)}; got {trace!r}")
    if trace == "exact" and (isinstance(probes, Tensor) or probes != 1):
        raise IncompatibleError('expected no probes for trace="exact"; use trace="hutchinson"')
    with with_gradients() as differentiable:
        given = check_request(score, x, t, weight, generator)
        check_probes(probes, x)
        check_law(probe_law)
        check_chunk_size(chunk_size)
        state = given.x.clone().requires_grad_()
        s = evaluate(score, given, state)
        if trace == "exact":
            tr = exact_trace(s, state, chunk_size=chunk_size, create_graph=differentiable)
        else:
            v = draw_probes(probes, probe_law, x, generator)
            estimates = probe_traces(
                s, state, v, chunk_size=chunk_size, create_graph=differentiable
            )
            tr = estimates.mean(1)
        working = torch.promote_types(x.dtype, torch.float32)
        per_sample = 0.5 * sum_event(s.to(working).square()) + tr
        return weighted(per_sample if differentiable else per_sample.detach(), given)
