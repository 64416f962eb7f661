r"""Gaussian kernels of a linear SDE.

All of them are affine with isotropic noise. For ``r < s < t``

.. math::
   x_t \mid x_0 &\sim N(\alpha_t x_0,\; \sigma_t^2 I), \\
   x_t \mid x_s &\sim N(a_{st}\, x_s,\; V_{st} I), \qquad a_{st} = \alpha_t / \alpha_s,\quad
   V_{st} = \sigma_t^2 - a_{st}^2 \sigma_s^2, \\
   x_s \mid x_t, x_0 &\sim N\Bigl(\tfrac{a_{st}\sigma_s^2}{\sigma_t^2} x_t
   + \tfrac{\alpha_s V_{st}}{\sigma_t^2} x_0,\; \tfrac{\sigma_s^2 V_{st}}{\sigma_t^2} I\Bigr).

The last is DDPM's posterior (Ho et al. 2020, arXiv:2006.11239, eqs. 6–7) for any linear SDE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.shapes import align, sum_event

__all__ = ["AffineKernel", "Bridge", "Gaussian"]


@dataclass(frozen=True, eq=False)
class Gaussian:
    """``N(mean, variance I)``; ``mean`` is ``(B, *E)``, ``variance`` broadcasts against it.

    The variance stays in float64. In float16, σ² is 0 for σ = 10⁻⁴ and infinite for σ = 300.
    An argument that is not shaped like the mean raises ``ShapeError``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> at = ss.EDMSDE().kernel(2.0)(torch.zeros(1, 1))
    >>> at.score(torch.ones(1, 1)).item()  # −x/σ²
    -0.25
    """

    mean: Tensor
    variance: Tensor

    @property
    def std(self) -> Tensor:
        """``√variance``, float64, broadcasts against ``mean``."""
        return self.variance.sqrt()

    def sample(self, noise: Tensor) -> Tensor:
        """``mean + std · noise`` for standard normal ``noise`` ``(B, *E)``, like ``mean``."""
        checks.same_shape(noise, self.mean, "noise", "the mean")
        return self.mean + self.std.to(self.mean) * noise.to(self.mean)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats, summed over the event: ``(B,)``, in at least float32."""
        checks.same_shape(x, self.mean, "x", "the mean")
        working = torch.promote_types(x.dtype, torch.float32)
        standard = (x - self.mean).to(working) / self.std.to(working)
        log_scale = 2 * self.std.log().to(working) + math.log(2 * math.pi)
        return -0.5 * sum_event(standard.square() + log_scale)

    def score(self, x: Tensor) -> Tensor:
        """``∇ₓ log N(x) = −(x − mean)/variance``, like ``x``."""
        checks.same_shape(x, self.mean, "x", "the mean")
        working = torch.promote_types(x.dtype, torch.float32)
        return ((self.mean - x).to(working) / self.variance.to(working)).to(x.dtype)


@dataclass(frozen=True, eq=False)
class AffineKernel:
    """``x ↦ N(scale · x, variance I)``; both float64, ``()`` or ``(B,)``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> kernel = ss.EDMSDE().kernel(2.0)
    >>> at = kernel(torch.ones(1, 1))  # x_t given x_0 = 1: N(1, 2²)
    >>> at.mean.item(), at.std.item()
    (1.0, 2.0)
    """

    scale: Tensor
    variance: Tensor

    def __call__(self, x: Tensor) -> Gaussian:
        """Condition on ``x`` ``(B, *E)``; ``ShapeError`` if it is no state, or of another batch."""
        checks.state(x)
        scale = align(self.scale.to(x), x)
        return Gaussian(scale * x, align(self.variance.to(x.device), x))


@dataclass(frozen=True, eq=False)
class Bridge:
    """``x_s | x_t, x_0``, DDPM's posterior for any linear SDE (Ho et al. 2020, eqs. 6–7).

    ``x_0`` is the clean datum: the noise σ(0) of a :class:`sdescore.VESDE` stays in the variance.

    Attributes
    ----------
    weight_t, weight_0 : Tensor
        The mean is ``weight_t · x_t + weight_0 · x_0``; float64, ``()`` or ``(B,)``.
    variance, scale, added_variance, sigma : Tensor
        ``σ_s² V_st / σ_t²``; ``a_st`` and ``V_st`` of the transition; ``σ_t``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> bridge = ss.EDMSDE().bridge(1.0, 2.0)
    >>> one = bridge(torch.full((1, 1), 4.0), x0=torch.zeros(1, 1))
    >>> one.mean.item()  # x₀ + (x_t − x₀) 1²/2²
    1.0
    """

    weight_t: Tensor
    weight_0: Tensor
    variance: Tensor
    scale: Tensor
    added_variance: Tensor
    sigma: Tensor

    @classmethod
    def of(
        cls, transition: AffineKernel, alpha_s: Tensor, sigma_s: Tensor, sigma_t: Tensor
    ) -> Bridge:
        """The bridge from ``α_s, σ_s``, ``σ_t > 0`` and the kernel from s to t."""
        a, V = transition.scale, transition.variance
        shrink = V / sigma_t.square()
        weight_t = a * (sigma_s / sigma_t).square()
        return cls(weight_t, alpha_s * shrink, sigma_s.square() * shrink, a, V, sigma_t)

    def __call__(
        self,
        x: Tensor,
        *,
        x0: Tensor | None = None,
        epsilon: Tensor | None = None,
        score: Tensor | None = None,
    ) -> Gaussian:
        r"""The distribution of ``x_s`` given ``x = x_t`` and exactly one prediction.

        The three forms of the mean agree when the three describe one datum:

        .. math::
           \tfrac{a\sigma_s^2}{\sigma_t^2} x_t + \tfrac{\alpha_s V}{\sigma_t^2} x_0
           = \tfrac{1}{a}\bigl(x_t - \tfrac{V}{\sigma_t} \epsilon\bigr)
           = \tfrac{1}{a}\bigl(x_t + V s\bigr).

        Raises
        ------
        IncompatibleError, ShapeError
            Not exactly one prediction; one not shaped like ``x``, or times of another batch.
        """
        predictions = [p for p in (x0, epsilon, score) if p is not None]
        if len(predictions) != 1:
            got = f"{len(predictions)} of them"
            checks.refuse("exactly one of x0=, epsilon=, score=", got, IncompatibleError)
        if x0 is not None:
            on_x, on_prediction = self.weight_t, self.weight_0
        elif epsilon is not None:
            on_x, on_prediction = 1 / self.scale, -self.added_variance / (self.sigma * self.scale)
        else:
            on_x, on_prediction = 1 / self.scale, self.added_variance / self.scale
        checks.same_shape(predictions[0], x, "the prediction")
        mean = align(on_x.to(x), x) * x + align(on_prediction.to(x), x) * predictions[0].to(x)
        return Gaussian(mean, align(self.variance.to(x.device), x))
