r"""The grid on which a sampler errs least, found before any network is run.

The times have :math:`\lambda(T) = \lambda_0 < \lambda_1 < \dots < \lambda_{N-1} <
\lambda(t_{\min})`, shares of the range by a softmax, so that t always falls; where the last one
lies, from which the last denoise jumps to the data, is free. Adam (Kingma & Ba 2015,
arXiv:1412.6980) moves them down the gradient of

.. math:: L = (1 - b)\, E_{plain} + b\, E_{weighted} + 0.01\, E_{path},

the errors of :mod:`sdescore.analysis.trajectories`. The weighted error is a likelihood's and sees
the data's finest directions, the plain one sees the widest. The last term keeps the steps from
making up for each other's errors.

The weights of a multistep method (:class:`sdescore.Multistep`) may be free as well, the last
denoise's among them. They start from those of a known method on its own optimal times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.analysis.error import gaussian_error, requested
from sdescore.analysis.pca import principal_axes
from sdescore.analysis.surrogate import Surrogate, fit_surrogate, gaussian_surrogate
from sdescore.analysis.trajectories import Flow, TrajectoryError, trajectory_error
from sdescore.errors import IncompatibleError
from sdescore.grids import CustomGrid, Grid, Timeline
from sdescore.predictors.base import Predictor, require_linear
from sdescore.predictors.multistep import Multistep, moves, shares, weighted_mean
from sdescore.predictors.nodes import time_at
from sdescore.sampler.predictor_corrector import PredictorCorrector
from sdescore.sde.base import finite, require
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import is_count

__all__ = ["OptimalGrid", "optimal_grid"]

SURROGATES = ("mixture", "gaussian")
STARTS = (0.75, 0.85, 0.95)  # shares of the log-SNR's range at which the last time is tried first
PATH = 0.01
SCORE_ERROR = 0.05  # makes the first steps on a network what serves it; see the page on networks
POINTS = 3  # outputs that free weights are of
RATE, RATE_OF_WEIGHTS = 0.05, 0.02
ROUNDS, TRIAL = 250, 60
BETAS, CLIP = (0.9, 0.95), 0.1  # a trajectory that changes its end jolts the gradient


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
        Of :class:`sdescore.Multistep`, where they were free.
    score_error : float
        That was reckoned with.
    loss, held_out_loss, log_snr_loss : float
        L on the trajectories the times were made on, on others, and of as many equal steps in
        log-SNR, by the predictor's own weights, on the same others.
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
    trajectories: int = 256,
    seed: int = 0,
) -> OptimalGrid:
    r"""The times at which a deterministic predictor's trajectories err least.

    Parameters
    ----------
    sde : LinearSDE
        Of the sampler.
    predictor : Predictor
        Deterministic, with a tableau.
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
        Find the weights of :class:`sdescore.Multistep` as well, from those of ``predictor``, a
        one-stage method in x₀ of at most three outputs: ``Multistep(grid.weights)`` is then the
        predictor to use on the grid. Only with ``data``: on a Gaussian many weights are exact, and
        are wrong elsewhere.
    likelihood : float
        b in [0, 1]: 0 counts the plain error (W2), 1 the error by local precision (likelihood).
    score_error : float
        Error of the model's ε, a standard deviation >= 0: 0 for an exact score. The default is for
        a network, and keeps the steps from being so long, the first above all, that its errors
        decide.
    trajectories : int
        How many, >= 1.
    seed : int
        Of their noise and of the surrogate's fit. The result is deterministic.

    Returns
    -------
    OptimalGrid
        A grid for :class:`sdescore.PredictorCorrector`.

    Raises
    ------
    IncompatibleError
        A predictor that draws noise or has no tableau, an SDE without kernels, both or none of
        ``data`` and ``spectrum``.
    ScheduleError, ShapeError
        A number out of range, or bad data.

    Notes
    -----
    Takes some 430 rounds of N denoisings of the surrogate and back, and 250 more for weights: on
    one core at N = 10 some 15 s in low dimension and a minute for 64 directions, half as much again
    with weights; nearly twice that at N = 20. More dimensions cost little, for they are Gaussian;
    reading 60,000 data of 3,072 numbers takes 23 s.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde, predictor = ss.VPSDE(), ss.ExponentialAdams(points=2)
    >>> grid = ss.optimal_grid(sde, predictor, 6, spectrum=torch.tensor([4.0, 0.1]))
    >>> sampler = ss.PredictorCorrector(sde, predictor=predictor, grid=grid)
    >>> sampler.evaluations, grid.held_out_loss < grid.log_snr_loss
    (6, True)
    """
    require_linear(predictor, sde)
    if predictor.stochastic or not predictor.is_affine(sde):
        raise IncompatibleError(
            f"expected a deterministic predictor with a tableau, got {predictor!r}; its grid may "
            "serve a stochastic one of the same kind"
        )
    require(is_count(steps) and steps >= 2, "an integer steps >= 2", f"steps={steps!r}")
    require(
        is_count(trajectories) and trajectories >= 1,
        "an integer trajectories >= 1",
        f"trajectories={trajectories!r}",
    )
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
    search = Search(sde, predictor, ends[0].item(), ends[1].item(), likelihood, score_error)
    if weights:
        shares(predictor, sde, search.equal(steps), POINTS)  # refused before the search
    seen, unseen = (
        Flow.solve(stand_in, search.first, search.last, trajectories, s) for s in (seed, seed + 1)
    )
    tried = [search.descend((search.start(steps, share),), seen, TRIAL) for share in STARTS]
    best = search.descend(min(tried, key=lambda found: found[1])[0], seen, ROUNDS)
    if weights:
        best = search.descend(search.with_weights(*best[0]), seen, ROUNDS)
    times, table = search.found(*best[0])
    if table is not None:
        predictor = Multistep(table.tolist())
    sampler = PredictorCorrector(sde, predictor=predictor, grid=CustomGrid(times))
    modes = stand_in.spectrum.clamp(min=search.finest)
    error = gaussian_error(sampler, modes)
    return OptimalGrid(
        values=tuple(times.tolist()),
        score_error=score_error,
        loss=best[1],
        held_out_loss=search.loss(times, table, unseen).item(),
        log_snr_loss=search.loss(search.equal(steps), None, unseen).item(),
        relative_w2=(error.w2 / modes.sum().sqrt()).item(),
        weights=None if table is None else tuple(map(tuple, table.tolist())),
    )


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


@dataclass(frozen=True)
class Search:
    """The times as free numbers: log shares of the steps, and the logit of where they end."""

    sde: LinearSDE
    predictor: Predictor
    first: float
    last: float
    likelihood: float
    score_error: float

    @property
    def finest(self) -> float:
        """ϱ² at t_min. Variances below it are not resolved."""
        return math.exp(-2 * self.last)

    def start(self, steps: int, share: float) -> Tensor:
        """Equal steps over ``share`` of the range, ``(steps,)``."""
        free = torch.zeros(steps, dtype=torch.float64)
        free[-1] = torch.logit(torch.tensor(share, dtype=torch.float64))
        return free

    def times(self, free: Tensor) -> Tensor:
        """The times that ``free`` stands for."""
        steps = free[:-1].softmax(0) * free[-1].sigmoid()
        return self.from_lam(self.first + (self.last - self.first) * steps.cumsum(0))

    def equal(self, steps: int) -> Tensor:
        """Equal steps of λ over the whole range."""
        return self.from_lam(torch.linspace(self.first, self.last, steps, dtype=torch.float64)[1:])

    def from_lam(self, lam: Tensor) -> Tensor:
        """T, and then the times of ``lam``."""
        first = torch.tensor([self.sde.T], dtype=torch.float64)
        return torch.cat([first, time_at(self.sde, lam)])

    def with_weights(self, free: Tensor) -> tuple[Tensor, Tensor]:
        """``free``, and the predictor's weights of all outputs but the newest, ``(N, H − 1)``."""
        return free, shares(self.predictor, self.sde, self.times(free), POINTS)[:, 1:]

    def found(self, free: Tensor, older: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Times ``(N,)`` and, where they are free, weights ``(N, H)``."""
        if older is None:
            return self.times(free), None
        # Row n has n past outputs; what they weigh is taken from the newest.
        older = older.tril(-1)
        return self.times(free), torch.cat([1 - older.sum(1, keepdim=True), older], 1)

    def loss(self, times: Tensor, weights: Tensor | None, flow: Flow) -> Tensor:
        """L on ``times``, ``()``."""
        if weights is None:
            tableau = self.predictor.tableau(self.sde, times)
            ending = self.predictor.ending(self.sde, times)
        else:
            tableau = moves(self.sde, times, weights)
            ending = weighted_mean(times[-1:], weights[-1])
        return objective(
            trajectory_error(tableau, ending, self.sde, times, flow, self.score_error),
            self.likelihood,
        )

    def descend(
        self, start: tuple[Tensor, ...], flow: Flow, rounds: int
    ) -> tuple[tuple[Tensor, ...], float]:
        """The best numbers seen in ``rounds`` steps of Adam, and their loss."""
        free = [part.clone().requires_grad_() for part in start]
        adam = torch.optim.Adam(free, lr=RATE if len(free) == 1 else RATE_OF_WEIGHTS, betas=BETAS)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, rounds)
        best, least = start, float("inf")
        for _ in range(rounds):
            loss = self.loss(*self.found(*free), flow)
            if loss.item() < least:
                best, least = tuple(part.detach().clone() for part in free), loss.item()
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(free, CLIP)
            adam.step()
            schedule.step()
        return best, least


def objective(error: TrajectoryError, likelihood: float) -> Tensor:
    """L of the module's docstring."""
    ends = (1 - likelihood) * error.plain + likelihood * error.weighted
    return ends + PATH * error.path
