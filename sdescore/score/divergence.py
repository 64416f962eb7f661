r"""The divergence of a vector field by autograd, exact or from random probes; and gradients.

.. math:: \nabla \cdot s = \operatorname{tr} \nabla s
   = E[v^\top \nabla s\, v], \qquad E[v v^\top] = I

(Hutchinson 1990, "A stochastic estimator of the trace"; Grathwohl et al. 2019,
arXiv:1810.01367, eq. 7). With S the symmetric part of :math:`\nabla s`, a d × d matrix, one
probe's variance is

================  =============================================================================
kind of v         variance of :math:`v^\top \nabla s\, v`
================  =============================================================================
``"rademacher"``  :math:`2 \sum_{i \ne j} S_{ij}^2`
``"gaussian"``    :math:`2 \lVert S \rVert_F^2`
``"sphere"``      :math:`2d/(d + 2)\, \bigl(\lVert S \rVert_F^2 - (\operatorname{tr} S)^2/d\bigr)`
================  =============================================================================

Hutch++ (Meyer et al. 2021, arXiv:2010.09649, algorithm 1) takes the trace on a subspace exactly,
and estimates the rest: with an orthonormal basis Q ``(d, k)`` and :math:`P = I - QQ^\top`

.. math:: \operatorname{tr} \nabla s = \operatorname{tr} Q^\top \nabla s\, Q
   + E[v^\top \nabla s\, v], \qquad E[vv^\top] = P .

Q spans :math:`(\nabla s - \mu I)^\top w` of k random w, and so finds the largest singular values of
:math:`\nabla s - \mu I`. The estimate is unbiased for any Q that is found without v, so Q may be
another one at each state. Two things differ from the paper, whose μ is 0 and whose v are projected
probes. The score of data near a surface has an eigenvalue :math:`-1/\sigma^2` in most directions,
and the others are the ones to find: those of the posterior covariance,
:math:`\mu = -1/\sigma^2`. And v is brought to the length :math:`\sqrt{d - k}`, so that it is
uniform on a sphere in the space that Q leaves, and a multiple of I adds no variance.

Everything here takes an ``s`` that was computed from ``x`` with autograd on, each sample from its
own row. Cotangents are pulled back through that one graph, several at once under ``torch.vmap``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.shapes import without_autocast

PROBE_DISTRIBUTIONS = ("rademacher", "gaussian", "sphere")

# Rows and elements of the cotangents pulled back at a time. Measured on one core with perceptrons:
# below 2¹² rows and 2²¹ elements this is up to 6 times faster than one cotangent at a time, and
# slower beyond, where intermediate results leave the cache.
_CHUNK_ROWS, _CHUNK_NUMEL = 1 << 12, 1 << 19


def exact_trace(
    s: Tensor, x: Tensor, *, chunk_size: int | None = None, create_graph: bool = False
) -> Tensor:
    """``tr ∇s`` of every sample: ``(B,)`` in at least float32, from d derivatives.

    Parameters
    ----------
    s, x : Tensor
        ``(B, *E)``; ``s`` was computed from ``x``, which requires gradients.
    chunk_size : int, optional
        Derivatives taken at a time, >= 1; by default as many as stay in a cache. The result
        depends on it by rounding only. 1 does without ``torch.vmap``.
    create_graph : bool
        Whether the trace is to be differentiated again. Then the graphs of all d derivatives
        are kept, whatever the chunk size.
    """
    working = torch.promote_types(x.dtype, torch.float32)
    total = x.new_zeros(len(x), dtype=working)
    for start, rows in _rows(s, x, chunk_size, create_graph):
        own = rows[:, :, start : start + len(rows)]
        total = total + own.diagonal(dim1=0, dim2=2).to(working).sum(1)
    return total


def jacobian(s: Tensor, x: Tensor) -> Tensor:
    """``∇s`` of every sample, ``(B, d, d)`` over the flattened event, from d derivatives."""
    return torch.cat([rows for _, rows in _rows(s, x, None, False)]).transpose(0, 1)


def _rows(
    s: Tensor, x: Tensor, chunk_size: int | None, create_graph: bool
) -> Iterator[tuple[int, Tensor]]:
    """Some rows of ``∇s`` at a time, ``(n, B, d)``, and the number of the first one."""
    numel = math.prod(x.shape[1:])
    step = _step(x, numel, chunk_size)
    for start in range(0, numel, step):
        basis = x.new_zeros(min(step, numel - start), numel)
        basis.diagonal(start).fill_(1.0)
        directions = basis.reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape)
        yield start, pull_back(s, x, directions, create_graph).reshape(len(basis), len(x), numel)


def probe_traces(
    s: Tensor,
    x: Tensor,
    probes: Tensor,
    *,
    chunk_size: int | None = None,
    create_graph: bool = False,
) -> Tensor:
    """``vᵀ ∇s v``, ``(B, K)``, by probes ``(K, B, *E)``; options as in :func:`exact_trace`."""
    working = torch.promote_types(x.dtype, torch.float32)
    numel = math.prod(x.shape[1:])
    parts = []
    for v in torch.split(probes, _step(x, len(probes), chunk_size)):
        products = pull_back(s, x, v, create_graph).to(working) * v
        parts.append(products.reshape(len(v), len(x), numel).sum(2))
    return torch.cat(parts).T


def deflated_traces(
    s: Tensor,
    x: Tensor,
    sketch: Tensor,
    probes: Tensor,
    shift: float | Tensor = 0.0,
    *,
    chunk_size: int | None = None,
    create_graph: bool = False,
) -> Tensor:
    """Hutch++: an estimate of ``tr ∇s`` from each of the probes, ``(B, K)``, given one Q.

    ``sketch`` ``(k, B, *E)``, k < d, finds Q, ``probes`` ``(K, B, *E)`` are standard normal numbers
    and ``shift`` is μ, a number or what broadcasts over ``x``; 2 k + K derivatives. Options as in
    :func:`exact_trace`.
    """

    def derivatives(vectors: Tensor) -> Tensor:
        parts = torch.split(vectors, _step(x, len(vectors), chunk_size))
        return torch.cat([pull_back(s, x, v, create_graph) for v in parts])

    k, B, numel = len(sketch), len(x), math.prod(x.shape[1:])
    with without_autocast(x):
        spanned = (derivatives(sketch) - shift * sketch).reshape(k, B, numel).permute(1, 2, 0)
        Q = torch.linalg.qr(spanned.to(torch.promote_types(x.dtype, torch.float32)))[0]
        rest = probes.reshape(len(probes), B, numel).permute(1, 2, 0).to(Q)
        rest = rest - Q @ (Q.mT @ rest)
        rest = rest * (math.sqrt(numel - k) / rest.norm(dim=1, keepdim=True))
        vectors = torch.cat([Q, rest], 2).permute(2, 0, 1)
        found = derivatives(vectors.reshape(-1, *x.shape).to(x.dtype)).reshape(-1, B, numel)
        terms = (found.to(vectors) * vectors).sum(2)
    return (terms[:k].sum(0) + terms[k:]).T


def pull_back(s: Tensor, x: Tensor, cotangents: Tensor, create_graph: bool) -> Tensor:
    """``∇sᵀ v`` of each cotangent ``v`` in ``(n, B, *E)``; an ``s`` not made from x is refused."""

    def one(v: Tensor | None, of: Tensor = s) -> Tensor:
        # A backward pass follows the forward's dtypes; autocast would round its products again.
        gradient: Tensor | None = None
        if s.requires_grad:
            with torch.autocast(x.device.type, enabled=False):
                (gradient,) = torch.autograd.grad(
                    of, x, v, retain_graph=True, create_graph=create_graph, allow_unused=True
                )
        if gradient is None:
            checks.refuse(
                "a score that autograd can differentiate in x",
                "one without a gradient; its divergence needs it: compute the score with torch, "
                "without detach() or no_grad()",
                IncompatibleError,
            )
        return gradient

    if len(cotangents) == 1:
        with torch.enable_grad():  # a number needs no cotangent, for which PyTorch imports SymPy
            return one(None, (s * cotangents[0]).sum()).unsqueeze(0)
    # Not autograd's own is_grads_batched, which group normalisation's second derivative breaks.
    gradients: Tensor = torch.func.vmap(one)(cotangents)
    return gradients


def gradient(f: Callable[[Tensor], Tensor], x: Tensor, name: str) -> Tensor:
    """``∇f`` of ``f``, one number a sample; under ``no_grad`` and in ``torch.func`` too."""

    def watched(y: Tensor) -> Tensor:
        value = f(y)
        # Of what vjp's own level records, not of the weights: those are outside it.
        checks.that(
            value.requires_grad,
            f"{name} that autograd can differentiate in x",
            "one without a gradient; compute it with torch, without detach() or no_grad()",
            IncompatibleError,
        )
        return value

    derivative: tuple[Any, ...] = torch.func.vjp(watched, x)
    value, pull = derivative
    found: Tensor = pull(torch.ones_like(value))[0]
    return found


def probes_from_normal(kind: str, normal: Tensor) -> Tensor:
    """Probes of a kind from standard normal numbers ``(K, B, *E)``, like them; ``E vvᵀ = I``.

    ``"rademacher"`` takes the signs, ``"sphere"`` the directions, at length √d.
    """
    if kind == "rademacher":
        return torch.ones_like(normal).copysign(normal)
    if kind == "sphere" and normal.numel():
        rows = normal.reshape(*normal.shape[:2], -1)
        length = rows.square().mean(2, keepdim=True).sqrt()
        return (rows / length).reshape(normal.shape)
    return normal


def _step(x: Tensor, count: int, chunk_size: int | None) -> int:
    if chunk_size is None:
        chunk_size = min(_CHUNK_ROWS // max(1, len(x)), _CHUNK_NUMEL // max(1, x.numel()))
    return max(1, min(chunk_size, count))
