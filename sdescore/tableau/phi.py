r"""The φ-functions of exponential integrators, without cancellation.

.. math::
   \varphi_k(z) = \int_0^1 e^{(1 - \theta) z} \frac{\theta^{k-1}}{(k-1)!}\, d\theta
   = \sum_{m \ge 0} \frac{z^m}{(m + k)!}, \qquad \varphi_0(z) = e^z, \qquad
   \varphi_{k+1}(z) = \frac{\varphi_k(z) - 1/k!}{z}

(Hochbruck & Ostermann 2010, Acta Numerica 19, eqs. 2.10 and 2.11). The recursion loses about
:math:`k \log_{10}(1/|z|)` digits at small z, where the series takes its place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SWITCH, TERMS = 1.5, 24  # 1.5²⁴/24! is 3e-20


def phi(z: Tensor, order: int) -> Tensor:
    r"""``φ_0(z) … φ_order(z)`` of finite float64 numbers, along a new last axis."""
    small = z.abs() < SWITCH
    near, far = torch.where(small, z, 0.0), torch.where(small, SWITCH, z)
    columns = [z.exp()]
    recursion = far.exp()
    for k in range(1, order + 1):
        recursion = far.expm1() / far if k == 1 else (recursion - 1 / math.factorial(k - 1)) / far
        series = torch.zeros_like(near)
        for m in reversed(range(TERMS)):
            series = series * near + 1 / math.factorial(m + k)
        columns.append(torch.where(small, series, recursion))
    return torch.stack(columns, -1)
