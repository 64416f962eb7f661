"""Rectified flow by Euler's method from t = 1 (Liu et al. 2022, arXiv:2209.03003)."""

from __future__ import annotations

import torch

from sdescore import checks
from sdescore.errors import ScheduleError
from sdescore.predictors.ddim import DDIM
from sdescore.published._source import linear_sde
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Score

__all__ = ["rectified_flow"]

NEAR = 1e-6  # how far from 1 the SDE's time may end


def rectified_flow(source: LinearSDE | Score, N: int = 100) -> PredictorCorrector:
    r"""The paper's N Euler steps :math:`x \leftarrow x - v(x, t)/N` at :math:`t = 1, \dots, 1/N`.

    Under :math:`x_t = (1 - t)\, x_0 + t\, \epsilon` they are steps of :class:`sdescore.DDIM`, for
    :math:`\hat x_0 = x - t v` and :math:`\hat\epsilon = x + (1 - t) v`. The paper's time is 1 − t.

    Parameters
    ----------
    source : ScoreModel or LinearSDE
        A model on a :class:`sdescore.RectifiedFlowSDE`, or this SDE. Its forward rates are infinite
        at t = 1, so its T is below 1. With ``T=1 - 1e-8`` the steps agree with those from t = 1 to
        1e-7.
    N : int
        The number of steps, >= 2. Each costs one evaluation.

    Returns
    -------
    PredictorCorrector

    Raises
    ------
    IncompatibleError
        The SDE is not linear.
    ScheduleError
        ``N`` < 2, or the SDE ends before 1 − 1e-6.

    Examples
    --------
    >>> import sdescore as ss
    >>> ss.published.rectified_flow(ss.RectifiedFlowSDE(T=1 - 1e-8), 4).times.tolist()
    [0.99999999, 0.75, 0.5, 0.25]
    """
    sde = linear_sde(source, "rectified_flow")
    steps = checks.count("N", N, at_least=2, error=ScheduleError)
    got = f"T = {sde.T:g}; give the model RectifiedFlowSDE(T=1 - 1e-8)"
    checks.that(0 <= 1 - sde.T <= NEAR, "an SDE that ends at t = 1, nearly", got, ScheduleError)
    times = 1 - torch.arange(steps, dtype=torch.float64, device="cpu") / steps
    times[0] = sde.T
    return PredictorCorrector(sde, predictor=DDIM(), grid=times)
