"""DDPM's sampler as its code runs it (Ho et al. 2020, arXiv:2006.11239)."""

from __future__ import annotations

from sdescore import checks
from sdescore.predictors.ancestral import Ancestral
from sdescore.published._source import level_times, std_of_unit_prior
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Score

__all__ = ["ddpm"]

VARIANCES = {"fixedlarge": "fixed_large", "fixedsmall": "fixed_small"}


def ddpm(source: LinearSDE | Score, model_var_type: str = "fixedlarge") -> PredictorCorrector:
    """The paper's algorithm 2 on all levels of a table.

    The code clips the denoised state to [−1, 1] in each step. To do so, sample
    :func:`ss.guidance.clipped(model) <sdescore.guidance.clipped>` in place of the model.

    Parameters
    ----------
    source : ScoreModel or LinearSDE
        A model on a :class:`sdescore.DiscreteVPSDE`, or this SDE.
    model_var_type : {"fixedlarge", "fixedsmall"}
        The variance of a step: β as in the code's CIFAR-10 and LSUN settings, or the posterior's.

    Returns
    -------
    PredictorCorrector
        Its last step leads from level 0 to the denoised state, without noise.

    Raises
    ------
    IncompatibleError
        The SDE has no levels, or ``model_var_type`` is unknown.

    Examples
    --------
    >>> import sdescore as ss
    >>> ss.published.ddpm(ss.DiscreteVPSDE.linear(1000)).evaluations
    1000
    """
    sde, times = level_times(source, "ddpm")
    variance = VARIANCES[checks.choice("model_var_type", model_var_type, tuple(VARIANCES))]
    grid = times.sort(descending=True).values
    data_std = std_of_unit_prior(sde, grid[0].item())
    return PredictorCorrector(sde, predictor=Ancestral(variance), grid=grid, data_std=data_std)
