r"""How far a stochastic sampler is from the reverse SDE on Gaussian modes, noise by noise.

A stochastic sampler has no trajectory of its own to compare. But on a Gaussian mode of variance Λ
it is linear: what it gives is its start and every noise, each times a number. So is what it should
follow: the SDE

.. math:: dx = \bigl[f x - \tfrac{1 + \eta^2}{2} g^2 s\bigr] dt + \eta\, g\, dw

down to the last time, and from there to the data the probability flow, for the last denoise draws
no noise. With :math:`V_t = \Lambda + \varrho_t^2` and ϱ = σ/α, what the SDE draws between t and
s < t has at the data the variance

.. math::
   \Lambda \bigl[(V_N / V_s)^{\eta^2} - (V_N / V_t)^{\eta^2}\bigr],

N being the last time, and the start the rest, :math:`\Lambda (V_N / V_T)^{\eta^2}`. The error of a
mode is the sum, over the start and the noises, of the squared difference between the sampler's
number and the root of that: the mean square distance of two paths from one start whose noises are
coupled one by one. It bounds the squared Wasserstein distance of the two laws from above, and
errors of different steps cannot undo each other, as they do in the law.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.analysis.chain import Spectrum, step_matrices
from sdescore.analysis.model_error import ModelError
from sdescore.analysis.optimal_grid.surrogate import Surrogate
from sdescore.analysis.optimal_grid.trajectories import PLAIN, TrajectoryError
from sdescore.errors import IncompatibleError
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.tableau import Tableau


@dataclass(frozen=True, eq=False)
class Modes:
    """Gaussian modes that stand for data: of all of them, and of their neighbourhoods.

    Attributes
    ----------
    spectrum : Spectrum
        ``(M,)``, variances > 0; means from the data's mean.
    shares : Tensor
        ``(M,)``: how much a mode counts.
    total : float
        Of the variances of all data.
    dimensions : int
        Of the data.
    """

    spectrum: Spectrum
    shares: Tensor
    total: float
    dimensions: int


def modes_of(surrogate: Surrogate, places: list[tuple[float, Spectrum]], finest: float) -> Modes:
    """The surrogate's spectrum, and those of ``places`` of it, by their shares.

    Both count alike, for the data are one Gaussian to a step where there is much noise, and one of
    the places where there is little. Directions that no place has are the whole's alone.
    """
    whole = Spectrum(surrogate.spectrum, torch.zeros_like(surrogate.spectrum))
    spectra, shares = [whole], [torch.ones_like(whole.mean)]
    for weight, place in places:
        spectra.append(place)
        shares.append(torch.full_like(place.mean, weight / 2))
        shares[0][: len(place.mean)] = 0.5
    return Modes(
        Spectrum(
            torch.cat([place.variance for place in spectra]).clamp(min=finest),
            torch.cat([place.mean for place in spectra]),
        ),
        torch.cat(shares),
        surrogate.spectrum.sum().item(),
        len(surrogate.spectrum),
    )


def impulse_error(
    tableau: Tableau,
    ending: Tableau,
    sde: LinearSDE,
    times: Tensor,
    modes: Modes,
    eta: float,
    error: ModelError | None = None,
) -> TrajectoryError:
    """The error of a stochastic tableau on ``times`` and its last denoise, ``ending``.

    What :func:`sdescore.analysis.optimal_grid.trajectories.trajectory_error` is for a deterministic
    one, not bounded, and with nothing under ``path``: noises put in on the way are looked at one by
    one.
    """
    errors = modes.shares * mode_errors(tableau, ending, sde, times, modes.spectrum, eta, error)
    plain = PLAIN * errors.sum() / modes.total
    weighted = (errors / modes.spectrum.variance).sum() / modes.dimensions
    return TrajectoryError(plain, weighted, torch.zeros((), dtype=torch.float64))


def mode_errors(
    tableau: Tableau,
    ending: Tableau,
    sde: LinearSDE,
    times: Tensor,
    spectrum: Spectrum,
    eta: float,
    error: ModelError | None = None,
) -> Tensor:
    """Mean square distance to the SDE's path from the diffused data's law, ``(M,)``."""
    past = max(tableau.b.shape[-1], ending.b.shape[-1]) - 1
    rows = [*((tableau, n) for n in range(len(tableau))), (ending, 0)]
    steps = [step_matrices(*row, sde, spectrum, past, error) for row in rows]
    arriving = arrivals(tableau, sde, times, spectrum.variance, eta)
    # From the end to the start: what the vector of the state and the outputs does to the sample.
    left = torch.zeros(len(spectrum.variance), 1 + past, dtype=torch.float64)
    left[:, 0] = 1
    squares, offset = torch.zeros(2, len(spectrum.variance), dtype=torch.float64)
    for n, (on_state, constant, on_noise) in reversed(list(enumerate(steps))):
        felt = torch.einsum("mp,mpk->km", left, on_noise)
        if n < len(tableau):  # the last denoise has a model's errors, but no noise
            noises = arriving.shape[1]
            felt = torch.cat([felt[:noises] - arriving[n], felt[noises:]])
        squares = squares + felt.square().sum(0)
        offset = offset + (left * constant).sum(1)
        left = torch.einsum("mp,mpq->mq", left, on_state)
    alpha_T, sigma_T = sde.marginal(times[0])
    start = (alpha_T.square() * spectrum.variance + sigma_T.square()).sqrt()
    due = remaining(sde, times[:1], times[-1], spectrum.variance, eta)[0].sqrt()
    mean = offset + (left[:, 0] * alpha_T - 1) * spectrum.mean
    found: Tensor = squares + (left[:, 0] * start - due).square() + mean.square()
    return found


def remaining(sde: LinearSDE, t: Tensor, last: Tensor, variance: Tensor, eta: float) -> Tensor:
    """How much of Λ is of before ``t`` ``(…)``, ``last`` ``()`` the last time: ``(…, M)``."""
    V, V_last = (
        variance + (sigma / alpha).square()[..., None]
        for alpha, sigma in (sde.marginal(t), sde.marginal(last))
    )
    return variance * (V_last / V) ** eta**2


def arrivals(
    tableau: Tableau, sde: LinearSDE, times: Tensor, variance: Tensor, eta: float
) -> Tensor:
    """What every noise should be at the data: its standard deviation, ``(N, K, M)``."""
    if tableau.spans is None:
        early, late = times[:-1, None], times[1:, None]
    else:
        early, late = tableau.spans.unbind(-1)
    after, before = (remaining(sde, t, times[-1], variance, eta) for t in (late, early))
    return (after - before).clamp(min=torch.finfo(after.dtype).tiny).sqrt()


def require_driven(predictor: object, tableau: Tableau) -> None:
    """Refuse noises that are no part of the reverse SDE's.

    Raises
    ------
    IncompatibleError
        They do not drive the chain along its path, each over a stretch of a step.
    """
    spans = tableau.spans
    stands = spans is not None and bool((spans[..., 0] <= spans[..., 1]).any())
    if tableau.start is not None or stands or (spans is None and tableau.c.shape[-1] != 1):
        raise IncompatibleError(
            "expected noises that each drive the chain over a stretch of a step, got those of "
            f"{predictor!r}; find the grid with the predictor's noise turned off"
        )
