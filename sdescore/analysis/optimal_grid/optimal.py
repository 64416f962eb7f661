r"""The grid on which a sampler has the least error, found before any network is run.

The times minimise, by gradient descent (:mod:`sdescore.analysis.optimal_grid.search`),

.. math:: L = (1 - b)\, E_{plain} + b\, E_{weighted} + 0.01\, E_{path} .

The three errors are those of :mod:`sdescore.analysis.optimal_grid.trajectories` for a sampler
without noise, and of :mod:`sdescore.analysis.optimal_grid.impulses` for one with noise. The plain
error depends most on the data's widest directions, and the weighted one, a likelihood, as much on
the finest. The last term keeps the steps from undoing each other's errors. The weights of a
deterministic multistep method (:class:`sdescore.predictors.Multistep`) may be free as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdescore import checks
from sdescore.analysis.error import gaussian_error, requested
from sdescore.analysis.model_error import error_beyond
from sdescore.analysis.optimal_grid.impulses import impulse_error, require_driven, weighted_modes
from sdescore.analysis.optimal_grid.search import POINTS, Search
from sdescore.analysis.optimal_grid.surrogate import Surrogate, fit_surrogate, gaussian_surrogate
from sdescore.analysis.optimal_grid.trajectories import FlowTrajectories, trajectory_error
from sdescore.analysis.pca import local_spectra, on_states, principal_axes
from sdescore.errors import IncompatibleError, ScheduleError
from sdescore.grids.base import CustomGrid, Grid
from sdescore.predictors.multistep import Multistep, shares
from sdescore.samplers.predictor_corrector.exact import Spectrum
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.base import SDE
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.method import Predictor
from sdescore.typing import Score

__all__ = ["OptimalGrid", "optimal_grid"]

STARTS = (0.75, 0.85, 0.95)  # where the last time is tried first, in shares of the log-SNR's range
SCORE_ERROR = 0.02  # gave the best first steps on trained networks; see the page on networks
TRIAL, TIMES, WEIGHTS = 30, 60, 80  # evaluations of the loss
MOST, ENOUGH = 1024, 2**15  # trajectories, and trajectories times directions
FEW = 2  # the start is chosen and the result tested on 1/FEW of the trajectories


@dataclass(frozen=True)
class OptimalGrid(Grid):
    """Times found by :func:`optimal_grid`, and the error to expect on them.

    All fields are numbers, so that a checkpoint can hold them:
    ``ss.save(path, model, info={"grid": dataclasses.asdict(grid)})``, and from the manifest
    ``OptimalGrid(**info["grid"])``.

    Attributes
    ----------
    values : tuple of float
        The times, falling.
    weights : tuple of tuples of float, or None
        For :class:`sdescore.predictors.Multistep`, where the weights were free.
    score_error : float
        The error of the model's ε that was assumed.
    loss, held_out_loss : float
        L on the trajectories that were used to find the times, and on others. The two are equal
        where the predictor draws noise, because nothing is simulated then.
    log_snr_loss : float
        L on those others of as many equal steps in log-SNR, by the predictor's own weights.
    relative_w2 : float
        W2 over the root of the data's total variance: exact, for Gaussian data with the same
        spectrum and for the exact score.

    Examples
    --------
    >>> import dataclasses, json, torch, sdescore as ss
    >>> sde, predictor = ss.VPSDE(), ss.ExponentialAdams(points=2)
    >>> grid = ss.optimal_grid(sde, predictor, 6, spectrum=torch.tensor([4.0, 0.1]))
    >>> text = json.dumps(dataclasses.asdict(grid))
    >>> ss.analysis.OptimalGrid(**json.loads(text)) == grid
    True
    """

    values: tuple[float, ...]
    score_error: float
    loss: float
    held_out_loss: float
    log_snr_loss: float
    relative_w2: float
    weights: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", CustomGrid(self.values).values)
        if self.weights is not None:
            object.__setattr__(self, "weights", Multistep(self.weights).weights)  # JSON has lists

    def times(self, sde: SDE, n: int | None) -> Tensor:
        """The times, checked as :class:`CustomGrid`'s are."""
        return CustomGrid(self.values).times(sde, n)


@torch.inference_mode(False)  # the search needs gradients, whatever mode the caller is in
@torch.enable_grad()
def optimal_grid(
    model: LinearSDE | Score,
    predictor: Predictor,
    steps: int,
    *,
    data: Tensor | np.ndarray[Any, Any] | None = None,
    spectrum: Tensor | None = None,
    surrogate: str = "mixture",
    fit_weights: bool = False,
    likelihood_weight: float = 0.5,
    score_error: float = SCORE_ERROR,
    trajectories: int | None = None,
    seed: int = 0,
) -> OptimalGrid:
    r"""The times at which a predictor has the least error, a grid for a sampler.

    Parameters
    ----------
    model : ScoreModel or LinearSDE
        The model, which knows its SDE and the scale of its data; or the sampler's SDE.
    predictor : Predictor
        A method with a tableau. It may draw noise, but not as churn.
    steps : int
        Number of times, >= 2, that of the last denoise included. For a method with one evaluation a
        step, it is the number of evaluations.
    data : Tensor or array
        ``(n, *E)``, n >= 2, like those to be sampled; also an array. A few thousand are enough.
        With an SDE they are states: of a model that standardises its data, ``model.from_data(x)``.
        Bytes become x/127.5 − 1, as in :func:`sdescore.train`.
    spectrum : Tensor
        ``(M,)``, eigenvalues of the states' covariance, in place of ``data``.
    surrogate : {"mixture", "gaussian"}
        The distribution that stands for the data: a Gaussian has their spectrum, and only a mixture
        has modes.
    fit_weights : bool
        Whether to find the weights of a multistep method as well. They start from those of
        ``predictor``, a one-stage method in x₀ of at most three outputs, and
        ``sdescore.predictors.Multistep(grid.weights)`` is the predictor to use on the grid. This
        needs ``data``: on a Gaussian many weights are exact that are wrong elsewhere.
    likelihood_weight : float
        b in [0, 1]: 0 counts the plain error (W2), 1 the error by local precision (likelihood).
    score_error : float
        Standard deviation >= 0 of the error of the model's ε, 0 for an exact score. It is counted
        where it makes x₀ wrong by more than the data's spread
        (:mod:`sdescore.analysis.model_error`). The default is for a network. It keeps the first
        steps so short that the network's errors there do not dominate.
    trajectories : int, optional
        How many to simulate, >= 1; by default 1024, and fewer above 32 directions. None are
        simulated for a predictor that draws noise.
    seed : int
        Of the trajectories' noise and of the surrogate's fit. The result is deterministic.

    Raises
    ------
    IncompatibleError
        A predictor without a tableau or with churn, an SDE that is not linear, both or none of
        ``data`` and ``spectrum``, or ``fit_weights=True`` for a predictor that has no such weights.
    ParameterError, ShapeError
        A number out of range, or data of a wrong shape, not finite, or that do not vary.
    ScheduleError
        An SDE whose log-SNR is infinite at T or t_min.

    Notes
    -----
    L is evaluated about 150 times, and 80 times more for weights. On one core this takes a few
    seconds in low dimension or for a predictor that draws noise. In 64 directions it takes about
    20 s at N = 10, and up to a minute at N = 20 with weights. More dimensions cost little, because
    they are Gaussian. Reading 60,000 data of 3,072 numbers takes 23 s.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde, predictor = ss.VPSDE(), ss.ExponentialAdams(points=2)
    >>> grid = ss.optimal_grid(sde, predictor, 6, spectrum=torch.tensor([4.0, 0.1]))
    >>> sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=grid)
    >>> sampler.evaluations, grid.held_out_loss < grid.log_snr_loss
    (6, True)
    """
    sde, states = on_states(model, data)
    checks.linear(sde, type(predictor).__name__)
    checks.instance("predictor", predictor, Predictor, "ss.DDIM()")
    affine, got = predictor.is_affine(sde), f"{predictor!r}"
    checks.that(affine, "a predictor with a tableau", got, IncompatibleError)
    steps = checks.count("steps", steps, at_least=2)
    if trajectories is not None:
        trajectories = checks.count("trajectories", trajectories)
    likelihood_weight = checks.number("likelihood_weight", likelihood_weight, at_least=0, at_most=1)
    score_error = checks.number("score_error", score_error, at_least=0)
    seed = checks.seed(seed)
    if fit_weights and (states is None or surrogate == "gaussian"):
        raise IncompatibleError(
            "expected data= and the mixture for fit_weights=True, because many weights that are "
            "exact on a Gaussian are wrong elsewhere; leave the weights to the predictor"
        )
    stand_in = surrogate_of(states, spectrum, surrogate, seed)
    ends = 0.5 * sde.log_snr(torch.tensor([sde.T, sde.t_min], dtype=torch.float64, device="cpu"))
    finite = bool(ends.isfinite().all())
    checks.that(finite, "a finite log-SNR at T and t_min", f"{ends.tolist()}", ScheduleError)
    search = Search(sde, predictor, ends[0].item(), ends[1].item(), likelihood_weight)
    if fit_weights:
        shares(predictor, sde, search.equal(steps), POINTS)  # refused before the search
    error = error_beyond(score_error, stand_in.spectrum.mean().item())
    if predictor.stochastic:
        require_driven(predictor, predictor.tableau(sde, search.equal(steps)))
        parts = neighbourhoods(states, surrogate, stand_in, seed)
        driven = weighted_modes(stand_in, parts, search.finest)
        measure = partial(impulse_error, modes=driven, eta=predictor.eta, error=error)
        rough = fitted = held_out = measure  # nothing is drawn
    else:
        many = trajectories or min(MOST, ENOUGH // max(stand_in.rank, 1))
        few = math.ceil(many / FEW)
        flow, other = (
            FlowTrajectories.solve(stand_in, search.first, search.last, count, s)
            for count, s in ((many, seed), (few, seed + 1))
        )
        rough, fitted, held_out = (
            partial(trajectory_error, flow=of, error=error) for of in (flow.some(few), flow, other)
        )
    tried = [search.descend((search.start(steps, share),), rough, TRIAL) for share in STARTS]
    loss, free = search.descend(min(tried, key=itemgetter(0))[1], fitted, TIMES)
    if fit_weights:
        loss, free = search.descend(search.with_weights(*free), fitted, WEIGHTS)
    times, table = search.decode(*free)
    if table is not None:
        predictor = Multistep(table.tolist())
    sampler = PredictorCorrector(sde, predictor=predictor, grid=CustomGrid(times))
    modes = stand_in.spectrum.clamp(min=search.finest)
    w2 = gaussian_error(sampler, modes).w2
    return OptimalGrid(
        values=tuple(times.tolist()),
        score_error=score_error,
        loss=loss,
        held_out_loss=search.loss(times, table, held_out).item(),
        log_snr_loss=search.loss(search.equal(steps), None, held_out).item(),
        relative_w2=(w2 / modes.sum().sqrt()).item(),
        weights=None if table is None else tuple(map(tuple, table.tolist())),
    )


def neighbourhoods(
    data: Tensor | None, surrogate: str, stand_in: Surrogate, seed: int
) -> list[tuple[float, Spectrum]]:
    """Gaussians that describe parts of the data, and their weights."""
    if data is None or surrogate == "mixture":
        return stand_in.components()
    spectra = local_spectra(data, seed=seed)
    return [(1 / len(spectra), Spectrum(row, torch.zeros_like(row))) for row in spectra]


def surrogate_of(
    data: Tensor | None, spectrum: Tensor | None, surrogate: str, seed: int
) -> Surrogate:
    """The surrogate of a caller's data or spectrum, of the kind asked for."""
    checks.choice("surrogate", surrogate, ("mixture", "gaussian"))
    if data is None or spectrum is not None:
        return gaussian_surrogate(requested(spectrum, data, None).variance)
    if surrogate == "gaussian":
        return gaussian_surrogate(principal_axes(data, 1, seed=seed).spectrum)
    return fit_surrogate(data, seed=seed)
