"""DDIM as its code runs it (Song, Meng & Ermon 2021, arXiv:2010.02502)."""

from __future__ import annotations

import torch

from sdescore import checks
from sdescore.errors import ScheduleError
from sdescore.predictors.ddim import DDIM
from sdescore.published._source import level_times, std_of_unit_prior
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.linear import LinearSDE
from sdescore.typing import Score

__all__ = ["ddim"]


def ddim(
    source: LinearSDE | Score, timesteps: int = 50, eta: float = 0.0, skip_type: str = "uniform"
) -> PredictorCorrector:
    """The sampler of DDIM's code on the table of a DDPM.

    Parameters
    ----------
    source : ScoreModel or LinearSDE
        A model on a :class:`sdescore.DiscreteVPSDE` of N levels, or this SDE.
    timesteps : int
        The number of levels to visit, 1 to N. ``"uniform"`` visits every (N // timesteps)-th level.
        These are more than ``timesteps`` levels where N is no multiple of ``timesteps``.
    eta : float
        η in [0, 1] of the paper's eq. 16: 0 is deterministic, 1 is DDPM with the small variance.
    skip_type : {"uniform", "quad"}
        Levels 0, N // timesteps, 2 (N // timesteps), …; or the whole part of equal steps in the
        root of the level, from 0 to 0.8 N.

    Returns
    -------
    PredictorCorrector
        Its last step leads from level 0 to the denoised state.

    Raises
    ------
    IncompatibleError
        The SDE has no levels, or ``skip_type`` is unknown.
    ScheduleError
        ``timesteps`` is out of range, or so many that levels of ``"quad"`` coincide.
    ParameterError
        ``eta`` is out of range.

    Examples
    --------
    >>> import sdescore as ss
    >>> sampler = ss.published.ddim(ss.DiscreteVPSDE.linear(1000), timesteps=50)
    >>> sampler.sde.level(sampler.times)[:3].tolist()
    [980.0, 960.0, 940.0]
    """
    sde, times = level_times(source, "ddim")
    levels = len(times)
    count = checks.count("timesteps", timesteps, at_most=levels, error=ScheduleError)
    checks.choice("skip_type", skip_type, ("uniform", "quad"))
    visited = torch.arange(0, levels, levels // count, device="cpu")
    if skip_type == "quad":
        end = (0.8 * levels) ** 0.5
        roots = torch.linspace(0, end, count, dtype=torch.float64, device="cpu")
        visited = roots.square().long()
    grid = times[visited].flip(0)
    return PredictorCorrector(
        sde, predictor=DDIM(eta), grid=grid, data_std=std_of_unit_prior(sde, grid[0].item())
    )
