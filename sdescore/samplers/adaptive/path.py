r"""The noise of the reverse SDE as one path per sample, which may be asked anywhere, in any order.

In x₀ form (:mod:`sdescore.tableau.exponential`) a step adds the noise
:math:`\sigma_s n(t, s)`, and with :math:`k = \eta^2` and a Brownian motion W of clock
:math:`\tau = e^{2 k \lambda}`

.. math::
   n(t, s) = e^{-k \lambda_s} (W_{\tau_s} - W_{\tau_t})
   = y_s - e^{-k (\lambda_s - \lambda_t)} y_t, \qquad y = e^{-k \lambda}\, W_\tau .

y is an Ornstein–Uhlenbeck process: it stays of unit size where W runs over e^{±20}, and nothing
cancels. A value between two known ones, p after the former and q before the latter, is normal
with

.. math::
   E = e^{-k p} \frac{Q}{R}\, y_{before} + e^{-k q} \frac{P}{R}\, y_{after}, \qquad
   V = \frac{P\, Q}{R}, \qquad
   P, Q, R = 1 - e^{-2 k p},\ 1 - e^{-2 k q},\ 1 - e^{-2 k (p + q)},

the Brownian bridge in W's clock; with nothing known ahead, q = ∞. A value that was drawn is stored
until the path has passed it, so a rejected step discards no noise: rejection sampling with memory
(Rackauckas & Nie 2017, DCDS-B 22(7), doi:10.3934/dcdsb.2017133).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sdescore.shapes import align


class NoisePath:
    """y of some samples at η > 0, from ``y = 0`` on.

    The paths begin at ``start`` ``(B,)`` in λ. The values are like ``like`` ``(B, *E)``. Each of
    ``draws`` is a standard normal ``(B, *E)``, one for each call of :meth:`normal`; B does not
    shrink.
    """

    def __init__(self, start: Tensor, like: Tensor, eta: float, draws: Iterator[Tensor]) -> None:
        self.rate, self.draws = eta**2, draws
        self.rows = torch.arange(len(start), device=like.device)
        # Slots in no order; NaN, which compares as neither before nor after, marks a free one.
        self.lam = start[:, None].clone()
        self.values = torch.zeros_like(like)[:, None]

    def visit(self, lam: Tensor, z: Tensor) -> Tensor:
        """y at ``lam`` ``(B,)``, not before the last :meth:`forget`; drawn with ``z`` where new."""
        before = torch.where(self.lam <= lam[:, None], self.lam, -torch.inf).max(1)
        after = torch.where(self.lam > lam[:, None], self.lam, torch.inf).min(1)
        p, q = lam - before.values, after.values - lam
        P, Q, R = (-(-2 * self.rate * gap).expm1() for gap in (p, q, p + q))
        rows = torch.arange(len(lam), device="cpu")
        # Where the value is known p = P = 0, and this is that value.
        y = combined(
            [(-self.rate * p).exp() * Q / R, (-self.rate * q).exp() * P / R, (P * Q / R).sqrt()],
            [self.values[rows, before.indices], self.values[rows, after.indices], z],
        )
        self._remember(rows[p > 0], lam, y)
        return y

    def _remember(self, rows: Tensor, lam: Tensor, y: Tensor) -> None:
        if bool((~self.lam[rows].isnan()).all(1).any()):
            self.lam = torch.cat([self.lam, torch.full_like(lam, torch.nan)[:, None]], 1)
            self.values = torch.cat([self.values, torch.zeros_like(y)[:, None]], 1)
        slots = self.lam[rows].isnan().int().argmax(1)
        self.lam[rows, slots] = lam[rows]
        self.values[rows, slots] = y[rows.to(y.device)]

    def normal(self, t: Tensor, s: Tensor) -> Tensor:
        """The standard normal that drives the state from ``t``, a known point, to ``s``, in λ."""
        z = next(self.draws)[self.rows]
        before, after = self.visit(t, z), self.visit(s, z)
        decay = (-self.rate * (s - t)).exp()
        scale = (-(-2 * self.rate * (s - t)).expm1()).rsqrt()
        return combined([scale, -decay * scale], [after, before])

    def forget(self, lam: Tensor) -> None:
        """Drop what lies before ``lam``; nothing before it may be visited any more."""
        self.lam[self.lam < lam[:, None]] = torch.nan

    def keep(self, rows: Tensor) -> None:
        """Go on with these samples alone."""
        self.lam, self.values = self.lam[rows], self.values[rows.to(self.values.device)]
        self.rows = self.rows[rows.to(self.rows.device)]


def combined(weights: Sequence[Tensor], states: Sequence[Tensor]) -> Tensor:
    """``Σ_j w_j x_j`` of weights ``(B,)`` float64 and states ``(B, *E)``, like the states."""
    total = align(weights[0].to(states[0]), states[0]) * states[0]
    for w, x in zip(weights[1:], states[1:], strict=True):
        total.add_(align(w.to(x), x) * x)
    return total
