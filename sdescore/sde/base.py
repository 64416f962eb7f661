r"""Itô diffusions and their time reversal.

A forward SDE carries data at :math:`t = 0` to noise at :math:`t = T`
(Song et al. 2021, arXiv:2011.13456, eq. 5),

.. math:: \mathrm{d}x = f(x, t)\,\mathrm{d}t + g(t)\,\mathrm{d}w .

Its reversals share the marginals :math:`p_t`, one for every noise scale
:math:`\eta \in [0, 1]`:

.. math::
   \mathrm{d}x = \bigl[f(x, t) - \tfrac{1 + \eta^2}{2}\, g(t)^2\, \nabla_x \log p_t(x)\bigr]
   \mathrm{d}t + \eta\, g(t)\,\mathrm{d}\bar w .

:math:`\eta = 1` is Anderson's reverse SDE (eq. 6), :math:`\eta = 0` the probability-flow
ODE (eq. 13).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from sdescore.errors import ScheduleError, TimeError
from sdescore.grids import Grid, UniformGrid
from sdescore.shapes import align, float64, require_same_shape
from sdescore.typing import Score, Time

__all__ = ["SDE", "ReverseSDE", "check_time", "require"]


def require(condition: bool, expected: str, got: object) -> None:
    """Refuse a parameter that lies outside its range.

    Raises
    ------
    ScheduleError
        ``condition`` is false.
    """
    if not condition:
        raise ScheduleError(f"expected {expected}; got {got}")


def check_time(t: Time, T: float, name: str = "t") -> Tensor:
    """``t`` as a float64 tensor, refused outside ``[0, T]``.

    ``T`` rounded to float32 (or to the dtype of ``t``, if coarser) may lie above ``T``; it is
    taken for ``T``.

    Raises
    ------
    TimeError
        Some time is negative, beyond ``T`` or not a number.
    """
    if not isinstance(t, (Tensor, Real)):
        raise TimeError(f"expected {name} to be a number or a tensor, got {type(t).__name__}")
    t64 = float64(t)
    coarse = t.dtype if isinstance(t, Tensor) and t.is_floating_point() else torch.float64
    slack = T * max(torch.finfo(coarse).eps, torch.finfo(torch.float32).eps)
    # One time is by far the most common, and comparing it as a Python float the cheapest.
    if t64.numel() == 1 and 0.0 <= t64.item() <= T:
        return t64
    if not bool(((t64 >= 0.0) & (t64 <= T + slack)).all()):
        worst = f"values in [{t64.min().item():g}, {t64.max().item():g}]"
        raise TimeError(
            f"expected 0 <= {name} <= T = {T:g}, got {worst}; data is at t = 0 and noise at t = T"
        )
    return t64.clamp(max=T)


class SDE(ABC):
    """An Itô diffusion ``dx = f(x, t) dt + g(t) dw`` on ``0 <= t <= T``.

    Subclass it, give :attr:`T`, :meth:`drift` and :meth:`diffusion`, and the
    Euler–Maruyama method runs on it, forward (:func:`sdescore.simulate`) and reverse
    (:class:`sdescore.PredictorCorrector`). A linear drift deserves
    :class:`sdescore.LinearSDE`, which knows its kernels in closed form.
    """

    @property
    @abstractmethod
    def T(self) -> float:
        """End of the forward time, where the state is noise."""

    @property
    def t_min(self) -> float:
        """Where sampling stops before the last denoise; 0 unless the score is singular there."""
        return 0.0

    @property
    def default_grid(self) -> Grid:
        """The grid a sampler uses when given a number of steps alone."""
        return UniformGrid()

    @abstractmethod
    def drift(self, x: Tensor, t: Time) -> Tensor:
        """``f(x, t)``, like ``x`` ``(B, *E)``; ``t`` is a float, ``()`` or ``(B,)``."""

    @abstractmethod
    def diffusion(self, t: Time) -> Tensor:
        """``g(t) >= 0``, shaped like ``t``."""

    def reverse(self, score: Score, eta: float = 1.0) -> ReverseSDE:
        """The reversal with noise scale ``eta`` in [0, 1], as an SDE run from ``T`` down to 0.

        Raises
        ------
        ScheduleError
            ``eta`` is outside [0, 1].
        """
        return ReverseSDE(forward=self, score=score, eta=eta)


@dataclass(frozen=True, kw_only=True)
class ReverseSDE(SDE):
    r"""``dx = [f − ½(1+η²) g² s] dt + η g dw̄``, integrated from ``T`` down to 0 (``dt < 0``).

    Parameters
    ----------
    forward : SDE
        The diffusion that is reversed.
    score : callable
        ``score(x, t)``, an estimate of :math:`\nabla_x \log p_t(x)`, like ``x``.
    eta : float
        Noise scale in [0, 1]; 1 is the reverse SDE, 0 the probability-flow ODE.
    """

    forward: SDE
    score: Score
    eta: float = 1.0

    def __post_init__(self) -> None:
        require(
            finite(self.eta) and 0.0 <= self.eta <= 1.0,
            "0 <= eta <= 1 (0: ODE, 1: reverse SDE)",
            f"eta={self.eta}",
        )

    @property
    def T(self) -> float:
        return self.forward.T

    @property
    def t_min(self) -> float:
        return self.forward.t_min

    def drift(self, x: Tensor, t: Time) -> Tensor:
        g = align(torch.as_tensor(self.forward.diffusion(t)).to(x), x)
        weight = 0.5 * (1.0 + self.eta**2)
        drift = self.forward.drift(x, t)
        require_same_shape(drift, x, "the SDE's drift")
        return drift - weight * g.square() * self.score(x, as_time(t, x))

    def diffusion(self, t: Time) -> Tensor:
        return self.eta * torch.as_tensor(self.forward.diffusion(t))


def as_time(t: Time, x: Tensor) -> Tensor:
    """``t`` as a tensor in the dtype and on the device of ``x``, the form scores are given."""
    return t.to(x) if isinstance(t, Tensor) else torch.tensor(t, dtype=x.dtype, device=x.device)


def finite(*values: object) -> bool:
    """Whether all values are finite real numbers."""
    return all(isinstance(v, Real) and math.isfinite(v) for v in values)
