r"""Embedded pairs of exponential Runge–Kutta methods, as data, and one trial step with them.

With the notation of :mod:`sdescore.tableau.exponential` and nodes :math:`c_0 = 0, c_1, …`, the
model is called at :math:`\lambda_t + c_j h`. Each state, those at the next nodes and that at the
step's end, is the exact solution with the integrand replaced by a polynomial in λ through some of
the outputs so far. The end is computed twice, and the difference is the estimate of the error.

==========  ===========  ===================  ========  ========================================
pair        nodes        polynomials          estimate  method
==========  ===========  ===================  ========  ========================================
``NOISY``   0, 2/5       0; 0 and 1           h^{3/2}   exponential Euler (ancestral at η = 1)
                                                        in a method of weak order 2
``SMOOTH``  0, 1/3, 2/3  0; 0 and 1; 0 and 2  h³        DPM-Solver-23 (Lu et al. 2022a,
                                                        arXiv:2206.00927), on x₀
==========  ===========  ===================  ========  ========================================

Any second node gives weak order 2. The remaining error of the distribution is :math:`O(h^3)` a
step; at the node 2/5 and η = 1 it nearly vanishes on Gaussian data (with 12 to 30 steps, less than
a fifth of that of the node 1/2). With noise, the path moves by :math:`O(\sqrt h)` in a step, and so
do the outputs. The estimate therefore falls as :math:`h^{3/2}`, and along a path both methods are
of order 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.samplers.adaptive.path import combined
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.exponential import ExponentialStep, exponential_step


@dataclass(frozen=True)
class EmbeddedPair:
    """Which outputs each state of a step is made from."""

    nodes: tuple[float, ...]  # where the model is called, in parts of the step; the first is 0
    # The outputs that make the state at each later node and at the step's end, and those that make
    # the lower-order end.
    through: tuple[tuple[int, ...], ...]
    embedded: tuple[int, ...]
    order: float  # p, where the estimate of the error falls as h^p


NOISY = EmbeddedPair((0.0, 0.4), ((0,), (0, 1)), (0,), 1.5)
SMOOTH = EmbeddedPair((0.0, 1 / 3, 2 / 3), ((0,), (0, 1), (0, 2)), (0, 1), 3.0)


def attempt(
    pair: EmbeddedPair,
    sde: LinearSDE,
    eta: float,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    first: Tensor,
    denoise: Callable[[Tensor, Tensor], Tensor],
    noise: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """One step, each sample its own: the state at ``s``, and that less the lower order's.

    ``x`` ``(B, *E)`` is the state at ``t``, and ``first`` x̂₀ there; ``s < t`` are ``(B,)`` float64
    on the CPU. ``denoise(x, t)`` is x̂₀, called once for each node after the first. ``noise`` of a
    later λ is the standard normal that drives the state there from ``t``.
    """
    lam, end = sde.half_log_snr(t), sde.half_log_snr(s)
    nodes = torch.tensor(pair.nodes[1:], dtype=torch.float64, device="cpu")
    times = sde.time_at_half_log_snr(torch.lerp(lam[:, None], end[:, None], nodes))
    inner = times.unbind(1)
    offsets = torch.cat([lam[:, None], sde.half_log_snr(times)], 1) - lam[:, None]
    outputs, y = [first], x
    for j, to in enumerate([*inner, s]):
        if j:
            outputs.append(denoise(y, inner[j - 1]))
        step = exponential_step(sde, t, to, "x0", eta)
        weights = weights_through(step, offsets[:, : j + 1], pair.through[j])
        y = combined([step.a, *weights], [x, *outputs])
        if noise is not None:
            y = y + combined([step.c], [noise(sde.half_log_snr(to))])
    lower = weights_through(step, offsets, pair.embedded)
    return y, combined([w - v for w, v in zip(weights, lower, strict=True)], outputs)


def weights_through(step: ExponentialStep, offsets: Tensor, used: tuple[int, ...]) -> list[Tensor]:
    """Weights ``(B,)`` of the outputs at ``offsets`` ``(B, J)``, 0 for those not used."""
    found = torch.zeros_like(offsets)
    found[:, used] = step.weights(offsets[:, used])
    return list(found.unbind(1))
