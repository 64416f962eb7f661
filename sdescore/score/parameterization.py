"""Predictions converted from one kind to another: score, ε, x₀, v, or any pair ``(p, q)``.

The formula and the pairs are in :mod:`sdescore.score.convention`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.score.convention import Pair, conversion, pair
from sdescore.shapes import align, float64
from sdescore.typing import Time

__all__ = ["convert"]


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
        if isinstance(kind, str):
            return pair("epsilon" if kind == "score" else kind, alpha64, sigma64)
        return coefficient(kind[0]), coefficient(kind[1])

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
    result = align(w.to(working), y) * y.to(working)
    if bool((u != 0).any()):
        result = result + align(u.to(working), x) * x.to(working)
    return result.to(y.dtype)
