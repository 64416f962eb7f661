r"""A linear SDE from any differentiable pair of marginals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.sde.base import finite, named, require
from sdescore.sde.linear import LinearSDE

__all__ = ["MarginalSDE"]


@dataclass(frozen=True, kw_only=True)
class MarginalSDE(LinearSDE):
    r"""``dx = f x dt + g dw`` with :math:`f = \dot\alpha/\alpha`,
    :math:`g^2 = -\sigma^2 \dot\lambda` by automatic differentiation.

    Made by :meth:`sdescore.LinearSDE.from_marginal`.

    Parameters
    ----------
    alpha, sigma : callable
        Elementwise functions of a float64 time tensor.
    T, t_min : float
        ``0 <= t_min < T``.
    """

    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]
    T: float = 1.0
    t_min: float = 1e-3

    def __post_init__(self) -> None:
        require(
            finite(self.T, self.t_min) and 0 <= self.t_min < self.T,
            "0 <= t_min < T",
            f"{named('t_min', self.t_min)}, {named('T', self.T)}",
        )
        require(
            callable(self.alpha) and callable(self.sigma),
            "alpha and sigma to be functions of t",
            f"alpha={self.alpha!r:.100}, sigma={self.sigma!r:.100}",
        )
        t = torch.linspace(0.0, self.T, 257, dtype=torch.float64)
        alpha_t, sigma_t = self._marginal(t)
        require(
            isinstance(alpha_t, Tensor) and isinstance(sigma_t, Tensor),
            "alpha and sigma to return tensors (a constant as torch.ones_like(t))",
            f"{type(alpha_t).__name__} and {type(sigma_t).__name__}",
        )
        require(
            alpha_t.shape == t.shape and sigma_t.shape == t.shape,
            "alpha and sigma to be elementwise functions of t",
            f"shapes {tuple(alpha_t.shape)} and {tuple(sigma_t.shape)} for t of {tuple(t.shape)}",
        )
        require(bool((alpha_t > 0).all()), "alpha(t) > 0 on [0, T]", f"min {alpha_t.min():g}")
        require(bool((sigma_t >= 0).all()), "sigma(t) >= 0 on [0, T]", f"min {sigma_t.min():g}")
        require(
            bool((torch.diff(sigma_t / alpha_t) > 0).all()),
            "sigma/alpha to rise strictly on [0, T]",
            "a pair that falls somewhere",
        )
        try:
            g2 = self._rates(t)[1]
        except RuntimeError:  # numpy, or .item(), of a value that carries a derivative
            g2 = torch.zeros_like(t)
        require(
            bool((g2 > 0).any()),
            "alpha and sigma that autodiff can differentiate, written in torch",
            "derivatives of 0 everywhere; no numpy, detach() or new tensors inside",
        )

    def _marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.alpha(t), self.sigma(t)
