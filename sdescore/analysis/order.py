"""The order of convergence of a predictor, measured on Gaussian data without sampling."""

from __future__ import annotations

import math

import torch

from sdescore import checks
from sdescore.analysis.error import gaussian_error
from sdescore.grids.base import CustomGrid
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Predictor

__all__ = ["order"]

# The errors are largest where α²Λ and σ² are alike: on half the log-SNR's range, around these Λ.
SPECTRUM, LARGEST_LOG_SNR = (0.2, 1.0, 3.0), 4.0


def order(predictor: Predictor, sde: LinearSDE, *, steps: int = 128) -> float:
    r"""The measured order of convergence of the output's distribution on Gaussian data.

    A chain starts from the diffused data and takes equal steps in log-SNR over the middle of the
    SDE's range. The error is the distance W2 of its output to the diffused data. The order p is the
    power of the step size with which the error falls, from ``steps`` to twice as many:

    .. math:: p = \log_2 \frac{W_2(\text{steps})}{W_2(2\,\text{steps})} .

    Parameters
    ----------
    predictor, sde : Predictor, LinearSDE
        A predictor with a tableau on this SDE.
    steps : int
        Steps of the coarser grid, >= 2. With more, the figure is nearer its limit, until rounding
        errors dominate.

    Raises
    ------
    IncompatibleError, ParameterError
        The predictor has no tableau, or there are too few steps.

    Examples
    --------
    >>> import sdescore as ss
    >>> round(ss.analysis.order(ss.DDIM(), ss.VPSDE()), 1)
    1.0
    """
    steps = checks.count("steps", steps, at_least=2)
    coarse, fine = (error_of_steps(predictor, sde, n) for n in (steps, 2 * steps))
    return math.log2(coarse / fine)


def error_of_steps(predictor: Predictor, sde: LinearSDE, steps: int) -> float:
    """W2 to the diffused data after ``steps`` equal steps in log-SNR from the diffused data."""
    ends = sde.log_snr(torch.tensor([sde.T, sde.t_min], dtype=torch.float64, device="cpu"))
    first, last = ends.clamp(-LARGEST_LOG_SNR, LARGEST_LOG_SNR).tolist()
    log_snr = torch.linspace(first, last, steps + 1, dtype=torch.float64, device="cpu")
    times = sde.time_at_log_snr(log_snr)
    sampler = PredictorCorrector(sde, predictor=predictor, grid=CustomGrid(times), denoise=False)
    return gaussian_error(sampler, times.new_tensor(SPECTRUM)).w2_of_steps.item()
