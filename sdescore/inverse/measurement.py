r"""A measurement, :math:`y = A(x_0) + \sigma_y n` with standard normal n."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.inverse.operators import Operator
from sdescore.shapes import sum_event

__all__ = ["Measurement"]


class Measurement:
    r"""An observed y, with the operator and the noise that led to it.

    Parameters
    ----------
    y : Tensor
        ``(*M)``, float32 or float64: one measurement, for all samples.
    operator : Operator
        An operator, a linear operator of deepinv, or any object with ``A(x)`` and ``A_adjoint(y)``
        on batches.
    noise_std : float
        :math:`\sigma_y \ge 0`, in the units of y.

    Attributes
    ----------
    y, operator, noise_std
        The arguments. The operator is always an :class:`sdescore.inverse.Operator`.

    Raises
    ------
    ShapeError
        ``y`` does not have the operator's ``measurement_shape``, or is not in floating point.
    ParameterError
        ``noise_std`` is below 0, or ``y`` is not finite.
    IncompatibleError
        ``operator`` is no operator; its value for a sample depends on the rest of the batch or on
        chance; it is nonlinear and autograd has no derivative; or its adjoint is not its transpose.
        The last is tested by :math:`\langle A x, v \rangle = \langle x, A^\top v \rangle` on random
        x and v.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> see_first = ss.inverse.Mask(torch.tensor([True, False]))
    >>> seen = ss.inverse.Measurement(torch.tensor([0.5]), see_first, noise_std=0.1)
    >>> seen.log_likelihood(torch.tensor([[0.5, 3.0], [0.7, -1.0]]))
    tensor([ 1.3836, -0.6164])
    """

    def __init__(self, y: Tensor, operator: Operator | Any, noise_std: float) -> None:
        if not isinstance(y, Tensor) or y.dtype not in (torch.float32, torch.float64):
            got = getattr(y, "dtype", type(y).__name__)
            checks.refuse("y as a tensor in float32 or float64", got, ShapeError)
        with torch.inference_mode(False):  # whose tensors autograd refuses later
            self.y = checks.finite_tensor("y", y).detach().clone()
        self.noise_std = checks.number("noise_std", noise_std, at_least=0, at_most=1e15)
        self.operator = _operator_of(operator, self.y)
        shape = self.operator.measurement_shape
        expected = f"y of the operator's measurement_shape {shape}; for one y a sample use label="
        checks.that(y.shape == shape, expected, tuple(y.shape), ShapeError)
        x, v = self._random()
        self._test_batch(x)
        if self.operator.linear:
            self._dot_test(x, v)
        else:
            self._test_derivative(x)

    def _random(self) -> list[Tensor]:
        """Two data and two measurements, like y."""
        generator = torch.Generator("cpu").manual_seed(0)
        return [
            torch.randn(2, *shape, generator=generator, dtype=self.y.dtype, device="cpu").to(self.y)
            for shape in (self.operator.event_shape, self.operator.measurement_shape)
        ]

    def _test_batch(self, x: Tensor) -> None:
        """Refuse an operator that mixes the samples of a batch; x may lie outside its domain."""
        with torch.no_grad():
            together = self.operator(x)
            alone = torch.cat([self.operator(x[:1]), self.operator(x[1:])])
        apart = (together - alone).abs().nan_to_num(0.0).max()
        worst = (apart / together.abs().nan_to_num(0.0).max().clamp(min=1e-30)).item()
        expected = "an operator that measures each sample by itself, the same each time"
        got = f"one whose value for a sample changes by {worst:.2g} of it beside another"
        checks.that(worst <= 1e-2, expected, got, IncompatibleError)

    def _test_derivative(self, x: Tensor) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            value = self.operator(x.clone().requires_grad_())
        expected = "a nonlinear operator that autograd can differentiate"
        got = "one without a gradient; compute it with torch, without numpy or detach()"
        checks.that(value.requires_grad, expected, got, IncompatibleError)

    def _dot_test(self, x: Tensor, v: Tensor) -> None:
        """Refuse an adjoint that is none; y's dtype decides what rounding is."""
        A = self.operator
        with torch.no_grad():
            Ax, Av = A(x), A.adjoint(v)
            one, other = sum_event(Ax * v), sum_event(x * Av)
        size = (sum_event(Ax * Ax) * sum_event(v * v)).sqrt()
        size = size + (sum_event(Av * Av) * sum_event(x * x)).sqrt()
        worst = ((one - other).abs() / size.clamp(min=1e-30)).max().item()
        expected = "an operator with <A x, v> = <x, adjoint(v)>, as a linear one has"
        got = f"a relative difference of {worst:.2g}; correct its adjoint, or say linear=False"
        tolerance = 1e3 * torch.finfo(self.y.dtype).eps
        checks.that(worst <= tolerance, expected, got, IncompatibleError)

    def residual(self, x0: Tensor, y: Tensor | None = None) -> Tensor:
        """``y − A(x0)`` of data ``(B, *E)``: ``(B, *M)``; ``y`` ``(B, *M)`` replaces our own."""
        return (self.y if y is None else y).to(x0) - self.operator(x0)

    def log_likelihood(self, x0: Tensor, y: Tensor | None = None) -> Tensor:
        r""":math:`\log N(y; A(x_0), \sigma_y^2 I)` in nats, ``(B,)``, of data ``(B, *E)``.

        Raises
        ------
        ParameterError
            The noise is 0, so y has no density.
        ShapeError
            ``x0`` is not ``(B, *E)``.
        """
        std = checks.number("noise_std", self.noise_std, above=0)
        m = math.prod(self.operator.measurement_shape)
        square = sum_event((self.residual(x0, y) / std).square())
        return -0.5 * square - m * (math.log(std) + 0.5 * math.log(2 * math.pi))


class _Foreign(Operator):
    """Another library's linear operator, by its ``A`` and ``A_adjoint``."""

    def __init__(self, physics: Any, y: Tensor) -> None:
        self._physics = physics
        with torch.no_grad():
            x = physics.A_adjoint(y[None])
        checks.state(x, "A_adjoint(y)")
        super().__init__(tuple(x.shape[1:]), tuple(y.shape))

    def _apply(self, x: Tensor) -> Tensor:
        y: Tensor = self._physics.A(x)
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        x: Tensor = self._physics.A_adjoint(y)
        return x


def _operator_of(operator: Any, y: Tensor) -> Operator:
    if isinstance(operator, Operator):
        return operator
    if callable(getattr(operator, "A", None)) and callable(getattr(operator, "A_adjoint", None)):
        return _Foreign(operator, y)
    expected = "an operator, such as inverse.Matrix(A) or inverse.Callable(function, event_shape)"
    checks.refuse(expected, f"{operator!r:.200}", IncompatibleError)
