r"""UniPC (Zhao et al. 2023, arXiv:2302.04867), multistep in x̂₀, as its code runs it.

With :math:`\lambda = \log(\alpha/\sigma)` and :math:`h = \lambda_s - \lambda_t`, a step of order p
from the newest outputs :math:`m_0, m_1, \dots` is

.. math:: x_s = \tfrac{\sigma_s}{\sigma_t} x + \alpha_s (1 - e^{-h})\, m_0
   - \alpha_s B(h) \sum_k \rho_k \frac{m_k - m_0}{r_k}, \qquad
   r_k = \frac{\lambda_k - \lambda_t}{h} .

The weights ρ make it exact for polynomials in λ,

.. math:: \sum_k \rho_k\, r_k^{i-1} = \frac{- h\, i!\, \varphi_{i+1}(-h)}{B}, \qquad i = 1, 2, \dots

(φ as in :mod:`sdescore.tableau.exponential`). The predictor takes the p − 1 outputs before m₀, and
the corrector the output at s as well, whose r is 1. Where there is only one ρ, the code takes ρ = ½
and does not solve the equation. Only there does the choice of B matter: −h is its variant
``"bh1"``, and :math:`e^{-h} - 1` its variant ``"bh2"``. :class:`sdescore.ExponentialAdams` solves
the equation there too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.published._half_log_snr import Multistep, check_steps, orders, time_steps
from sdescore.published._source import linear_sde, std_of_unit_prior
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.exponential import phi
from sdescore.tableau.tableau import Tableau
from sdescore.typing import Score

__all__ = ["UniPC", "unipc"]

VARIANTS = ("bh1", "bh2")
HIGHEST = 4


@dataclass(frozen=True)
class UniPC(Multistep):
    """UniPC's predictor and its corrector, which costs no further evaluation.

    The corrector moves the state that the model was called on, before the next step starts from it
    (the paper's algorithm 1). So it changes only the next row's numbers.

    Parameters
    ----------
    solver_order : int
        The order p of its steps, 1 to 4. The first steps have lower orders.
    variant : {"bh1", "bh2"}
        The function B(h) of the module's docstring.
    lower_order_final : bool
        Whether the last steps have lower orders too.

    Raises
    ------
    ParameterError, IncompatibleError
        An argument is out of range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde, spectrum = ss.VPSDE(), torch.tensor([4.0, 0.1])
    >>> for predictor in (ss.DDIM(), ss.published.UniPC(solver_order=3)):
    ...     sampler = ss.PredictorCorrector(sde, predictor, grid=ss.LogSNRGrid(), steps=15)
    ...     print(f"{ss.analysis.gaussian_error(sampler, spectrum).w2:.2f}")
    0.32
    0.01
    """

    solver_order: int = 2
    variant: str = "bh1"
    lower_order_final: bool = True

    def __post_init__(self) -> None:
        order = checks.count("solver_order", self.solver_order, at_most=HIGHEST)
        checks.choice("variant", self.variant, VARIANTS)
        checks.flag("lower_order_final", self.lower_order_final)
        vars(self).update(solver_order=order)

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """One stage without noise, with up to p + 1 outputs x̂₀."""
        alpha, sigma = sde.marginal(times)
        lam = sde.half_log_snr(times).tolist()
        steps, width = len(times) - 1, self.solver_order + 1
        a = sigma[1:] / sigma[:-1]
        b = alpha.new_zeros(steps, width)
        correction = alpha.new_zeros(width)
        for n, order in enumerate(orders(self.solver_order, steps, self.lower_order_final)):
            h = lam[n + 1] - lam[n]
            past = [(lam[n - k] - lam[n]) / h for k in range(1, order)]
            predicts, corrects = alpha.new_zeros(2, width)
            predicts[:order] = alpha.new_tensor(self.output_weights(h, past))
            b[n] = a[n] * correction + alpha[n + 1] * predicts
            # At the next step the output at this step's end is the newest: r = 1 stands first.
            on_start, *on_past, on_end = self.output_weights(h, [*past, 1.0])
            corrects[: order + 1] = alpha.new_tensor([on_end, on_start, *on_past])
            correction = alpha[n + 1] * (corrects - predicts.roll(1))
        none = a.new_zeros(steps, 1, 1)
        return Tableau(times[:-1, None], a[:, None], b[:, None], none, "x0")

    def output_weights(self, h: float, ratios: list[float]) -> list[float]:
        """Weights of m₀ and of the outputs at r over α_s, in a step h of λ."""
        unknowns = len(ratios)
        z = torch.tensor(-h, dtype=torch.float64, device="cpu")
        functions = phi(z, unknowns + 1)
        B = -h if self.variant == "bh1" else math.expm1(-h)
        r = z.new_tensor(ratios)
        rho = z.new_full((unknowns,), 0.5)
        if unknowns > 1:
            powers = z.new_tensor(range(unknowns))
            factorials = z.new_tensor([math.factorial(i + 1) for i in range(unknowns)])
            right = -h * factorials * functions[2:] / B
            rho = torch.linalg.solve(r ** powers[:, None], right)
        on_outputs = -B * rho / r
        on_start = h * functions[1] - on_outputs.sum()
        return [on_start.item(), *on_outputs.tolist()]


def unipc(
    source: LinearSDE | Score,
    steps: int = 20,
    order: int = 2,
    variant: str = "bh1",
    skip_type: str = "time_uniform",
    t_end: float | None = None,
    lower_order_final: bool = True,
    denoise_to_zero: bool = False,
) -> PredictorCorrector:
    """The sampler of UniPC's code with ``predict_x0=True``, multistep.

    Parameters
    ----------
    source : ScoreModel or LinearSDE
        A model, or its SDE. The code supports a linear β(t), which is :class:`sdescore.VPSDE`, or a
        table. On a table the network is called between levels, by
        ``time_input="continuous_level"``.
    steps : int
        The number of steps, at least ``order``. Each costs one evaluation.
    order : int
        1 to 4.
    variant : {"bh1", "bh2"}
        See :mod:`sdescore.published.unipc`.
    skip_type, t_end, denoise_to_zero
        As in :func:`sdescore.published.dpm_solver_plus_plus`.
    lower_order_final : bool
        Whether the last steps have lower orders, at any number of steps.

    Returns
    -------
    PredictorCorrector

    Raises
    ------
    IncompatibleError
        The SDE is not linear, or ``skip_type`` or ``variant`` is unknown.
    ParameterError, ScheduleError, TimeError
        A number is out of range.

    Examples
    --------
    >>> import sdescore as ss
    >>> ss.published.unipc(ss.VPSDE(), steps=10, order=3).evaluations
    10
    """
    sde = linear_sde(source, "unipc")
    steps, order = check_steps(steps, order, HIGHEST)
    return PredictorCorrector(
        sde,
        predictor=UniPC(order, variant, lower_order_final),
        grid=time_steps(sde, skip_type, steps, t_end),
        denoise=checks.flag("denoise_to_zero", denoise_to_zero),
        data_std=std_of_unit_prior(sde, sde.T),
    )
