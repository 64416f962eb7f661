r"""Predictions converted from one kind to another, and Tweedie's formula.

A prediction is the score, ε, x₀, v, or any pair ``(p, q)``: the formula and the pairs are in
:mod:`sdescore.score.convention`. By Tweedie's formula the score gives the posterior mean, and its
Jacobian the covariance,

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
from sdescore.score.convention import Pair, conversion, pair
from sdescore.shapes import align, float64
from sdescore.typing import Time

__all__ = ["convert", "tweedie_covariance", "tweedie_mean"]


def convert(
    y: Tensor,
    x: Tensor,
    alpha: Time,
    sigma: Time,
    from_: str | tuple[Time, Time],
    to: str | tuple[Time, Time],
) -> Tensor:
    r"""A prediction ``y`` at the state ``x = x_t``, converted to another kind, like ``y``.

    The result is computed in at least float32, then rounded once to the dtype of ``y``. ε → x₀
    amplifies a relative error of ε by :math:`(|x| + \sigma|\epsilon|)/(\alpha |x_0|)`.

    Parameters
    ----------
    y, x : Tensor
        Prediction and state, both ``(B, *E)``.
    alpha, sigma : float or Tensor
        ``()`` or ``(B,)``; σ >= 0.
    from_, to : str or pair
        ``"score"``, ``"epsilon"``, ``"x0"``, ``"v"``, or your own ``(p, q)``.

    Raises
    ------
    IncompatibleError
        An unknown kind, or a conversion that (α, σ) do not determine: to the score at
        σ = 0, or from a pair with ``α q = σ p``.
    ShapeError
        ``y`` and ``x`` are not floating-point states of one shape, or α, σ, p, q are neither
        one value nor one per sample.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> x0, eps = torch.tensor([[2.0]]), torch.tensor([[1.0]])
    >>> x = 0.8 * x0 + 0.6 * eps
    >>> ss.convert(eps, x, 0.8, 0.6, "epsilon", "x0")
    tensor([[2.]])
    """
    checks.same_shape(y, x, "y")

    def coefficient(value: Time) -> Tensor:
        value64 = float64(value, like=x)
        align(value64, x)  # refuses what fits neither one time nor one per sample
        return value64

    alpha64, sigma64 = coefficient(alpha), coefficient(sigma)
    shape = (alpha64 + sigma64).shape
    alpha64, sigma64 = alpha64.expand(shape), sigma64.expand(shape)

    def as_pair(kind: str | tuple[Time, Time]) -> Pair:
        if isinstance(kind, tuple) and len(kind) == 2:
            return coefficient(kind[0]), coefficient(kind[1])
        return pair("epsilon" if kind == "score" else kind, alpha64, sigma64)

    # ε = −σ s by itself: it spares two roundings, and a score at σ = 0 still gives x₀.
    u, w = conversion(alpha64, sigma64, as_pair(from_), as_pair(to))
    if from_ == "score":
        w = -sigma64 * w
    if to == "score":
        u, w = -u / sigma64, -w / sigma64
    if not bool((u + w).isfinite().all()):
        checks.refuse(
            f"alpha and sigma that determine {to} from {from_}",
            f"alpha in [{alpha64.min():g}, {alpha64.max():g}] and sigma in "
            f"[{sigma64.min():g}, {sigma64.max():g}]; stay at alpha > 0 and sigma > 0",
            IncompatibleError,
        )
    return combine(x, y, u, w)


def combine(x: Tensor, y: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """``u x + w y`` in at least float32, rounded once to ``y``'s dtype; exact zeros skip ``x``."""
    working = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    result = align(w.to(y.device, working), y) * y.to(working)
    if bool((u != 0).any()):
        result = result + align(u.to(x.device, working), x) * x.to(working)
    return result.to(y.dtype)


def tweedie_mean(x: Tensor, score: Tensor, alpha: Time, sigma: Time) -> Tensor:
    """``E[x_0 | x_t] = (x_t + σ² s)/α``, like ``score``; shapes as in :func:`sdescore.convert`.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> x = torch.ones(1, 1)
    >>> found = ss.tweedie_mean(x, score=-x / 5, alpha=1.0, sigma=2.0)
    >>> round(found.item(), 6)  # data N(0, 1): x/(1 + 2²)
    0.2
    """
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

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> found = ss.tweedie_covariance(lambda x: -x / 5, torch.ones(1, 1), alpha=1.0, sigma=2.0)
    >>> round(found.item(), 6)  # data N(0, 1): 2²/(1 + 2²)
    0.8
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
