r"""Implicit and sliced score matching: the Fisher divergence without the data's score.

.. math::
   J_{ISM}(\theta) = E_p \bigl[ \tfrac12 \|s_\theta\|^2 + \operatorname{tr} \nabla s_\theta \bigr]
   = J_{ESM}(\theta) - \tfrac12 E_p \|\nabla \log p\|^2

(Hyvärinen 2005, JMLR 6, theorem 1), for a p with a differentiable density and
:math:`p\, s_\theta \to 0` at infinity. The score's derivative must exist as well. With ReLUs it is
constant between kinks for a network and 0 for an energy, and the objective does not see the kinks.
Use smooth activations.

The trace is taken exactly, at the price of d derivatives, or by Hutchinson's probes
(:mod:`sdescore.score.divergence`). Sliced score matching takes the whole loss along random
directions,

.. math::
   J_{SSM}(\theta) = E_p\, E_v \bigl[ v^\top \nabla s_\theta\, v
   + \tfrac12 (v^\top s_\theta)^2 \bigr], \qquad E[v v^\top] = I

(Song et al. 2019, arXiv:1905.07088, eq. 8), one derivative per probe. Because
:math:`E_v \tfrac12 (v^\top s)^2 = \tfrac12 \|s\|^2`, the expectation is :math:`J_{ISM}`. The
paper's reduced variance (SSM-VR) puts the right side in place of the left. That *is* implicit score
matching with Hutchinson's trace.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.losses.loss import Loss
from sdescore.losses.matching import check_probes, draw_probes, matching, with_gradients
from sdescore.losses.weighting import Weighting
from sdescore.score.divergence import exact_trace, probe_traces
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import sum_event
from sdescore.typing import Condition, Time

__all__ = ["implicit_loss", "sliced_loss"]


def implicit_loss(
    model: Callable[..., Tensor],
    x0: Tensor,
    *,
    t: Time | None = None,
    weighting: str | Weighting = "sigma2",
    weight: float | Tensor | None = None,
    label: Condition | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    sde: LinearSDE | None = None,
    trace: str = "exact",
    probes: int | Tensor = 1,
    probe_distribution: str = "rademacher",
    chunk_size: int | None = None,
) -> Loss:
    r"""``½ ‖s(x)‖² + tr ∇s(x)``, at the data or at the data noised to ``t``.

    The loss has no gradients where autograd is switched off.

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
    weighting, weight, label, noise, sde
        As in :func:`sdescore.denoising_loss`; without ``t`` there is only ``weight``.
    generator : torch.Generator, optional
        Draws the noise, then the probes; the global generator by default.
    trace : {"exact", "hutchinson"}
        The exact trace costs d derivatives of the score, Hutchinson's one per probe.
    probes : int or Tensor
        K >= 1, for ``"hutchinson"``; or the probes themselves, ``(K, B, *E)``.
    probe_distribution : {"rademacher", "gaussian", "sphere"}
        Rademacher's variance is the least of the three for a Jacobian near diagonal.
    chunk_size : int, optional
        Derivatives taken at a time, see :func:`sdescore.score.divergence.exact_trace`.

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
    >>> ss.losses.implicit_loss(lambda x: -x, torch.ones(4, 2)).mean.item()  # ½·2 − 2
    -1.0
    """
    checks.choice("trace", trace, ("exact", "hutchinson"))
    if trace == "exact" and (isinstance(probes, Tensor) or probes != 1):
        got = f'{probes!r:.100}; use trace="hutchinson"'
        checks.refuse('no probes for trace="exact"', got, IncompatibleError)
    with with_gradients() as differentiable:
        score, x, factor = matching(model, x0, t, weighting, weight, label, noise, generator, sde)
        check_probes(probes, probe_distribution, x, chunk_size)
        x = x.clone().requires_grad_()
        s = score(x)
        if trace == "exact":
            divergence = exact_trace(s, x, chunk_size=chunk_size, create_graph=differentiable)
        else:
            v = draw_probes(probes, probe_distribution, x, generator)
            traces = probe_traces(s, x, v, chunk_size=chunk_size, create_graph=differentiable)
            divergence = traces.mean(1)
        working = torch.promote_types(x.dtype, torch.float32)
        terms = 0.5 * sum_event(s.to(working).square()) + divergence
        return Loss.of(terms if differentiable else terms.detach()).weighted(factor)


def sliced_loss(
    model: Callable[..., Tensor],
    x0: Tensor,
    *,
    t: Time | None = None,
    weighting: str | Weighting = "sigma2",
    weight: float | Tensor | None = None,
    label: Condition | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    sde: LinearSDE | None = None,
    probes: int | Tensor = 1,
    probe_distribution: str = "gaussian",
    reduced_variance: bool = False,
    chunk_size: int | None = None,
) -> Loss:
    r"""``vᵀ∇s v + ½ (vᵀs)²``, averaged over the probes.

    Parameters
    ----------
    model, x0, t, weighting, weight, label, noise, generator, sde, chunk_size
        As in :func:`sdescore.losses.implicit_loss`.
    probes : int or Tensor
        K >= 1 directions per sample; or the directions themselves, ``(K, B, *E)``.
    probe_distribution : {"gaussian", "rademacher", "sphere"}
        All have E vvᵀ = I; ``"sphere"`` is uniform on the sphere of radius √d.
    reduced_variance : bool
        ``½ ‖s‖²`` for ``½ (vᵀs)²``: :func:`sdescore.losses.implicit_loss` with Hutchinson's trace.

    Raises
    ------
    IncompatibleError, ShapeError, TimeError, ParameterError
        As :func:`sdescore.losses.implicit_loss`.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> x, v = torch.ones(4, 2), torch.tensor([1.0, -1.0]).expand(1, 4, 2)
    >>> ss.losses.sliced_loss(lambda x: -x, x, probes=v).mean.item()  # −2 + ½·0
    -2.0
    """
    if checks.flag("reduced_variance", reduced_variance):
        return implicit_loss(
            model,
            x0,
            t=t,
            weighting=weighting,
            weight=weight,
            label=label,
            noise=noise,
            generator=generator,
            sde=sde,
            trace="hutchinson",
            probes=probes,
            probe_distribution=probe_distribution,
            chunk_size=chunk_size,
        )
    with with_gradients() as differentiable:
        score, x, factor = matching(model, x0, t, weighting, weight, label, noise, generator, sde)
        check_probes(probes, probe_distribution, x, chunk_size)
        v = draw_probes(probes, probe_distribution, x, generator)
        x = x.clone().requires_grad_()
        s = score(x)
        traces = probe_traces(s, x, v, chunk_size=chunk_size, create_graph=differentiable)
        working = torch.promote_types(x.dtype, torch.float32)
        along = torch.stack([sum_event(u * s.to(working)) for u in v], 1)
        terms = (traces + 0.5 * along.square()).mean(1)
        return Loss.of(terms if differentiable else terms.detach()).weighted(factor)
