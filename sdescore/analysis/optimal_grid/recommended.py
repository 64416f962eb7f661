"""A sampler for a number of evaluations, with its method and its grid chosen for the data."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from sdescore import checks
from sdescore.analysis.optimal_grid.optimal import SCORE_ERROR, optimal_grid
from sdescore.analysis.pca import on_states
from sdescore.predictors.adams import ExponentialAdams
from sdescore.predictors.multistep import Multistep
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Predictor
from sdescore.typing import Score

__all__ = ["recommended_sampler"]


def recommended_sampler(
    model: LinearSDE | Score,
    evaluations: int = 10,
    *,
    data: Tensor | np.ndarray[Any, Any] | None = None,
    spectrum: Tensor | None = None,
    fit_weights: bool | None = None,
    likelihood_weight: float = 0.5,
    score_error: float = SCORE_ERROR,
    seed: int = 0,
) -> PredictorCorrector:
    """A deterministic sampler with the least error for ``evaluations`` on data like yours.

    It is the corrected exponential Adams method of two points in x₀. Its times are those of its
    least error on a surrogate of the data (:func:`sdescore.optimal_grid`). No network is run to
    find them, but an error of the network is assumed. For an exact score pass ``score_error=0``.
    With ``data`` you then get a multistep method of three denoised states, whose weights and times
    are found together. The repr names the method, the times, and the error to expect.

    Parameters
    ----------
    evaluations : int
        Calls of the network for a sample, >= 2.
    model, data, spectrum, likelihood_weight, score_error, seed
        As in :func:`sdescore.optimal_grid`, as are the errors.
    fit_weights : bool, optional
        Whether to find the method's weights as well, which needs ``data``. By default this is done
        for an exact score. On two trained networks free weights gained little, and were worse at
        five or eight evaluations.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sampler = ss.recommended_sampler(ss.VPSDE(), 5, spectrum=torch.tensor([4.0, 0.1]))
    >>> sampler.evaluations, sampler.predictor.points, sampler.predictor.corrector_points
    (5, 2, 3)
    >>> data = torch.tensor([480.0, 520.0]).repeat(50)[:, None]
    >>> model = ss.ScoreModel(ss.MLP(1), ss.VPSDE(), data_mean=500.0, data_std=20.0)
    >>> exact = ss.recommended_sampler(model, 4, data=data, score_error=0)
    >>> type(exact.predictor).__name__
    'Multistep'
    """
    evaluations = checks.count("evaluations", evaluations, at_least=2)
    sde, states = on_states(model, data)
    predictor: Predictor = ExponentialAdams(points=2, corrector_points=3)
    free = score_error == 0 if fit_weights is None else fit_weights
    grid = optimal_grid(
        sde,
        predictor,
        evaluations,
        data=states,
        spectrum=spectrum,
        fit_weights=free and states is not None,
        likelihood_weight=likelihood_weight,
        score_error=score_error,
        seed=seed,
    )
    if grid.weights is not None:
        predictor = Multistep(grid.weights)
    return PredictorCorrector(sde, predictor=predictor, grid=grid)
