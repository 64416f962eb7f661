r"""Exact scores: what a perfect network would return.

For clean data with distribution :math:`p_0` and a linear SDE,

.. math:: p_t(x) = \int N(x;\, \alpha_t x_0,\, \sigma_t^2 I)\, p_0(\mathrm{d}x_0)

is known in closed form when :math:`p_0` is a Gaussian, a mixture of Gaussians or a data set,
and with it the score, the density and the posterior of the clean datum. The three are tied
by Tweedie's formula (Efron 2011, "Tweedie's formula and selection bias", eq. 1.4),
:math:`\alpha_t E[x_0 | x_t] = x_t + \sigma_t^2 \nabla \log p_t(x_t)`.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ShapeError, TimeError
from sdescore.noise.counter import Domain, NormalStream
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import align, without_autocast
from sdescore.typing import Time

__all__ = ["ExactScore"]

_Own = TypeVar("_Own", bound="ExactScore")

_Evaluate = Callable[[Tensor, Tensor, Tensor], Tensor]


class ExactScore(ABC):
    """The exact score of clean data under a linear SDE, with density and posterior.

    Every method takes ``x`` ``(B, *E)`` and a time ``()`` or ``(B,)``, and can be differentiated in
    ``x``, also by ``torch.func``. Rows are computed in chunks, so memory stays bounded.

    Attributes
    ----------
    sde : LinearSDE
        Gives α_t and σ_t.
    event_shape : tuple of int
        ``*E``.
    """

    def __init__(
        self,
        sde: LinearSDE,
        event_shape: tuple[int, ...],
        *,
        singular: bool,
        row_numel: int,
        covariance_row_numel: int,
    ) -> None:
        self.sde = checks.linear(sde, "an exact score")
        self.event_shape = event_shape
        self._numel = math.prod(event_shape)
        self._singular = singular
        self._row_numel, self._covariance_row_numel = row_numel, covariance_row_numel

    # What a subclass defines. x is (rows, d) in ``_coarsest`` or finer; α and σ are () or (rows,),
    # like x.

    _chunk_numel: int
    _normals: int
    _coarsest = torch.float32

    @abstractmethod
    def _score(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """``(rows, d)``."""

    @abstractmethod
    def _denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """``(rows, d)``."""

    @abstractmethod
    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """``(rows,)``."""

    @abstractmethod
    def _covariance(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """``(rows, d, d)``."""

    @abstractmethod
    def _draw(self, normal: Tensor) -> Tensor:
        """``(n, d)`` clean data from ``(n, _normals)`` standard normals, float64."""

    # What users call.

    def __call__(self, x: Tensor, t: Time) -> Tensor:
        r""":math:`\nabla_x \log p_t(x)`, like ``x`` ``(B, *E)``.

        Raises
        ------
        ShapeError
            ``x`` is not ``(B, *E)``, or ``t`` fits neither one time nor one per sample.
        TimeError
            ``t`` is outside [0, T], or ``p_t`` has no density there (σ_t = 0, and the clean data
            lie on a lower-dimensional set).
        """
        return self._evaluate(self._score, x, t, self._row_numel).reshape(x.shape)

    def epsilon(self, x: Tensor, t: Time) -> Tensor:
        """``E[ε | x_t] = −σ_t ∇ log p_t``, like ``x``; errors as the score's."""

        def epsilon(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            return -align(sigma, x) * self._score(x, alpha, sigma)

        return self._evaluate(epsilon, x, t, self._row_numel).reshape(x.shape)

    def denoise(self, x: Tensor, t: Time) -> Tensor:
        """``E[x_0 | x_t]``, without Tweedie's cancellation at α_t → 0; else as :meth:`epsilon`."""
        return self._evaluate(self._denoise, x, t, self._row_numel).reshape(x.shape)

    def covariance(self, x: Tensor, t: Time) -> Tensor:
        """``Cov[x_0 | x_t]``, ``(B, d, d)`` over the flattened event; errors as the score's."""
        return self._evaluate(self._covariance, x, t, self._covariance_row_numel)

    def log_prob(self, x: Tensor, t: Time) -> Tensor:
        """``log p_t(x)`` in nats, ``(B,)``.

        At ``t = 0`` this is the clean density wherever σ(0) = 0. :class:`sdescore.VESDE` has
        σ(0) = σ_min: there it is the density of the data plus that noise. Errors as the score's.
        """
        return self._evaluate(self._log_prob, x, t, self._row_numel)

    def under(self: _Own, sde: LinearSDE) -> _Own:
        """The exact score of the same data, which are shared, under another SDE with a marginal."""
        other = copy.copy(self)
        other.sde = checks.linear(sde, "an exact score")
        return other

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """``n`` exact draws of clean data, ``(n, *E)``; draw i depends on (seed, i) alone.

        Raises
        ------
        ShapeError, ParameterError
            ``n`` is no integer >= 0, or ``seed`` no integer.
        """
        n = checks.count("n", n, at_least=0, error=ShapeError)
        width = (self._normals,)
        stream = NormalStream(seed, range(n), width, device="cpu", domain=Domain.CLEAN)
        clean = self._draw(stream.draw(range(1))[0].double())
        return clean.reshape(n, *self.event_shape).to(checks.device(device), dtype)

    def _evaluate(self, function: _Evaluate, x: Tensor, t: Time, row_numel: int) -> Tensor:
        """``function`` on flat rows of ``x`` in the working dtype, chunk by chunk; x's dtype."""
        checks.state(x)
        expected = f"x of shape (B, *E) with event shape {self.event_shape}"
        checks.that(x.shape[1:] == self.event_shape, expected, tuple(x.shape), ShapeError)
        alpha, sigma = self.sde.marginal(t)
        if self._singular and not bool((sigma > 0).all()):
            expected = "sigma(t) > 0, for these data have no density of their own"
            checks.refuse(expected, "a time with sigma = 0; take a later one", TimeError)
        working = torch.promote_types(x.dtype, self._coarsest)
        flat = x.reshape(len(x), self._numel).to(working)
        if alpha.ndim:
            align(alpha, flat)  # refuses a time that is not one per sample
            alpha, sigma = (c.expand(len(x)) if c.numel() == 1 else c for c in (alpha, sigma))
        alpha, sigma = alpha.to(flat), sigma.to(flat)
        rows = max(1, self._chunk_numel // row_numel)
        with without_autocast(x):
            if len(x) <= rows:
                return function(flat, alpha, sigma).to(x.dtype)
            parts = []
            for start in range(0, len(x), rows):
                part = slice(start, start + rows)
                times = (alpha[part], sigma[part]) if alpha.ndim else (alpha, sigma)
                parts.append(function(flat[part], *times).to(x.dtype))
            return torch.cat(parts)


def pick(normal: Tensor, cumulative: Tensor) -> Tensor:
    """One category per standard normal ``(n,)``: the ``i`` with ``c_{i−1} <= Φ(z) < c_i``."""
    index = torch.searchsorted(cumulative, torch.special.ndtr(normal).contiguous(), right=True)
    return index.clamp(max=len(cumulative) - 1)
