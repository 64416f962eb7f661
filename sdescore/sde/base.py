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

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.checks import finite, named, require, require_same_shape
from sdescore.errors import IncompatibleError, ScheduleError, TimeError
from sdescore.grids.base import Grid
from sdescore.grids.spaced import UniformGrid
from sdescore.shapes import align
from sdescore.typing import Score, Time

__all__ = ["SDE", "ReverseSDE"]


def check_times(times: Sequence[float] | Tensor, sde: SDE) -> Tensor:
    """``times`` as ``(n,)`` float64 on the CPU, n >= 2, in an order that the SDE's time runs in.

    Raises
    ------
    ScheduleError
        Not ``(n,)`` numbers with n >= 2.
    TimeError
        Outside [0, T], not strictly monotone, or the wrong way for this SDE.
    """
    try:
        grid = torch.as_tensor(times, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        raise ScheduleError(f"expected times as numbers (n,), got {times!r:.100}") from None
    if grid.ndim != 1 or len(grid) < 2:
        raise ScheduleError(f"expected times of shape (n,) with n >= 2, got {tuple(grid.shape)}")
    grid = checks.time(grid, sde.T, "times")
    up, down = bool((grid.diff() > 0).all()), bool((grid.diff() < 0).all())
    if (down if sde.backward else up) or (sde.deterministic and (up or down)):
        return grid
    order, way, advice = (
        ("falling", "down", "Let the times fall, or sample with PredictorCorrector")
        if sde.backward
        else ("rising", "up", "For the way back use PredictorCorrector, or sde.reverse(score)")
    )
    raise TimeError(
        f"expected strictly {order} times, for {type(sde).__name__} runs {way} in time; got "
        f"{grid.tolist()!r:.200}. {advice}"
    )


class SDE(ABC):
    """An Itô diffusion ``dx = f(x, t) dt + g(t) dw`` on ``0 <= t <= T``.

    Subclass it, give :attr:`T`, :meth:`drift` and :meth:`diffusion`, and the
    Euler–Maruyama method runs on it, forward (:func:`sdescore.samplers.simulate`) and reverse
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

    @property
    def backward(self) -> bool:
        """Whether time runs from ``T`` down to 0, as a reversal's; an SDE's own runs up."""
        return False

    @property
    def deterministic(self) -> bool:
        """Whether g = 0 at all times. An ordinary differential equation runs both ways."""
        return False

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
        IncompatibleError
            ``score`` cannot be called, or this SDE is a reversal itself.
        """
        return ReverseSDE(forward=self, score=score, eta=eta)


@dataclass(frozen=True, kw_only=True)
class ReverseSDE(SDE):
    r"""``dx = [f − ½(1+η²) g² s] dt + η g dw̄``, integrated from ``T`` down to 0 (``dt < 0``).

    At η = 0 it is an ODE, which may as well be integrated upwards.

    Parameters
    ----------
    forward : SDE
        The diffusion that is reversed; no reversal itself.
    score : callable
        ``score(x, t)``, an estimate of :math:`\nabla_x \log p_t(x)`, like ``x``.
    eta : float
        Noise scale in [0, 1]; 1 is the reverse SDE, 0 the probability-flow ODE.

    Raises
    ------
    ScheduleError
        ``eta`` is outside [0, 1].
    IncompatibleError
        ``forward`` is no SDE instance or a reversal, or ``score`` cannot be called.
    """

    forward: SDE
    score: Score
    eta: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.forward, SDE):
            raise IncompatibleError(
                f"expected forward to be an SDE instance, such as ss.VPSDE(), got "
                f"{self.forward!r:.200}"
            )
        if self.forward.backward:
            raise IncompatibleError(
                "expected an SDE that runs up in time to reverse, got "
                f"{type(self.forward).__name__}, a reversal already; use its .forward"
            )
        if isinstance(self.score, type) or not callable(self.score):
            raise IncompatibleError(f"expected a callable score(x, t), got {self.score!r:.200}")
        require(
            finite(self.eta) and 0.0 <= self.eta <= 1.0,
            "0 <= eta <= 1 (0: ODE, 1: reverse SDE)",
            named("eta", self.eta),
        )

    @property
    def backward(self) -> bool:
        return True

    @property
    def deterministic(self) -> bool:
        return self.eta == 0

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
