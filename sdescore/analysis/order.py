"""The order of a predictor, measured: by how much twice the steps reduce the error of the law."""

from __future__ import annotations

import math

import torch

from sdescore.analysis.error import gaussian_error
from sdescore.checks import is_count, require
from sdescore.grids.custom import CustomGrid
from sdescore.predictors.base import Predictor
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.linear import LinearSDE

__all__ = ["order"]

# Where α²Λ and σ² are of one size, the score of a mode is farthest from both its limits.
SPECTRUM, HALF_RANGE = (0.2, 1.0, 3.0), 4.0


def order(predictor: Predictor, sde: LinearSDE, *, steps: int = 128) -> float:
    r"""The measured order of the error of the output's law on Gaussian data.

    On a grid of equal steps in log-SNR over the middle of the SDE's range the law of a chain that
    starts right is compared with the diffused data's, at ``steps`` and at twice as many:

    .. math:: p = \log_2 \frac{W_2(\text{steps})}{W_2(2\,\text{steps})} .

    Parameters
    ----------
    predictor : Predictor
        With a tableau on this SDE.
    sde : LinearSDE
        Any.
    steps : int
        >= 2. More show the limit better, until rounding does.

    Raises
    ------
    IncompatibleError
        The predictor has no tableau.
    ScheduleError
        Too few steps.

    Examples
    --------
    >>> import sdescore as ss
    >>> round(ss.analysis.order(ss.DDIM(), ss.VPSDE()), 1)
    1.0
    """
    require(is_count(steps) and steps >= 2, "an integer steps >= 2", f"{steps!r}")
    coarse, fine = (error_of_steps(predictor, sde, n) for n in (steps, 2 * steps))
    return math.log2(coarse / fine)


def error_of_steps(predictor: Predictor, sde: LinearSDE, steps: int) -> float:
    """W2 that ``steps`` equal moves in log-SNR add to the law."""
    ends = sde.log_snr(torch.tensor([sde.T, sde.t_min], dtype=torch.float64))
    first, last = ends.clamp(-HALF_RANGE, HALF_RANGE).tolist()
    times = sde.time_at_log_snr(torch.linspace(first, last, steps + 1, dtype=torch.float64))
    sampler = PredictorCorrector(sde, predictor=predictor, grid=CustomGrid(times), denoise=False)
    return gaussian_error(sampler, torch.tensor(SPECTRUM, dtype=torch.float64)).w2_of_steps.item()
