"""EDM's sampler, deterministic and with churn (Karras et al. 2022, arXiv:2206.00364)."""

from __future__ import annotations

import math

import torch

from sdescore import checks
from sdescore.errors import ScheduleError
from sdescore.grids.table import TableGrid
from sdescore.predictors.runge_kutta import Heun
from sdescore.published._source import linear_sde
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Score

__all__ = ["edm"]


def edm(
    source: LinearSDE | Score,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
) -> PredictorCorrector:
    r"""The paper's algorithm 2, as its code runs it; without churn it is algorithm 1.

    The times are those of eq. 5, :math:`\sigma_i = \bigl(\sigma_{max}^{1/\rho} + \tfrac{i}{N-1}
    (\sigma_{min}^{1/\rho} - \sigma_{max}^{1/\rho})\bigr)^\rho`. Under an SDE with α ≠ 1 the paper's
    σ is σ/α.

    Parameters
    ----------
    source : ScoreModel or LinearSDE
        A model, or its SDE.
    num_steps : int
        N >= 2. A sample costs 2 N − 1 evaluations.
    sigma_min, sigma_max : float
        The ends of the times, ``0 < sigma_min < sigma_max``. As in the original, they are clamped
        to the range of the model's SDE.
    rho : float
        The exponent ρ > 0.
    S_churn, S_min, S_max, S_noise : float
        The churn, as in :class:`sdescore.Heun`. The first and the last step have churn where their
        σ is in [S_min, S_max].

    Returns
    -------
    PredictorCorrector
        The original runs it in float64: pass ``dtype=torch.float64``.

    Raises
    ------
    IncompatibleError
        The SDE is not linear.
    ParameterError
        A number is out of range.
    ScheduleError
        ``num_steps`` < 2, or the churn leads beyond the SDE's largest σ/α.

    Examples
    --------
    >>> import sdescore as ss
    >>> ss.published.edm(ss.EDMSDE()).evaluations
    35

    Churn at the first step calls the network beyond ``sigma_max``. Give the model such an SDE:

    >>> wide = ss.EDMSDE(sigma_max=120.0)
    >>> sampler = ss.published.edm(wide, S_churn=40.0)
    >>> round(sampler.program.times[0], 2)  # 80 · √2
    113.14
    """
    sde = linear_sde(source, "edm")
    count = checks.count("num_steps", num_steps, at_least=2, error=ScheduleError)
    ends = torch.tensor([0.0, sde.T], dtype=torch.float64, device="cpu")
    smallest, largest = sde.noise_ratio(ends).tolist()
    low = max(checks.number("sigma_min", sigma_min, above=0), smallest)
    high = min(checks.number("sigma_max", sigma_max, above=sigma_min), largest)
    root = 1 / checks.number("rho", rho, above=0)
    sigmas = torch.linspace(high**root, low**root, count, dtype=torch.float64, device="cpu") ** rho
    predictor = Heun(s_churn=S_churn, s_min=S_min, s_max=S_max, s_noise=S_noise)
    churned = sigmas[(sigmas >= predictor.s_min) & (sigmas <= predictor.s_max)].tolist()
    factor = 1 + min(predictor.s_churn / count, math.sqrt(2) - 1)
    reached = factor * max(churned, default=0.0)
    got = f"{type(sde).__name__} up to {largest:g}; give the model an SDE with a larger sigma_max"
    expected = f"an SDE that reaches σ/α = {reached:g}, where the churn leads"
    checks.that(reached <= largest * (1 + 1e-9), expected, got, ScheduleError)
    return PredictorCorrector(sde, predictor=predictor, grid=TableGrid(sigmas))
