r"""Runge–Kutta methods on the probability flow, in EDM's variables.

With :math:`\bar x = x/\alpha` and the noise-to-signal ratio :math:`\sigma/\alpha`, the
probability-flow ODE of every linear SDE is

.. math:: \frac{d\bar x}{d(\sigma/\alpha)} = \hat\epsilon(x, t)

(Karras et al. 2022, arXiv:2206.00364, eq. 4, where :math:`\hat\epsilon = (x - D(x))/\sigma`; Song,
Meng & Ermon 2021, arXiv:2010.02502, eq. 14). A method of Butcher's table :math:`(c_j, w_{ji})` is

.. math:: \bar y_{j+1} = \bar x_t + h \sum_{i \le j} w_{ji}\, \hat\epsilon(y_i, t_i), \qquad
          \frac{\sigma}{\alpha}(t_i) = \frac{\sigma_t}{\alpha_t} + c_i h , \qquad
          h = \frac{\sigma_s}{\alpha_s} - \frac{\sigma_t}{\alpha_t} .
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.tableau import Tableau

__all__ = ["runge_kutta"]

TOLERANCE = 1e-12


def runge_kutta(
    sde: LinearSDE, t: Tensor, s: Tensor, nodes: Sequence[float], weights: Sequence[Sequence[float]]
) -> Tableau:
    r"""The explicit Runge–Kutta method of Butcher's table, from each ``t`` to ``s < t``.

    Parameters
    ----------
    sde : LinearSDE
        Any.
    t, s : Tensor
        ``(N,)`` float64: where the N steps start and end.
    nodes : sequence of float
        :math:`c_j` of the J evaluations, in [0, 1]; the first is 0.
    weights : sequence of sequences of float
        Row ``j`` has the ``j + 1`` weights :math:`w_{ji}` of the outputs so far, oldest first; they
        make the state after evaluation ``j``. Each row sums to the next node, and the last row to
        1.

    Returns
    -------
    Tableau
        J stages without noise, on outputs ε.

    Raises
    ------
    ParameterError
        The nodes and weights are not those of an explicit method.
    TimeError
        A step ends where no time of the SDE has the noise-to-signal ratio of a node.

    Examples
    --------
    Ralston's method (1962) is the two-stage method of second order with the least error bound:

    >>> import sdescore as ss
    >>> class Ralston(ss.Predictor):
    ...     order = 2
    ...
    ...     def tableau(self, sde, times):
    ...         nodes, weights = (0, 2 / 3), [[2 / 3], [1 / 4, 3 / 4]]
    ...         return ss.tableau.runge_kutta(sde, times[:-1], times[1:], nodes, weights)
    >>> Ralston().evaluations, Ralston().noises
    (2, 0)
    >>> f"{ss.analysis.order(Ralston(), ss.VPSDE()):.1f}"
    '2.0'
    """
    check_table(nodes, weights)
    backward = sde.transition(s, t)
    alpha_t, sigma_t = sde.marginal(t)
    got = "alpha_t = 0; start the grid below T, or use DDIM() or ExponentialAdams()"
    checks.that(bool((alpha_t > 0).all()), "alpha_t > 0 for a method in σ/α", got, ScheduleError)
    alpha_s, sigma_s = sde.marginal(s)
    # α_s h = σ_s − σ_t/a, rationalised: its square root terms nearly cancel.
    V = backward.variance / backward.scale.square()
    on_epsilon = -V / (sigma_t / backward.scale + sigma_s)
    noise_ratio, change = sigma_t / alpha_t, on_epsilon / alpha_s
    inside = [c for c in nodes if 0 < c < 1]
    inner = {c: sde.time_at_half_log_snr(-(noise_ratio + c * change).log()) for c in inside}
    times = torch.stack([({0.0: t, 1.0: s} | inner)[c] for c in nodes], 1)
    # α where each stage leads to: the next evaluation, and the end of the step.
    alpha = torch.cat([sde.marginal(times)[0][:, 1:], alpha_s[:, None]], 1)
    newest_first = [[*reversed(row), *[0.0] * (len(nodes) - len(row))] for row in weights]
    b = (alpha * change[:, None])[..., None] * times.new_tensor(newest_first)
    none = times.new_zeros(*times.shape, 0)
    return Tableau(times, alpha / alpha_t[:, None], b, none, "epsilon")


def check_table(nodes: Sequence[float], weights: Sequence[Sequence[float]]) -> None:
    """Refuse numbers that are no Butcher's table of an explicit method."""
    usable = len(nodes) > 0 and all(checks.is_number(c) and 0 <= c <= 1 for c in nodes)
    checks.that(usable and nodes[0] == 0, "nodes in [0, 1], the first of them 0", tuple(nodes))
    lengths = [len(row) for row in weights]
    rows = f"{len(nodes)} rows of weights with 1, 2, … entries, one row a node"
    checks.that(lengths == list(range(1, len(nodes) + 1)), rows, f"rows of lengths {lengths}")
    for row, node in zip(weights, [*nodes[1:], 1.0], strict=True):
        usable = all(map(checks.is_number, row)) and abs(math.fsum(row) - node) <= TOLERANCE
        checks.that(usable, f"weights that sum to the next node, {node:g}", tuple(row))
