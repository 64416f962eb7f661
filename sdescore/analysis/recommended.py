"""One sampler for a number of evaluations, chosen without reading a paper."""

from __future__ import annotations

from torch import Tensor

from sdescore.analysis.optimal import optimal_grid
from sdescore.predictors.adams import ExponentialAdams
from sdescore.predictors.base import Predictor
from sdescore.predictors.multistep import Multistep
from sdescore.sampler.predictor_corrector import PredictorCorrector
from sdescore.sde.base import require
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import is_count

__all__ = ["recommended_sampler"]


def recommended_sampler(
    sde: LinearSDE,
    evaluations: int = 10,
    *,
    data: Tensor | None = None,
    spectrum: Tensor | None = None,
    weights: bool = True,
    likelihood: float = 0.5,
    seed: int = 0,
) -> PredictorCorrector:
    """A deterministic sampler that makes the most of ``evaluations`` on data like yours.

    With ``data``, a multistep method of three denoised states whose weights and times err least
    together on a surrogate of the data (:func:`sdescore.optimal_grid`). With a spectrum alone, the
    corrected exponential Adams method of two points in x₀ on its best times. No network is run to
    choose them. The repr names all, and what error to expect.

    Parameters
    ----------
    sde : LinearSDE
        The model's.
    evaluations : int
        Of the score for a sample, >= 2.
    data, spectrum, likelihood, seed
        As in :func:`sdescore.optimal_grid`.
    weights : bool
        Whether the weights are free where there are data. They gain most below ten evaluations. A
        network's own error can undo the gain, so compare: False searches the grid alone.

    Raises
    ------
    IncompatibleError, ScheduleError, ShapeError
        As :func:`sdescore.optimal_grid`.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sampler = ss.recommended_sampler(ss.VPSDE(), 5, spectrum=torch.tensor([4.0, 0.1]))
    >>> sampler.evaluations, sampler.predictor.points, sampler.predictor.corrector_points
    (5, 2, 3)
    >>> data = torch.tensor([-2.0, 2.0]).repeat(50)[:, None]
    >>> type(ss.recommended_sampler(ss.VPSDE(), 4, data=data).predictor).__name__
    'Multistep'
    """
    usable = is_count(evaluations) and evaluations >= 2
    require(usable, "an integer evaluations >= 2", f"evaluations={evaluations!r}")
    predictor: Predictor = ExponentialAdams(points=2, corrector_points=3)
    grid = optimal_grid(
        sde,
        predictor,
        evaluations,
        data=data,
        spectrum=spectrum,
        weights=weights and data is not None,
        likelihood=likelihood,
        seed=seed,
    )
    if grid.weights is not None:
        predictor = Multistep(grid.weights)
    return PredictorCorrector(sde, predictor=predictor, grid=grid)
