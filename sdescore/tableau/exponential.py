r"""The reverse diffusion in log-SNR, and the weights of a polynomial under its exponential.

With :math:`\lambda = \log(\alpha/\sigma)`, half the log-SNR, the reverse SDE of noise scale η
has the exact solution, from t down to s with :math:`h = \lambda_s - \lambda_t > 0` and
:math:`k = 1 + \eta^2`,

.. math::
   x_s &= \frac{\sigma_s}{\sigma_t} e^{-\eta^2 h} x_t
   + \alpha_s k \int_0^h e^{-k (h - \tau)}\, \hat x_0(\lambda_t + \tau)\, d\tau
   + \sigma_s \sqrt{1 - e^{-2 \eta^2 h}}\; z \\
   &= \frac{\alpha_s}{\alpha_t} x_t
   - \sigma_s k \int_0^h e^{h - \tau}\, \hat\epsilon(\lambda_t + \tau)\, d\tau
   + \eta \sigma_s \sqrt{e^{2h} - 1}\; z

along the path (η = 0: Lu et al. 2022b, arXiv:2211.01095, eq. 8, and 2022a, arXiv:2206.00927,
eq. 3.4; η = 1: the same paper's eqs. 18–19; any η: Xue et al. 2023, arXiv:2309.05019,
proposition 4.2). The methods differ in what polynomial they put in place of the integrand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import ScheduleError
from sdescore.sde.linear import LinearSDE

__all__ = ["exponential_step"]

OUTPUTS = ("x0", "epsilon")
SWITCH, TERMS = 1.5, 24  # of the series of phi: 1.5²⁴/24! is 3e-20
FAR = -1e9  # stands for −∞, log(α/σ) at α = 0: an older output there has no weight


def clock(sde: LinearSDE, times: Tensor) -> Tensor:
    """λ at the times of a grid, refused where σ_t = 0."""
    lam = sde.half_log_snr(times).clamp(min=FAR)
    checks.that(
        bool(lam.isfinite().all()),
        "a grid where sigma_t > 0",
        "a time where x_t has no noise",
        ScheduleError,
    )
    return lam


@dataclass(frozen=True, eq=False)
class ExponentialStep:
    r"""Moves :math:`x_s = a x_t + \gamma \int_0^h e^{r (h - \tau)} o(\tau) d\tau + c z`."""

    h: Tensor  # as a, gamma and c: (N,) float64
    a: Tensor
    gamma: Tensor
    c: Tensor
    rate: float  # r, which is −(1 + η²) where the output is x₀ and 1 where it is ε

    def weights(self, nodes: Tensor, *, midpoint: bool = False) -> Tensor:
        r"""Weights of the outputs at ``nodes``, exact for polynomials in λ of degree < p.

        ``nodes`` ``(N, p)`` are λ − λ_t of the outputs, all different in a row; the weights are
        like them. ``midpoint`` takes the polynomial's value in the middle of the step, τ = h/2, in
        place of its mean under the exponential; the two agree to the second order.
        """
        p = nodes.shape[-1]
        # ∫₀ʰ e^{r(h−τ)} (τ/h)^m dτ = h m! φ_{m+1}(rh), and the weights reproduce it.
        moments = phi(self.rate * self.h, p)[..., 1:]
        if midpoint:
            right = moments[..., :1] * moments.new_tensor([0.5**m for m in range(p)])
        else:
            right = moments * moments.new_tensor([math.factorial(m) for m in range(p)])
        powers = moments.new_tensor(range(p))[:, None]
        system = (nodes / self.h[:, None])[:, None, :] ** powers
        solved: Tensor = torch.linalg.solve(system, right[..., None])[..., 0]
        return (self.gamma * self.h)[:, None] * solved

    def rows(self, index: Tensor) -> ExponentialStep:
        """Some of the moves."""
        h, a, gamma, c = (v[index] for v in (self.h, self.a, self.gamma, self.c))
        return ExponentialStep(h, a, gamma, c, self.rate)

    def adams_weights(
        self, lam: Tensor, count: int, *, ahead: int = 0, midpoint: bool = False
    ) -> Tensor:
        r"""Weights ``(N, count)`` of the last outputs, newest first, or of as many as there are.

        ``lam`` is λ of the outputs in the order they are made; move n starts at ``lam[n]``, and its
        newest output is ``n + ahead``: 0 is Adams–Bashforth, 1 Adams–Moulton.
        """
        n = torch.arange(len(self.h), device=lam.device)
        used = (n + ahead + 1).clamp(max=count)
        found = lam.new_zeros(len(n), count)
        for m in sorted(set(used.tolist())):
            rows = n[used == m]
            newest_first = torch.arange(m, device=lam.device)
            nodes = lam[rows[:, None] + ahead - newest_first] - lam[rows, None]
            found[rows, :m] = self.rows(rows).weights(nodes, midpoint=midpoint)
        return found


def exponential_step(
    sde: LinearSDE, t: Tensor, s: Tensor, output: str, eta: float
) -> ExponentialStep:
    """The exact solution's numbers from ``t`` to ``s < t``, ``(N,)`` float64.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde, t, s = ss.VPSDE(), *torch.tensor([[0.5], [0.2]], dtype=torch.float64)
    >>> step = ss.tableau.exponential_step(sde, t, s, "x0", eta=0.0)
    >>> weight = step.weights(torch.zeros(1, 1, dtype=torch.float64))  # of the newest output alone
    >>> (alpha_t, sigma_t), (alpha_s, sigma_s) = sde.marginal(t), sde.marginal(s)
    >>> torch.allclose(weight[0], alpha_s - alpha_t * sigma_s / sigma_t)  # which is DDIM's
    True
    """
    alpha_t, sigma_t = sde.marginal(t)
    alpha_s, sigma_s = sde.marginal(s)
    h = clock(sde, s) - clock(sde, t)
    eta2 = eta**2
    if output == "x0":
        a = sigma_s / sigma_t * (-eta2 * h).exp()
        c = sigma_s * (-(-2 * eta2 * h).expm1()).sqrt() if eta else torch.zeros_like(h)
        return ExponentialStep(h, a, alpha_s * (1 + eta2), c, -(1 + eta2))
    c = eta * sigma_s * (2 * h).expm1().sqrt() if eta else torch.zeros_like(h)
    return ExponentialStep(h, alpha_s / alpha_t, -sigma_s * (1 + eta2), c, 1.0)


def phi(z: Tensor, order: int) -> Tensor:
    r"""The φ-functions ``φ_0(z) … φ_order(z)`` of finite float64 numbers, along a new last axis.

    .. math::
       \varphi_k(z) = \int_0^1 e^{(1 - \theta) z} \frac{\theta^{k-1}}{(k-1)!}\, d\theta
       = \sum_{m \ge 0} \frac{z^m}{(m + k)!}, \qquad \varphi_0(z) = e^z, \qquad
       \varphi_{k+1}(z) = \frac{\varphi_k(z) - 1/k!}{z}

    (Hochbruck & Ostermann 2010, Acta Numerica 19, eqs. 2.10 and 2.11). The recursion loses about
    :math:`k \log_{10}(1/|z|)` digits at small z, where the series takes its place.
    """
    small = z.abs() < SWITCH
    near, far = torch.where(small, z, 0.0), torch.where(small, SWITCH, z)
    columns = [z.exp()]
    recursion = far.expm1() / far
    for k in range(1, order + 1):
        if k > 1:
            recursion = (recursion - 1 / math.factorial(k - 1)) / far
        series = torch.zeros_like(near)
        for m in reversed(range(TERMS)):
            series = series * near + 1 / math.factorial(m + k)
        columns.append(torch.where(small, series, recursion))
    return torch.stack(columns, -1)
