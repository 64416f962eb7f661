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

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.losses.loss import Loss
from sdescore.losses.matching import matching, with_gradients
from sdescore.losses.probes import check_probes, draw_probes
from sdescore.losses.weighting import Weighting
from sdescore.score.divergence import check_chunk_size, exact_trace, probe_traces
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import sum_event
from sdescore.typing import Time

__all__ = ["implicit_loss"]

TRACES = ("exact", "hutchinson")


def implicit_loss(
    model: Callable[..., Tensor],
    x0: Tensor,
    *,
    t: Time | None = None,
    weighting: str | Weighting = "sigma2",
    weight: float | Tensor | None = None,
    label: Tensor | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    sde: LinearSDE | None = None,
    trace: str = "exact",
    probes: int | Tensor = 1,
    probe_distribution: str = "rademacher",
    chunk_size: int | None = None,
) -> Loss:
    r"""``½ ‖s(x)‖² + tr ∇s(x)``, at the data or at the data noised to ``t``.

    Parameters
    ----------
    model : callable
        A score ``score(x)``; with ``t``, a :class:`sdescore.ScoreModel` or another ``score(x, t)``,
        called ``score(x, t, label)`` where a label is passed. It is differentiable in ``x``, each
        sample by itself (no batch normalisation in training mode).
    x0 : Tensor
        Clean data ``(B, *E)``, B >= 1, finite. No gradient flows into them.
    t : float or Tensor, optional
        ``()`` or ``(B,)``, with σ_t > 0. The data are noised to :math:`x_t = \alpha_t x_0 +
        \sigma_t \epsilon`, and the score of :math:`p_t` is matched. By default nothing is noised,
        and the score of the data is matched. For states that are noised already, match
        ``lambda x: score(x, t)``.
    weighting : str or callable
        w(t), as in :func:`sdescore.denoising_loss`; without ``t`` there is none.
    weight : float or Tensor, optional
        ``()`` or ``(B,)``, >= 0: a further factor of each sample's loss.
    label : Tensor, optional
        ``(B,)`` int64, handed to the model.
    noise : Tensor, optional
        ε itself, like ``x0``.
    generator : torch.Generator, optional
        Draws the noise, then the probes; the global generator by default.
    sde : LinearSDE, optional
        For a score of (x, t) that has no ``.sde`` of its own.
    trace : {"exact", "hutchinson"}
        d derivatives of the score, or one per probe.
    probes : int or Tensor
        K >= 1, for ``"hutchinson"``; or the probes themselves, ``(K, B, *E)``.
    probe_distribution : {"rademacher", "gaussian", "sphere"}
        Rademacher's variance is the least of the three for a Jacobian near diagonal.
    chunk_size : int, optional
        Derivatives taken at a time, see :func:`sdescore.score.divergence.exact_trace`.

    Returns
    -------
    Loss
        ``(per_sample, mean)``; without gradients where autograd is switched off.

    Raises
    ------
    IncompatibleError
        An unknown option, probes beside an exact trace, or a score that autograd cannot
        differentiate in ``x``.
    ShapeError, TimeError, ParameterError
        A bad argument, or a score that is not like ``x0``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> from sdescore.losses.implicit import implicit_loss
    >>> implicit_loss(lambda x: -x, torch.ones(4, 2)).mean.item()  # ½·2 − 2
    -1.0
    """
    checks.choice("trace", trace, TRACES)
    if trace == "exact" and (isinstance(probes, Tensor) or probes != 1):
        checks.refuse(
            'no probes for trace="exact"',
            f'{probes!r:.100}; use trace="hutchinson"',
            IncompatibleError,
        )
    with with_gradients() as differentiable:
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
        check_probes(probes, probe_distribution, x)
        check_chunk_size(chunk_size)
        x = x.clone().requires_grad_()
        s = score(x)
        if trace == "exact":
            divergence = exact_trace(s, x, chunk_size=chunk_size, create_graph=differentiable)
        else:
            v = draw_probes(probes, probe_distribution, x, generator)
            divergence = probe_traces(
                s, x, v, chunk_size=chunk_size, create_graph=differentiable
            ).mean(1)
        working = torch.promote_types(x.dtype, torch.float32)
        terms = 0.5 * sum_event(s.to(working).square()) + divergence
        return Loss.of(terms if differentiable else terms.detach()).weighted(factor)
