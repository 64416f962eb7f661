r"""Tweedie's formula: the score gives the posterior mean, its Jacobian the covariance.

.. math::
   E[x_0 \mid x_t] = \frac{x_t + \sigma^2 \nabla \log p_t(x_t)}{\alpha}, \qquad
   \mathrm{Cov}[x_0 \mid x_t] = \frac{\sigma^2}{\alpha^2}
   \bigl(I + \sigma^2 \nabla^2 \log p_t(x_t)\bigr)

(Efron 2011, "Tweedie's formula and selection bias", eq. 1.4; Robbins 1956. In matrix form
:math:`E[\mu | z] = z + \Sigma \nabla \log p(z)`.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.score.parameterization import convert
from sdescore.shapes import align, float64
from sdescore.typing import Time

__all__ = ["tweedie_covariance", "tweedie_mean"]


def tweedie_mean(x: Tensor, score: Tensor, alpha: Time, sigma: Time) -> Tensor:
    """``E[x_0 | x_t] = (x_t + σ² s)/α``, like ``score``; shapes as in :func:`sdescore.convert`."""
    return convert(score, x, alpha, sigma, "score", "x0")


def tweedie_covariance(
    score: Callable[[Tensor], Tensor],
    x: Tensor,
    alpha: Time,
    sigma: Time,
    *,
    form: str = "full",
    vector: Tensor | None = None,
) -> Tensor:
    """``Cov[x_0 | x_t] = σ²/α² (I + σ² ∂s/∂x)`` by forward-mode autodiff.

    Parameters
    ----------
    score : callable
        ``x -> score`` at a fixed time, each sample on its own: ``(B, *E) -> (B, *E)``.
    x : Tensor
        ``(B, *E)`` with d elements per sample.
    alpha, sigma : float or Tensor
        ``()`` or ``(B,)``.
    form : {"full", "diagonal", "product"}
        ``(B, d, d)``; ``(B, *E)``; or the product with ``vector``, ``(B, *E)``, at the cost
        of one derivative instead of d.
    vector : Tensor, optional
        ``(B, *E)``, for ``form="product"`` only.

    Raises
    ------
    IncompatibleError
        An unknown form, a ``vector`` with another form than ``"product"``, that form without a
        ``vector``, or a score that returns no real tensor like ``x``.
    ShapeError
        ``vector`` is not shaped like ``x``.
    """
    checks.state(x)
    checks.choice("form", form, ("full", "diagonal", "product"))
    expected = "vector= for form='product' and for no other"
    got = f"form={form!r} and vector={vector!r:.60}"
    checks.that((vector is not None) == (form == "product"), expected, got, IncompatibleError)
    alpha64, sigma64 = float64(alpha, like=x), float64(sigma, like=x)
    outer = align((sigma64 / alpha64).square().to(x), x)
    inner = align(sigma64.square().to(x), x)

    def checked(y: Tensor) -> Tensor:
        return checks.score_output(score(y), x)

    def product(v: Tensor) -> Tensor:
        jacobian_v: Tensor = torch.func.jvp(checked, (x,), (v,))[1]
        return outer * (v + inner * jacobian_v)

    if vector is not None:
        checks.same_shape(vector, x, "vector")
        return product(vector)
    batch, numel = x.shape[0], math.prod(x.shape[1:])
    basis = torch.eye(numel, dtype=x.dtype, device=x.device).reshape(numel, 1, *x.shape[1:])
    columns: Tensor = torch.func.vmap(product)(basis.expand(numel, *x.shape))
    covariance = columns.reshape(numel, batch, numel).permute(1, 2, 0)
    return covariance if form == "full" else covariance.diagonal(dim1=1, dim2=2).reshape(x.shape)
