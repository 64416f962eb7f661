r"""Itô diffusions and their time reversal.

A forward SDE carries data at :math:`t = 0` to noise at :math:`t = T`
(Song et al. 2021, arXiv:2011.13456, eq. 5),

.. math:: \mathrm{d}x = f(x, t)\,\mathrm{d}t + g(t)\,\mathrm{d}w .

There is one reversal for each noise scale :math:`\eta \in [0, 1]`. All of them have the marginals
:math:`p_t` of the forward SDE:

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
from sdescore.errors import IncompatibleError, ScheduleError, TimeError
from sdescore.grids.base import Grid, UniformGrid
from sdescore.shapes import align, float64
from sdescore.typing import Score, Time
from sdescore.wrappers import sde_of, undisturbed

__all__ = ["SDE", "ReverseSDE"]


def check_times(times: Sequence[float] | Tensor, sde: SDE) -> Tensor:
    """``times`` as ``(n,)`` float64 on the CPU, n >= 2, in an order that the SDE's time runs in."""
    values = checks.numbers("times", times, at_least=2, error=ScheduleError)
    grid = checks.time(torch.tensor(values, dtype=torch.float64, device="cpu"), sde.T, "times")
    up, down = bool((grid.diff() > 0).all()), bool((grid.diff() < 0).all())
    if (down if sde.backward else up) or (sde.deterministic and (up or down)):
        return grid
    order, way = ("falling", "down") if sde.backward else ("rising", "up")
    advice = "For the way back use PredictorCorrector, or sde.reverse(score)"
    if sde.backward:
        advice = "Let the times fall, or sample with PredictorCorrector"
    expected = f"strictly {order} times, for {type(sde).__name__} runs {way} in time"
    checks.refuse(expected, f"{grid.tolist()!r:.200}. {advice}", TimeError)


class SDE(ABC):
    """An Itô diffusion ``dx = f(x, t) dt + g(t) dw`` on ``0 <= t <= T``.

    Subclass it, give :attr:`T`, :meth:`drift` and :meth:`diffusion`, and Euler–Maruyama runs on
    it, forward (:func:`sdescore.samplers.simulate`) and reverse
    (:class:`sdescore.PredictorCorrector`). For a drift that is linear in x, subclass
    :class:`sdescore.LinearSDE`, which has its kernels in closed form.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> class OrnsteinUhlenbeck(ss.SDE):
    ...     T = 5.0
    ...
    ...     def drift(self, x, t):
    ...         return -x
    ...
    ...     def diffusion(self, t):
    ...         return torch.full_like(t, 2**0.5)
    >>> x = ss.simulate(OrnsteinUhlenbeck(), torch.zeros(4000, 1), steps=500)
    >>> round(x.std().item(), 1)  # it goes to N(0, 1)
    1.0
    """

    t_min: float = 0.0
    """Where sampling stops before the last denoise; 0 unless the score is singular there."""

    default_grid: Grid = UniformGrid()
    """The grid a sampler uses when given a number of steps alone."""

    backward: bool = False
    """Whether time runs from ``T`` down to 0, as in a reversal; in a forward SDE it runs up."""

    deterministic: bool = False
    """Whether g = 0 at all times. An ordinary differential equation runs both ways."""

    @property
    @abstractmethod
    def T(self) -> float:
        """End of the forward time, where the state is noise."""

    @abstractmethod
    def drift(self, x: Tensor, t: Time) -> Tensor:
        """``f(x, t)``, like ``x`` ``(B, *E)``; ``t`` is a float, ``()`` or ``(B,)``."""

    @abstractmethod
    def diffusion(self, t: Time) -> Tensor:
        """``g(t) >= 0``, shaped like ``t``."""

    def reverse(self, score: Score, eta: float = 1.0) -> ReverseSDE:
        """The reversal with noise scale ``eta`` in [0, 1]: see :class:`ReverseSDE`."""
        return ReverseSDE(forward=self, score=score, eta=eta)


@dataclass(frozen=True, kw_only=True)
class ReverseSDE(SDE):
    r"""``dx = [f − ½(1+η²) g² s] dt + η g dw̄``, integrated from ``T`` down to 0 (``dt < 0``).

    At η = 0 it is an ODE, which can be integrated upwards in time as well.

    Parameters
    ----------
    forward : SDE
        The diffusion that is reversed. It must not be a reversal itself.
    score : callable
        ``score(x, t)``, an estimate of :math:`\nabla_x \log p_t(x)`, like ``x``.
    eta : float
        Noise scale in [0, 1]; 1 is the reverse SDE, 0 the probability-flow ODE.

    Raises
    ------
    ScheduleError, IncompatibleError
        ``eta`` is outside [0, 1]; ``forward`` is no SDE to reverse, or ``score`` not callable, or
        on another SDE.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> flow = sde.reverse(ss.GaussianScore([0.0], 1.0, sde), eta=0.0)
    >>> flow.drift(torch.ones(1, 1), 0.5).abs().item() < 1e-6  # N(0, 1) stays
    True
    """

    forward: SDE
    score: Score
    eta: float = 1.0

    backward = True

    def __post_init__(self) -> None:
        forward = checks.instance("forward", self.forward, SDE, "ss.VPSDE()")  # type: ignore[type-abstract]
        if forward.backward:
            got = f"{type(forward).__name__}, a reversal already; use its .forward"
            checks.refuse("an SDE that runs up in time to reverse", got, IncompatibleError)
        own = sde_of(checks.function("score", self.score))
        got = f"one on {own!r:.200}"
        same = own is None or own == forward
        checks.that(same, f"a score on {forward!r:.200}", got, IncompatibleError)
        eta = checks.number("eta", self.eta, at_least=0, at_most=1, error=ScheduleError)
        vars(self).update(eta=eta, t_min=forward.t_min, deterministic=eta == 0)

    @property
    def T(self) -> float:
        return self.forward.T

    def drift(self, x: Tensor, t: Time) -> Tensor:
        g = align(float64(self.forward.diffusion(t)).to(x), x)
        weight = 0.5 * (1.0 + self.eta**2)
        drift = checks.score_output(self.forward.drift(x, t), x, "the SDE's drift")
        score = undisturbed(self.score, x, as_time(t, x), who="the score")
        score = checks.score_output(score, x)
        return drift - weight * g.square() * score

    def diffusion(self, t: Time) -> Tensor:
        return self.eta * float64(self.forward.diffusion(t))


def as_time(t: Time, x: Tensor) -> Tensor:
    """``t`` as a tensor in the dtype and on the device of ``x``, as a score takes it."""
    return t.to(x) if isinstance(t, Tensor) else torch.tensor(t, dtype=x.dtype, device=x.device)
