r"""Underdamped Langevin trajectories as a corrector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.correctors.base import Corrector, inner_steps
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.tableau import Tableau

__all__ = ["Underdamped"]


@dataclass(frozen=True)
class Underdamped(Corrector):
    r"""Trajectories of ``length`` BAOAB steps (:mod:`sdescore.langevin.baoab`), each from a
    velocity drawn anew from N(0, I).

    The time step is in units of :math:`\sigma_t`, :math:`h = \kappa \sigma_t`, and κ such that a
    trajectory of one step is the step of :class:`sdescore.Langevin` at the same ``snr``:

    .. math:: \tfrac{h^2}{4} \bigl(1 + e^{-\gamma h}\bigr) = \tau = 2(\mathrm{snr}\,\sigma_t)^2,
              \qquad \gamma = \frac{\mathrm{friction}}{\sigma_t} .

    The velocity goes with the trajectory, so its last half kick is left out, and ``length`` steps
    cost as many evaluations. A trajectory is affine: a tableau of ``length`` stages.

    Parameters
    ----------
    snr : float
        Signal-to-noise ratio, > 0, as in :class:`sdescore.Langevin`. Stable below 1/√2 at
        worst (h < 2σ); below 1 with ``length=1``.
    friction : float
        γσ_t >= 0; 0 draws no noise on the way (Hamiltonian dynamics, without a test).
    steps : int
        Trajectories a time, >= 1.
    length : int
        BAOAB steps a trajectory, >= 1.

    Raises
    ------
    ParameterError
        A parameter out of range.
    """

    snr: float = 0.16
    friction: float = 1.0
    steps: int = 1
    length: int = 5

    def __post_init__(self) -> None:
        vars(self).update(
            snr=checks.number("snr", self.snr, above=0),
            friction=checks.number("friction", self.friction, at_least=0),
            steps=inner_steps(self.steps),
            length=checks.count("length", self.length),
        )

    @classmethod
    def examples(cls) -> Sequence[Underdamped]:
        return [cls(), cls(friction=0.0)]

    @property
    def kappa(self) -> float:
        """``h/σ_t``, between 2 snr (no friction) and √8 snr (all of it)."""
        kappa = 2 * self.snr
        for _ in range(30):  # a contraction: it divides the error by 7 at least
            kappa = self.snr * math.sqrt(8 / (1 + math.exp(-self.friction * kappa)))
        return kappa

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        sigma_t = sde.marginal(times)[1]
        b, c = trajectory(self.kappa, self.friction, self.length)
        return Tableau(
            times=times[:, None].expand(-1, self.length),
            a=torch.ones(len(times), self.length, dtype=torch.float64),
            b=sigma_t.square()[:, None, None] * b,
            c=sigma_t[:, None, None] * c,
        )


def trajectory(h: float, friction: float, length: int) -> tuple[Tensor, Tensor]:
    """Weights of scores, newest first, ``(J, J)``, and of noises ``(J, J + 1)``, in each stage.

    Position and velocity are carried along BAOAB as linear combinations of the scores
    ``s_0 … s_{J−1}``, the first velocity and the noises ``z_1 … z_J``, for ``x_0 = 0`` and σ = 1.
    """
    kept, fresh = math.exp(-friction * h), math.sqrt(-math.expm1(-2 * friction * h))
    x, v = torch.zeros(2, 2 * length + 1, dtype=torch.float64)
    v[length] = 1.0
    b = torch.zeros(length, length, dtype=torch.float64)
    c = torch.zeros(length, length + 1, dtype=torch.float64)
    for j in range(length):
        # The half kicks on both sides of a state are one.
        v[j] += 0.5 * h if j == 0 else h
        x = x + 0.5 * h * v
        v = kept * v
        v[length + 1 + j] += fresh
        x = x + 0.5 * h * v
        b[j, : j + 1] = x[: j + 1].flip(0)
        c[j] = x[length:]
    return b, c
