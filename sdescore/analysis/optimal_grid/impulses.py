r"""How far a stochastic sampler is from the reverse SDE on Gaussian modes, noise by noise.

On a Gaussian mode of variance Λ a sampler is linear: its sample is a sum of its start and of every
noise, each times a number. The same holds for the SDE that it should follow,

.. math:: dx = \bigl[f x - \tfrac{1 + \eta^2}{2} g^2 s\bigr] dt + \eta\, g\, dw .

The SDE is followed down to the last time N, and from there the probability flow to the data,
because the last denoise draws no noise. With :math:`V_t = \Lambda + \sigma_t^2/\alpha_t^2`, the
noise that the SDE draws between t and s < t adds to the datum the variance

.. math::
   \Lambda \bigl[(V_N / V_s)^{\eta^2} - (V_N / V_t)^{\eta^2}\bigr] .

The start adds the rest, :math:`\Lambda (V_N / V_T)^{\eta^2}`. The error of a mode is a sum over the
start and the noises: of the squared difference between the sampler's number and the root of that
variance. It is the mean square distance of two paths with the same start and coupled noises, so it
bounds the squared W2 from above, and the errors of different steps cannot undo each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.analysis.optimal_grid.surrogate import Surrogate
from sdescore.analysis.optimal_grid.trajectories import PLAIN, TrajectoryDistance
from sdescore.errors import IncompatibleError
from sdescore.samplers.predictor_corrector.exact import ModelErrorStd, Spectrum, step_matrices
from sdescore.sde.linear import LinearSDE
from sdescore.tableau.tableau import Tableau


@dataclass(frozen=True, eq=False)
class WeightedModes:
    """Gaussian modes that stand for data: those of all data, and of their neighbourhoods."""

    spectrum: Spectrum  # (M,), variances > 0, means from the data's mean
    shares: Tensor  # (M,), the weight of each mode
    whole: Tensor  # (d,), the variances of all data


def weighted_modes(
    surrogate: Surrogate, parts: list[tuple[float, Spectrum]], finest: float
) -> WeightedModes:
    """The surrogate's spectrum, and those of its ``parts`` by their weights.

    Both count one half. At much noise a step sees the data as one Gaussian, and at little noise as
    one of the parts. A direction that no part has counts in the whole alone.
    """
    all_data = Spectrum(surrogate.spectrum, torch.zeros_like(surrogate.spectrum))
    spectra, shares = [all_data], [torch.ones_like(all_data.mean)]
    for weight, part in parts:
        spectra.append(part)
        shares.append(torch.full_like(part.mean, weight / 2))
        shares[0][: len(part.mean)] = 0.5
    variance = torch.cat([part.variance for part in spectra]).clamp(min=finest)
    mean = torch.cat([part.mean for part in spectra])
    return WeightedModes(Spectrum(variance, mean), torch.cat(shares), surrogate.spectrum)


def impulse_error(
    tableau: Tableau,
    ending: Tableau,
    sde: LinearSDE,
    times: Tensor,
    modes: WeightedModes,
    eta: float,
    error: ModelErrorStd | None = None,
) -> TrajectoryDistance:
    """The error of a stochastic tableau on ``times``, with ``ending`` as its last denoise.

    As :func:`sdescore.analysis.optimal_grid.trajectories.trajectory_error` for a deterministic one,
    but not bounded. ``path`` is 0, because each step's noise is compared by itself.
    """
    errors = modes.shares * mode_errors(tableau, ending, sde, times, modes.spectrum, eta, error)
    plain = PLAIN * errors.sum() / modes.whole.sum()
    weighted = (errors / modes.spectrum.variance).sum() / len(modes.whole)
    return TrajectoryDistance(plain, weighted, torch.zeros_like(plain))


def mode_errors(
    tableau: Tableau,
    ending: Tableau,
    sde: LinearSDE,
    times: Tensor,
    spectrum: Spectrum,
    eta: float,
    error: ModelErrorStd | None = None,
) -> Tensor:
    """Mean square distance to the SDE's path from the diffused data, ``(M,)``."""
    past = max(tableau.b.shape[-1], ending.b.shape[-1]) - 1
    steps = [
        row
        for part in (tableau, ending)
        for row in zip(
            *step_matrices(part, [*range(len(part))], sde, spectrum, past, error), strict=True
        )
    ]
    exact = exact_impulses(tableau, sde, times, spectrum.variance, eta)
    # From the end to the start: the derivative of the sample by the state and the past outputs.
    derivative = spectrum.variance.new_zeros(len(spectrum.variance), 1 + past)
    derivative[:, 0] = 1
    squares, offset = spectrum.variance.new_zeros(2, len(spectrum.variance))
    for n, (on_state, constant, on_noise) in reversed(list(enumerate(steps))):
        impulses = torch.einsum("mp,mpk->km", derivative, on_noise)
        if n < len(tableau):  # the last denoise has a model's errors, but no noise
            noises = exact.shape[1]
            impulses = torch.cat([impulses[:noises] - exact[n], impulses[noises:]])
        squares = squares + impulses.square().sum(0)
        offset = offset + (derivative * constant).sum(1)
        derivative = torch.einsum("mp,mpq->mq", derivative, on_state)
    alpha_T, sigma_T = sde.marginal(times[0])
    start = (alpha_T.square() * spectrum.variance + sigma_T.square()).sqrt()
    from_start = variance_before(sde, times[:1], times[-1], spectrum.variance, eta)[0].sqrt()
    mean = offset + (derivative[:, 0] * alpha_T - 1) * spectrum.mean
    total: Tensor = squares + (derivative[:, 0] * start - from_start).square() + mean.square()
    return total


def variance_before(
    sde: LinearSDE, t: Tensor, last: Tensor, variance: Tensor, eta: float
) -> Tensor:
    """The part of the variance Λ that was drawn before ``t`` ``(…)``, at larger times: ``(…, M)``.

    The start is included; ``last`` ``()`` is the last time.
    """
    V, V_last = (
        variance + (sigma / alpha).square()[..., None]
        for alpha, sigma in (sde.marginal(t), sde.marginal(last))
    )
    return variance * (V_last / V) ** eta**2


def exact_impulses(
    tableau: Tableau, sde: LinearSDE, times: Tensor, variance: Tensor, eta: float
) -> Tensor:
    """The standard deviation that each noise of the SDE adds to the datum, ``(N, K, M)``."""
    if tableau.spans is None:
        early, late = times[:-1, None], times[1:, None]
    else:
        early, late = tableau.spans.unbind(-1)
    after, before = (variance_before(sde, t, times[-1], variance, eta) for t in (late, early))
    return (after - before).clamp(min=torch.finfo(after.dtype).tiny).sqrt()


def require_driven(predictor: object, tableau: Tableau) -> None:
    """Refuse a predictor whose noises are not those of a reverse SDE, as those of churn."""
    spans = tableau.spans
    empty = spans is not None and bool((spans[..., 0] <= spans[..., 1]).any())
    checks.that(
        tableau.start is None and not empty and (spans is not None or tableau.c.shape[-1] == 1),
        "a predictor whose noises each drive the chain over a stretch of a step",
        f"{predictor!r}; find the grid with the predictor's noise turned off",
        IncompatibleError,
    )
