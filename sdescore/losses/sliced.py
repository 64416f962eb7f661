r"""Sliced score matching: the Fisher divergence along random directions.

.. math::
   J_{SSM}(\theta) = E_p\, E_v \bigl[ v^\top \nabla s_\theta\, v
   + \tfrac12 (v^\top s_\theta)^2 \bigr], \qquad E[v v^\top] = I

(Song et al. 2019, arXiv:1905.07088, eq. 8), one derivative per probe. As
:math:`E_v \tfrac12 (v^\top s)^2 = \tfrac12 \|s\|^2`, the expectation is implicit score
matching's; putting the right side in place of the left is the paper's reduced variance
(SSM-VR), and that *is* implicit score matching with Hutchinson's trace.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore import checks
from sdescore.losses.implicit import implicit_loss
from sdescore.losses.loss import Loss
from sdescore.losses.matching import matching, with_gradients
from sdescore.losses.probes import check_probes, draw_probes
from sdescore.losses.weighting import Weighting
from sdescore.score.divergence import check_chunk_size, probe_traces
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import sum_event
from sdescore.typing import Time

__all__ = ["sliced_loss"]


def sliced_loss(
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
    IncompatibleError
        An unknown option, or a score that autograd cannot differentiate in ``x``.
    ShapeError, TimeError, ParameterError
        A bad argument, or a score that is not like ``x0``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> from sdescore.losses.sliced import sliced_loss
    >>> x, v = torch.ones(4, 2), torch.tensor([1.0, -1.0]).expand(1, 4, 2)
    >>> sliced_loss(lambda x: -x, x, probes=v).mean.item()  # −2 + ½·0
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
        v = draw_probes(probes, probe_distribution, x, generator)
        x = x.clone().requires_grad_()
        s = score(x)
        traces = probe_traces(s, x, v, chunk_size=chunk_size, create_graph=differentiable)
        working = torch.promote_types(x.dtype, torch.float32)
        along = torch.stack([sum_event(u * s.to(working)) for u in v], 1)
        terms = (traces + 0.5 * along.square()).mean(1)
        return Loss.of(terms if differentiable else terms.detach()).weighted(factor)
