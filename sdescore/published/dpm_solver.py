r"""DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), multistep, as its code runs it.

With :math:`\lambda = \log(\alpha/\sigma)`, :math:`h = \lambda_s - \lambda_t`, the newest outputs
:math:`m_0, m_1, m_2` of x̂₀, the ratios :math:`r_j` of the steps before to h, and the divided
differences

.. math:: D_j = \frac{m_j - m_{j+1}}{r_j}, \qquad
   D = D_0 + \frac{r_0}{r_0 + r_1} (D_0 - D_1), \qquad D' = \frac{D_0 - D_1}{r_0 + r_1},

a step of order 1, 2 (the paper's algorithm 2) or 3 adds to
:math:`\tfrac{\sigma_s}{\sigma_t} x + \alpha_s (1 - e^{-h})\, m_0`

.. math:: 0, \qquad \alpha_s \tfrac{1 - e^{-h}}{2}\, D_0, \qquad
   \alpha_s \varphi_2 D - \alpha_s \bigl(\tfrac{\varphi_2}{h} - \tfrac12\bigr) D' , \qquad
   \varphi_2 = 1 - \tfrac{1 - e^{-h}}{h} .

The code gives the last term of order 3 half the weight that the polynomial through three outputs
has. :class:`sdescore.ExponentialAdams` with three points has the whole weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from sdescore import checks
from sdescore.published._half_log_snr import Multistep, check_steps, orders, time_steps
from sdescore.published._source import linear_sde, std_of_unit_prior
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.tableau import Tableau
from sdescore.typing import Score

__all__ = ["DPMSolverPlusPlus", "dpm_solver_plus_plus"]

FEW_STEPS = 10  # below it the code lowers the order of the last steps


@dataclass(frozen=True)
class DPMSolverPlusPlus(Multistep):
    """The multistep method of DPM-Solver++'s code.

    Parameters
    ----------
    solver_order : int
        The order of its steps, 1 to 3. The first steps have lower orders.
    lower_order_final : bool
        Whether the last steps of fewer than 10 have lower orders too.

    Raises
    ------
    ParameterError
        An argument is out of range.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde, spectrum = ss.VPSDE(), torch.tensor([4.0, 0.1])
    >>> for predictor in (ss.DDIM(), ss.published.DPMSolverPlusPlus(solver_order=3)):
    ...     sampler = ss.PredictorCorrector(sde, predictor, grid=ss.LogSNRGrid(), steps=15)
    ...     print(f"{ss.analysis.gaussian_error(sampler, spectrum).w2:.2f}")
    0.32
    0.04
    """

    solver_order: int = 2
    lower_order_final: bool = True

    def __post_init__(self) -> None:
        order = checks.count("solver_order", self.solver_order, at_most=3)
        checks.flag("lower_order_final", self.lower_order_final)
        vars(self).update(solver_order=order)

    def tableau(self, sde: LinearSDE, times: Tensor) -> Tableau:
        """One stage without noise, with up to three outputs x̂₀."""
        alpha, sigma = sde.marginal(times)
        lam = sde.half_log_snr(times).tolist()
        steps, few = len(times) - 1, self.lower_order_final and len(times) <= FEW_STEPS
        rows = []
        for n, order in enumerate(orders(self.solver_order, steps, few)):
            h = lam[n + 1] - lam[n]
            past = [(lam[n - j] - lam[n - j - 1]) / h for j in range(order - 1)]
            rows.append(output_weights(h, past))
        b = alpha[1:, None] * alpha.new_tensor(rows)
        a = (sigma[1:] / sigma[:-1])[:, None]
        return Tableau(times[:-1, None], a, b[:, None], a.new_zeros(steps, 1, 1), "x0")


def output_weights(h: float, past: list[float]) -> list[float]:
    """Weights of m₀, m₁, m₂ over α_s in a step h of λ, from the ratios of the steps before."""
    first = -math.expm1(-h)
    if not past:
        return [first, 0.0, 0.0]
    r0 = past[0]
    if len(past) == 1:
        return [first + first / (2 * r0), -first / (2 * r0), 0.0]
    r1 = past[1]
    second = 1 - first / h
    # In terms of D_0 and D_1: D = (1 + q) D_0 − q D_1 and D' = (D_0 − D_1)/(r_0 + r_1).
    q, bent = r0 / (r0 + r1), (second / h - 0.5) / (r0 + r1)
    on_first, on_second = second * (1 + q) - bent, bent - second * q
    return [
        first + on_first / r0,
        on_second / r1 - on_first / r0,
        -on_second / r1,
    ]


def dpm_solver_plus_plus(
    source: LinearSDE | Score,
    steps: int = 20,
    order: int = 2,
    skip_type: str = "time_uniform",
    t_end: float | None = None,
    lower_order_final: bool = True,
    denoise_to_zero: bool = False,
) -> PredictorCorrector:
    """The sampler of DPM-Solver++'s code with ``algorithm_type="dpmsolver++"``, multistep.

    Parameters
    ----------
    source : ScoreModel or LinearSDE
        A model, or its SDE. The code supports a linear β(t), which is :class:`sdescore.VPSDE`, or a
        table. On a table the network is called between levels, by
        ``time_input="continuous_level"``.
    steps : int
        The number of steps, at least ``order``. Each costs one evaluation.
    order : int
        1 to 3.
    skip_type : {"time_uniform", "time_quadratic", "logSNR"}
        Equal steps in t, in √t or in log(α/σ).
    t_end : float, optional
        Where the last move ends, in [0, T); by default the SDE's ``t_min``, the code's 1/1000.
    lower_order_final : bool
        Whether the last steps of fewer than 10 have lower orders.
    denoise_to_zero : bool
        Whether the sampler ends with x̂₀ at ``t_end``, which costs one more evaluation.

    Returns
    -------
    PredictorCorrector

    Raises
    ------
    IncompatibleError
        The SDE is not linear, or ``skip_type`` is none of the three.
    ParameterError, ScheduleError, TimeError
        A number is out of range.

    Examples
    --------
    >>> import sdescore as ss
    >>> sampler = ss.published.dpm_solver_plus_plus(ss.VPSDE(), steps=20)
    >>> sampler.evaluations, sampler.denoise
    (20, False)
    """
    sde = linear_sde(source, "dpm_solver_plus_plus")
    steps, order = check_steps(steps, order, 3)
    return PredictorCorrector(
        sde,
        predictor=DPMSolverPlusPlus(order, lower_order_final),
        grid=time_steps(sde, skip_type, steps, t_end),
        denoise=checks.flag("denoise_to_zero", denoise_to_zero),
        data_std=std_of_unit_prior(sde, sde.T),
    )
