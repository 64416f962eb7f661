r"""The grid on which a sampler errs least, found before any network is run.

The times go down the gradient (:mod:`sdescore.analysis.optimal_grid.search`) of

.. math:: L = (1 - b)\, E_{plain} + b\, E_{weighted} + 0.01\, E_{path},

the errors of :mod:`sdescore.analysis.optimal_grid.trajectories` where no noise is drawn, and of
:mod:`sdescore.analysis.optimal_grid.impulses` where some is. The weighted error is a likelihood's
and sees the data's finest directions, the plain one sees the widest. The last term keeps the steps
from making up for each other's errors.

The weights of a deterministic multistep method (:class:`sdescore.predictors.Multistep`) may be free
as well, the last denoise's among them. They start from those of a known method on its own optimal
times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.analysis.chain import Spectrum
from sdescore.analysis.error import gaussian_error, requested
from sdescore.analysis.model_error import ModelError, beyond
from sdescore.analysis.optimal_grid.impulses import impulse_error, modes_of, require_driven
from sdescore.analysis.optimal_grid.search import POINTS, Judge, Search
from sdescore.analysis.optimal_grid.surrogate import Surrogate, fit_surrogate, gaussian_surrogate
from sdescore.analysis.optimal_grid.trajectories import Flow, TrajectoryError, trajectory_error
from sdescore.analysis.pca import local_spectra, principal_axes
from sdescore.checks import finite, is_count, linear, require
from sdescore.errors import IncompatibleError
from sdescore.grids.base import Grid, Timeline
from sdescore.grids.custom import CustomGrid
from sdescore.predictors.base import Predictor
from sdescore.predictors.multistep import Multistep, shares
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.tableau import Tableau

__all__ = ["OptimalGrid", "optimal_grid"]

SURROGATES = ("mixture", "gaussian")
STARTS = (0.75, 0.85, 0.95)  # shares of the log-SNR's range at which the last time is tried first
SCORE_ERROR = 0.02  # makes the first steps on a network what serves it; see the page on networks
TRIAL, TIMES, WEIGHTS = 30, 60, 80  # evaluations of the loss
MOST, ENOUGH = 1024, 2**15  # trajectories, and their directions together
FEW = 2  # of so many trajectories one will do to choose a start, and to judge the result


@dataclass(frozen=True)
class OptimalGrid(Grid):
    """Times made by :func:`optimal_grid`, and what they promise.

    All fields are numbers, so that a checkpoint may hold them:
    ``ss.save(path, model, info={"grid": dataclasses.asdict(grid)})``, and from the manifest
    ``OptimalGrid(**info["grid"])``.

    Attributes
    ----------
    values : tuple of float
        Falling.
    weights : tuple of tuples of float, or None
        Of :class:`sdescore.predictors.Multistep`, where they were free.
    score_error : float
        That was reckoned with.
    loss, held_out_loss, log_snr_loss : float
        L on the trajectories the times were made on, on others, and of as many equal steps in
        log-SNR, by the predictor's own weights, on the same others. The first two are one where the
        predictor draws noise, for then nothing is simulated.
    relative_w2 : float
        Exact, on Gaussian data with the same spectrum and the exact score: W2 over the root of the
        total variance.
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

    def times(self, sde: Timeline, n: int | None) -> Tensor:
        """The times, checked as :class:`CustomGrid`'s are."""
        return CustomGrid(self.values).times(sde, n)

    def _times(self, sde: Timeline, n: int) -> Tensor:
        return self.times(sde, n)


def optimal_grid(
    sde: LinearSDE,
    predictor: Predictor,
    steps: int,
    *,
    data: Tensor | None = None,
    spectrum: Tensor | None = None,
    surrogate: str = "mixture",
    weights: bool = False,
    likelihood: float = 0.5,
    score_error: float = SCORE_ERROR,
    trajectories: int | None = None,
    seed: int = 0,
) -> OptimalGrid:
    r"""The times at which a predictor errs least.

    Parameters
    ----------
    sde : LinearSDE
        Of the sampler.
    predictor : Predictor
        With a tableau. A stochastic one with noises that drive the chain: no churn.
    steps : int
        Times of the grid, >= 2, the last denoise's among them; the evaluations, for a method with
        one a step.
    data : Tensor
        ``(n, *E)``, n >= 2: what will be sampled. A few thousand do.
    spectrum : Tensor
        ``(M,)``, eigenvalues of the data's covariance, in place of ``data``.
    surrogate : {"mixture", "gaussian"}
        What stands for ``data``. A Gaussian sees no modes.
    weights : bool
        Find the weights of :class:`sdescore.predictors.Multistep` as well, from those of
        ``predictor``, a one-stage method in x₀ of at most three outputs:
        ``Multistep(grid.weights)`` is then the predictor to use on the grid. Only with ``data``: on
        a Gaussian many weights are exact, and are wrong elsewhere.
    likelihood : float
        b in [0, 1]: 0 counts the plain error (W2), 1 the error by local precision (likelihood).
    score_error : float
        Error of the model's ε, a standard deviation >= 0, where it makes x₀ wrong by more than the
        data's spread (:mod:`sdescore.analysis.model_error`); 0 for an exact score. The default is
        for a network, and keeps the first steps from being so long that its errors decide.
    trajectories : int, optional
        How many, >= 1; by default 1024, and fewer above 32 directions. None are used where noise is
        drawn, for nothing is simulated then.
    seed : int
        Of their noise and of the surrogate's fit. The result is deterministic.

    Returns
    -------
    OptimalGrid
        A grid for :class:`sdescore.PredictorCorrector`.

    Raises
    ------
    IncompatibleError
        A predictor without a tableau or with churn, an SDE without kernels, both or none of
        ``data`` and ``spectrum``, free weights of a predictor that has none to free.
    ScheduleError, ShapeError
        A number out of range, or bad data.

    Notes
    -----
    L is evaluated some 150 times, and 80 more for weights, each time by N denoisings of the
    surrogate and back: on one core a few seconds in low dimension, and for 64 directions some 20 s
    at N = 10 and up to a minute at 20 with weights. More dimensions cost little, for they are
    Gaussian; reading 60,000 data of 3,072 numbers takes 23 s. Where noise is drawn nothing is
    simulated: seconds.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde, predictor = ss.VPSDE(), ss.ExponentialAdams(points=2)
    >>> grid = ss.optimal_grid(sde, predictor, 6, spectrum=torch.tensor([4.0, 0.1]))
    >>> sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=grid)
    >>> sampler.evaluations, grid.held_out_loss < grid.log_snr_loss
    (6, True)
    """
    linear(sde, type(predictor).__name__)
    if not predictor.is_affine(sde):
        raise IncompatibleError(f"expected a predictor with a tableau, got {predictor!r}")
    require(is_count(steps) and steps >= 2, "an integer steps >= 2", f"steps={steps!r}")
    usable = trajectories is None or (is_count(trajectories) and trajectories >= 1)
    require(usable, "an integer trajectories >= 1, or None", f"trajectories={trajectories!r}")
    usable = finite(likelihood) and 0 <= likelihood <= 1
    require(usable, "0 <= likelihood <= 1", f"likelihood={likelihood!r}")
    usable = finite(score_error) and score_error >= 0
    require(usable, "a finite score_error >= 0", f"score_error={score_error!r}")
    if weights and (data is None or surrogate == "gaussian"):
        raise IncompatibleError(
            "expected data= and the mixture for weights=True, for a Gaussian does not hold them to "
            "what is right elsewhere; leave the weights to the predictor"
        )
    stand_in = chosen(data, spectrum, surrogate, seed)
    ends = 0.5 * sde.log_snr(torch.tensor([sde.T, sde.t_min], dtype=torch.float64))
    require(bool(ends.isfinite().all()), "a finite log-SNR at T and t_min", f"{ends.tolist()}")
    search = Search(sde, predictor, ends[0].item(), ends[1].item(), likelihood)
    if weights:
        shares(predictor, sde, search.equal(steps), POINTS)  # refused before the search
    errs = beyond(score_error, stand_in.spectrum.mean().item())
    if predictor.stochastic:
        require_driven(predictor, predictor.tableau(sde, search.equal(steps)))
        nearby = places(data, surrogate, stand_in, seed)
        rough = seen = unseen = by_impulses(search, stand_in, nearby, errs)  # nothing is drawn
    else:
        many = trajectories or min(MOST, ENOUGH // max(stand_in.rank, 1))
        few = math.ceil(many / FEW)
        flow, other = (
            Flow.solve(stand_in, search.first, search.last, count, s)
            for count, s in ((many, seed), (few, seed + 1))
        )
        rough, seen, unseen = (
            by_trajectories(search, f, errs) for f in (flow.some(few), flow, other)
        )
    tried = [search.descend((search.start(steps, share),), rough, TRIAL) for share in STARTS]
    found = search.descend(min(tried, key=lambda one: one.loss).free, seen, TIMES)
    if weights:
        found = search.descend(search.with_weights(*found.free), seen, WEIGHTS)
    times, table = search.found(*found.free)
    if table is not None:
        predictor = Multistep(table.tolist())
    sampler = PredictorCorrector(sde, predictor=predictor, grid=CustomGrid(times))
    modes = stand_in.spectrum.clamp(min=search.finest)
    error = gaussian_error(sampler, modes)
    return OptimalGrid(
        values=tuple(times.tolist()),
        score_error=score_error,
        loss=found.loss,
        held_out_loss=search.loss(times, table, unseen).item(),
        log_snr_loss=search.loss(search.equal(steps), None, unseen).item(),
        relative_w2=(error.w2 / modes.sum().sqrt()).item(),
        weights=None if table is None else tuple(map(tuple, table.tolist())),
    )


def by_trajectories(search: Search, flow: Flow, errs: ModelError | None) -> Judge:
    """Of a deterministic sampler, by the ends of some trajectories and the way there."""

    def judge(tableau: Tableau, ending: Tableau, times: Tensor) -> TrajectoryError:
        return trajectory_error(tableau, ending, search.sde, times, flow, errs)

    return judge


def by_impulses(
    search: Search,
    stand_in: Surrogate,
    nearby: list[tuple[float, Spectrum]],
    errs: ModelError | None,
) -> Judge:
    """Of a stochastic sampler, by what becomes of its noises."""
    modes, eta = modes_of(stand_in, nearby, search.finest), search.predictor.eta

    def judge(tableau: Tableau, ending: Tableau, times: Tensor) -> TrajectoryError:
        return impulse_error(tableau, ending, search.sde, times, modes, eta, errs)

    return judge


def places(
    data: Tensor | None, surrogate: str, stand_in: Surrogate, seed: int
) -> list[tuple[float, Spectrum]]:
    """Gaussians that are the data near some of them, and their weights."""
    if data is None or surrogate == "mixture":
        return stand_in.places()
    spectra = local_spectra(data, seed=seed)
    return [(1 / len(spectra), Spectrum(row, torch.zeros_like(row))) for row in spectra]


def chosen(data: Tensor | None, spectrum: Tensor | None, surrogate: str, seed: int) -> Surrogate:
    """The surrogate that a caller asks for."""
    if surrogate not in SURROGATES:
        raise IncompatibleError(
            f"expected surrogate among {', '.join(SURROGATES)}; got {surrogate!r}"
        )
    if data is not None and spectrum is None and surrogate == "gaussian":
        return gaussian_surrogate(principal_axes(data, 1, seed=seed).spectrum)
    if data is None or spectrum is not None:
        return gaussian_surrogate(requested(spectrum, data, None).variance)
    return fit_surrogate(data, seed=seed)
