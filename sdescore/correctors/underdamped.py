r"""Underdamped Langevin trajectories as a corrector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.correctors.langevin import MOST, inner_steps
from sdescore.langevin.baoab import baoab
from sdescore.langevin.preconditioner import Preconditioner
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Corrector
from sdescore.tableau.tableau import Tableau

__all__ = ["Underdamped"]


@dataclass(frozen=True)
class Underdamped(Corrector):
    r"""Trajectories of ``length`` BAOAB steps (:mod:`sdescore.langevin.baoab`), each from a
    velocity drawn anew from N(0, I).

    The time step h is such a multiple of :math:`\sigma_t` that a trajectory of one step is the
    step of :class:`sdescore.Langevin` at the same ``snr``:

    .. math:: \tfrac{h^2}{4} \bigl(1 + e^{-\gamma h}\bigr) = \tau = 2(\mathrm{snr}\,\sigma_t)^2,
              \qquad \gamma = \frac{\mathrm{friction}}{\sigma_t} .

    The velocity is then dropped, so its last half kick is left out, and ``length`` steps
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

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> score = ss.GaussianScore([2.0], 0.25, sde)
    >>> corrector = ss.correctors.Underdamped()
    >>> sampler = ss.PredictorCorrector(sde, ss.ReverseDiffusion(), corrector, steps=100)
    >>> x = sampler.sample(score, shape=(4000, 1), seed=0)
    >>> round(x.mean().item(), 1), round(x.std().item(), 1)
    (2.0, 0.5)
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
            length=checks.count("length", self.length, at_most=MOST),
        )

    @classmethod
    def examples(cls) -> Sequence[Underdamped]:
        return [cls(), cls(friction=0.0)]

    @property
    def relative_step(self) -> float:
        """``h/σ_t``, between 2 snr (no friction) and √8 snr (all of it)."""
        h = 2 * self.snr
        for _ in range(30):  # a contraction: it divides the error by 7 at least
            h = self.snr * math.sqrt(8 / (1 + math.exp(-self.friction * h)))
        return h

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        sigma_t = sde.marginal(times)[1]
        b, c = trajectory(self.relative_step, self.friction, self.length)
        return Tableau(
            times=times[:, None].expand(-1, self.length),
            a=times.new_ones(len(times), self.length),
            b=sigma_t.square()[:, None, None] * b,
            c=sigma_t[:, None, None] * c,
        )


def trajectory(h: float, friction: float, length: int) -> tuple[Tensor, Tensor]:
    """Weights of scores, newest first, ``(J, J)``, and of noises ``(J, J + 1)``, in each stage.

    BAOAB itself is run, for ``x_0 = 0`` and σ = 1, on unit vectors in place of the scores
    ``s_0 … s_{J−1}``, the first velocity and the noises ``z_1 … z_J``.
    """
    units = torch.eye(2 * length + 1, dtype=torch.float64, device="cpu")[:, None]
    # The last score is the end's own: it moves the velocity alone, which the trajectory drops.
    scores = iter([*units[:length], torch.zeros_like(units[0])])
    b = units.new_zeros(length, length)
    c = units.new_zeros(length, length + 1)
    steps = baoab(
        torch.zeros_like(units[0]),
        units[length],
        lambda x: next(scores),
        h,
        friction,
        1.0,
        Preconditioner(units.new_ones(())),
        iter(units[length + 1 :]),
    )
    for j, (x, _) in enumerate(steps):
        b[j, : j + 1] = x[0, : j + 1].flip(0)
        c[j] = x[0, length:]
    return b, c
