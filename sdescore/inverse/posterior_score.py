r"""Scores of a posterior: a prior's score plus the gradient of a likelihood at the posterior mean.

The exact posterior score is :math:`\nabla \log p_t(x) + \nabla \log p_t(y | x)`, and the second
term has no closed form: :math:`p_t(y | x) = \int p(y | x_0)\, p(x_0 | x_t = x)\, dx_0`. The methods
of this package approximate :math:`p(x_0 | x_t)` by a Gaussian with the mean
:math:`\hat x_0(x) = E[x_0 | x_t = x]` and some covariance C, so that

.. math::
   \nabla \log p_t(y | x) \approx
   J^\top A^\top (\sigma_y^2 I + A C A^\top)^{-1} (y - A \hat x_0), \qquad
   J = \frac{\partial \hat x_0}{\partial x} .

They differ in C alone. A nonlinear operator is replaced by its linearisation at x̂₀. The network is
called once; J is applied through the graph of that call.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sdescore import checks
from sdescore.conditions import each_tensor
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.guidance.base import GuidedScore
from sdescore.inverse.measurement import Measurement
from sdescore.inverse.operators import Operator
from sdescore.score.convention import PLAIN, DataScale
from sdescore.score.interface import require_label
from sdescore.score.posterior_mean import score_and_mean
from sdescore.shapes import align, sum_event, without_autocast
from sdescore.typing import Condition, Score, Time

Product = Callable[[Tensor], Tensor]


class Linearised:
    """A(x₀) of states x₀ ``(B, *E)``: its value, and products with its derivative there."""

    def __init__(self, operator: Operator, scale: DataScale, x0: Tensor) -> None:
        def measured(z: Tensor) -> Tensor:
            return operator(z if scale.plain else scale.to_data(z))

        self.value: Tensor
        self.push: Product
        self.pull: Product
        if operator.linear:
            unit = scale.unit(x0)
            self.value = measured(x0)
            self.push = lambda u: operator(unit * u)
            self.pull = lambda v: unit * operator.adjoint(v)
        else:
            self.value, pull = torch.func.vjp(measured, x0)  # type: ignore[misc]
            self.push = lambda u: torch.func.jvp(measured, (x0,), (u,))[1]
            self.pull = lambda v: pull(v)[0]


class PosteriorScore(GuidedScore):
    """``s(x) + Jᵀ Aᵀ u``; a subclass says which u."""

    def __init__(self, score: Score, measurement: Measurement, method: str) -> None:
        super().__init__([score])
        checks.linear(getattr(self, "sde", None), method, "pass a score with an SDE")
        require_measurement(measurement)
        self.score, self.measurement = score, measurement

    @abstractmethod
    def _weighed(
        self, residual: Tensor, A: Linearised, J: Product, alpha: Tensor, sigma: Tensor
    ) -> Tensor:
        """u ``(B, *M)`` of the residual y − A(x̂₀); ``J`` is Jᵀ, and α and σ are () or (B,)."""

    def require_label(self, label: object) -> None:
        own, y = parts(label)
        require_label(self.score, own)
        shape = self.measurement.operator.measurement_shape
        if y is not None:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            expected = f'label["measurement"] of shape (B, {", ".join(map(str, shape))})'
            checks.that(isinstance(y, Tensor) and got[1:] == shape, expected, got, ShapeError)
            real = y.dtype in (torch.float32, torch.float64)
            checks.that(real, f"{expected}, in float32 or float64", y.dtype, ShapeError)
            checks.finite_tensor('label["measurement"]', y)

    def forward(self, x: Tensor, t: Time, label: Condition | None = None) -> Tensor:
        """The score of the posterior, like ``x`` ``(B, *E)``."""
        checks.state(x)
        with torch.inference_mode(False):  # whose tensors cannot enter autograd; copies can
            x, t, label = (each_tensor(_usable, part) for part in (x, t, label))
            return self._forward(x, t, label)

    def _forward(self, x: Tensor, t: Time, label: Condition | None) -> Tensor:
        own, y = parts(label)
        s, x0, J = self._mean(x, t, own)
        with without_autocast(x):  # the call of the network alone is the caller's to round
            residual, near = self._seen(x0, J, t, y)
            guided: Tensor = s + J(near.A.pull(self._weighed(residual, *near)))
            return guided

    def _mean(self, x: Tensor, t: Time, label: Condition | None) -> tuple[Tensor, Tensor, Product]:
        """The score, x̂₀ and the product with Jᵀ."""

        def mean(z: Tensor) -> tuple[Tensor, Tensor]:
            s, x0 = score_and_mean(self.score, self.sde, z, t, label)  # type: ignore[arg-type]
            expected = f"a score that autograd can differentiate in x, for {type(self).__name__}"
            got = "one without a gradient; compute it with torch, without detach() or no_grad()"
            checks.that(s.requires_grad, expected, got, IncompatibleError)
            return x0, s

        x0, pull, s = torch.func.vjp(mean, x, has_aux=True)  # type: ignore[misc]
        return s, x0, lambda v: pull(v)[0]

    def _seen(self, x0: Tensor, J: Product, t: Time, y: Tensor | None) -> tuple[Tensor, Near]:
        """The residual y − A(x̂₀), and what stands in for the operator there."""
        A = Linearised(self.measurement.operator, self.data_scale or PLAIN, x0)
        residual = (self.measurement.y if y is None else y).to(A.value) - A.value
        alpha, sigma = (v.to(x0) for v in self.sde.marginal(t))  # type: ignore[attr-defined]
        return residual, Near(A, J, alpha, sigma)

    def _terms(self, residual: Tensor, near: Near) -> tuple[Tensor, Tensor, Tensor]:
        """u; log ψ ``(B,)`` up to a number that depends on t alone; the variance of x₀ ``(B,)``."""
        u = self._weighed(residual, *near)
        log_psi = -0.5 * sum_event(residual * u)
        return u, log_psi, torch.zeros_like(log_psi)

    def twist(self, x: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""What :class:`sdescore.inverse.TwistedSMC` asks of a guide, at states ``x`` ``(B, *E)``.

        Returns
        -------
        log_psi : Tensor
            ``(B,)`` float64: :math:`\log N(y; A \hat x_0, \sigma_y^2 I + A C A^\top)`, up to a
            number that depends on t alone.
        mean, shift : Tensor
            x̂₀ in the units of the states, and what y adds to it; like ``x``.
        variance : Tensor
            ``(B,)``: an element's variance in C, or 0 where the method knows none.
        """
        with torch.inference_mode(False):
            x, t = (_usable(part) for part in (x, t))  # type: ignore[assignment]
            _, x0, J = self._mean(x, t, None)
            with without_autocast(x):
                residual, near = self._seen(x0, J, t, None)
                u, log_psi, variance = self._terms(residual, near)
                shift = align(near.sigma.square() / near.alpha, x) * J(near.A.pull(u))
            return log_psi.double(), x0, shift, variance


class Near(NamedTuple):
    """What a method sees near x̂₀: A, the product with Jᵀ, and α and σ, () or (B,)."""

    A: Linearised
    J: Product
    alpha: Tensor
    sigma: Tensor


def require_measurement(measurement: object) -> None:
    """Refuse anything but a measurement."""
    example = "inverse.Measurement(y, operator, noise_std)"
    checks.instance("measurement", measurement, Measurement, example)


def _usable(part: object) -> object:
    return part.clone() if isinstance(part, Tensor) and part.is_inference() else part


def parts(label: object) -> tuple[Condition | None, Tensor | None]:
    """The score's own label, and the measurements of the samples where the label holds them."""
    if isinstance(label, Mapping) and "measurement" in label:
        other = sorted(map(repr, label.keys() - {"measurement", "label"}))
        expected = 'a label of "measurement", and "label" for the score\'s own'
        checks.that(not other, expected, f"{', '.join(other)} besides", IncompatibleError)
        return label.get("label"), label["measurement"]
    return label, None  # type: ignore[return-value]
