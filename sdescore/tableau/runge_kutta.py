r"""Classical Runge–Kutta methods on the probability flow, in EDM's variables.

With :math:`\bar x = x/\alpha` and :math:`\rho = \sigma/\alpha` the probability-flow ODE of every
linear SDE is

.. math:: \frac{d\bar x}{d\rho} = \hat\epsilon(x, t)

(Karras et al. 2022, arXiv:2206.00364, eq. 4, where :math:`\hat\epsilon = (x - D(x))/\sigma`; Song,
Meng & Ermon 2021, arXiv:2010.02502, eq. 14). A method of Butcher's table :math:`(c_j, w_{ji})` is

.. math:: \bar y_{j+1} = \bar x_t + (\rho_s - \rho_t) \sum_{i \le j} w_{ji}\,
          \hat\epsilon(y_i, t_i), \qquad \rho(t_i) = \rho_t + c_i (\rho_s - \rho_t) .
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdescore.sde.linear import LinearSDE
from sdescore.tableau.nodes import time_at

__all__ = ["runge_kutta"]


def runge_kutta(
    sde: LinearSDE,
    t: Tensor,
    s: Tensor,
    nodes: tuple[float, ...],
    weights: tuple[tuple[float, ...], ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """``(times, a, b)`` of the method with this Butcher's table from ``t`` to ``s``, ``(N,)``.

    Parameters
    ----------
    nodes : tuple of float
        ``c_j`` of the J evaluations, in [0, 1].
    weights : tuple of tuple of float
        ``w_ji`` of outputs ``i <= j`` in the state after evaluation ``j``; the last are those of
        the step.
    """
    backward = sde.transition(s, t)
    alpha_t, sigma_t = sde.marginal(t)
    alpha_s, sigma_s = sde.marginal(s)
    # α_s (ρ_s − ρ_t) = σ_s − σ_t/a, rationalised: its square root terms nearly cancel.
    V = backward.variance / backward.scale.square()
    on_epsilon = -V / (sigma_t / backward.scale + sigma_s)
    rho_t, change = sigma_t / alpha_t, on_epsilon / alpha_s
    inner = {c: time_at(sde, -(rho_t + c * change).log()) for c in nodes if 0 < c < 1}
    times = torch.stack([({0.0: t, 1.0: s} | inner)[c] for c in nodes], 1)
    # α where each stage leads to: the next evaluation, and the end of the step.
    alpha = torch.cat([sde.marginal(times)[0][:, 1:], alpha_s[:, None]], 1)
    newest_first = [[*reversed(row), *[0.0] * (len(nodes) - len(row))] for row in weights]
    table = torch.tensor(newest_first, dtype=torch.float64)
    return times, alpha / alpha_t[:, None], (alpha * change[:, None])[..., None] * table
