r"""Inpainting and other linear inverse problems, by a projection of the state at every step.

The state of a datum with :math:`A x_0 = y` obeys :math:`A x_t = \alpha_t y + \sigma_t A \epsilon`.
Before each evaluation the state is moved to such a state by the smallest change (Song et al. 2021,
arXiv:2011.13456, appendix I.4, for any linear A),

.. math:: x \leftarrow x + A^\top (A A^\top)^+ (\alpha_t y + \sigma_t A z - A x), \qquad
   z \sim N(0, I),

and once more after the last denoise, without noise, so that :math:`A x_0 = y`. The denoised state
is never computed from a noised measurement, nor mixed with one.

A measurement with noise :math:`\sigma_y` is a noised state itself. Along an eigenvector of
:math:`A A^\top` with eigenvalue :math:`s^2` it has the noise of the state at
:math:`\sigma_t/\alpha_t = \sigma_y/s`. Until then z has the variance that is missing,
:math:`\sigma_t^2 - \alpha_t^2 \sigma_y^2/s^2`; afterwards the score alone moves this direction.

RePaint (Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1) goes back in time as well: the steps
between two times are repeated, and before each repeat the forward SDE leads back. What was not
measured then adapts to what was. There are no rewinds below the noise level of a measured
direction: from there on only the state holds this part of the measurement, and a rewind would erase
it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.inverse.measurement import Measurement
from sdescore.inverse.operators import Diagonal
from sdescore.predictors.ancestral import Ancestral
from sdescore.samplers.predictor_corrector.chain import Move
from sdescore.samplers.predictor_corrector.loop import At
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.score.convention import PLAIN
from sdescore.score.interface import scale_of
from sdescore.sde.linear import LinearSDE
from sdescore.shapes import without_autocast
from sdescore.tableau.method import Predictor
from sdescore.tableau.tableau import Tableau

__all__ = ["Projection", "RePaint"]


@dataclass(frozen=True)
class Projection(PredictorCorrector):
    """A predictor–corrector sampler that projects each state onto the measurement.

    The measured part of the result is exact. The rest is biased towards the prior, because the
    steps themselves do not use the measurement. :class:`RePaint` reduces this bias.

    Parameters
    ----------
    sde : LinearSDE
        The forward SDE; the model's own.
    predictor : Predictor
        By default ``ss.Ancestral()``.
    measurement : Measurement
        A measurement by a linear operator whose eigenvalues are known: ``Mask``, ``Blur``,
        ``Downsample``, ``Grayscale`` or ``Matrix``. Noise may be 0.

    The other parameters are those of :class:`sdescore.PredictorCorrector`.

    Raises
    ------
    IncompatibleError
        ``measurement`` is no measurement, or its operator has no known eigenvalues. When sampling,
        the model has a ``data_std`` for each channel.
    ShapeError
        When sampling, the event is not the operator's ``event_shape``.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> see = ss.inverse.Mask(torch.tensor([True, False]))
    >>> seen = ss.inverse.Measurement(torch.tensor([0.5]), see, noise_std=0.0)
    >>> sampler = ss.inverse.Projection(ss.VPSDE(), measurement=seen, steps=50)
    >>> score = ss.GaussianScore(torch.zeros(2), 1.0, sampler.sde)
    >>> sampler.sample(score, (4, 2))[:, 0]
    tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """

    predictor: Predictor = field(default_factory=Ancestral)
    measurement: Measurement = field(kw_only=True)
    _rewinds: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.instance("measurement", self.measurement, Measurement)
        A = self.measurement.operator
        expected = "an operator with known eigenvalues, such as Mask, Blur or Matrix"
        got = f"{type(A).__name__}; of a linear one take Matrix(A.matrix(), A.event_shape)"
        checks.that(isinstance(A, Diagonal), expected, got, IncompatibleError)
        super().__post_init__()

    def moves(self, times: Tensor | None = None) -> Iterator[Move]:
        """The chain's moves with the projections between; see the base class."""
        move = None
        for move in super().moves(times):
            yield self._projection(move.step, move.t)
            yield move
        if self.denoise and move is not None:
            yield self._projection(move.step, None)

    def _projection(self, step: int, t: float | None) -> Move:
        """At ``t``, with one noise; or of data where ``t`` is None, without."""
        sde = checks.linear(self.sde, "a projection")
        plain = self._rewinds and self.measurement.noise_std > 0
        custom, noises = partial(project, self.measurement, sde, plain, t), int(t is not None)
        return Move(step, t or 0.0, t or 0.0, None, 0, True, custom, 0, noises)


def project(
    measurement: Measurement,
    sde: LinearSDE,
    plain: bool,
    t: float | None,
    x: Tensor,
    score: At,
    noises: Iterator[Tensor],
) -> Tensor:
    """The state ``x`` ``(B, *E)`` at ``t``, moved to the measurement; data where ``t`` is None."""
    alpha_t, sigma_t = (1.0, 0.0) if t is None else map(float, sde.marginal(t))
    scale = scale_of(score.bound.model) or PLAIN
    mean, std = scale.mean, scale.std
    if isinstance(mean, tuple) or isinstance(std, tuple):
        got = "one for each channel; set one number, or use ss.inverse.mmps"
        checks.refuse("a model with one data_mean and data_std", got, IncompatibleError)
    got = f"data_std={std}; let it be 1, or use Projection"
    expected = "states in the units of the data, where rewinds end at the measurement's noise"
    checks.that(std == 1 or not plain, expected, got, IncompatibleError)
    A: Diagonal = measurement.operator  # type: ignore[assignment]
    data = std * x + alpha_t * mean  # = α x₀ + σ std ε, in the units of the data
    eigenvalues, noise = A.eigenvalues.like(x), alpha_t * measurement.noise_std
    # In a direction that A does not see, or the measurement knows less of, nothing moves.
    seen = (eigenvalues > 0) & ((sigma_t * std) ** 2 * eigenvalues >= noise**2)
    inverse = torch.where(seen, 1 / torch.where(seen, eigenvalues, 1.0), 0.0)
    with without_autocast(x):
        change = A._rotate(alpha_t * measurement.y.to(x) - A(data))
        for z in noises:
            spread = ((sigma_t * std) ** 2 - noise**2 * inverse).clamp(min=0).sqrt()
            change = change + spread * A._rotate(A(z))
        found: Tensor = x + A.adjoint(A._rotate_back(inverse * change)) / std
    return found


@dataclass(frozen=True)
class RePaint(Projection):
    """Projection with rewinds, each with noise of its own.

    Parameters
    ----------
    jump : int
        The number of steps that are repeated together, >= 1.
    resamplings : int
        How many times these steps are run, >= 1. With 1 the sampler is :class:`Projection`. A
        sample costs up to ``resamplings`` times as many evaluations.

    The other parameters and errors are those of :class:`Projection`. A predictor that uses the
    outputs of earlier steps raises ``IncompatibleError``, because a rewind makes them invalid. With
    noise in the measurement, a model with a ``data_std`` other than 1 raises it too.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> see = ss.inverse.Mask(torch.tensor([True, False]))
    >>> seen = ss.inverse.Measurement(torch.tensor([0.5]), see, noise_std=0.0)
    >>> options = {"measurement": seen, "steps": 11, "jump": 5, "resamplings": 4}
    >>> ss.inverse.RePaint(ss.VPSDE(), **options).evaluations
    41
    """

    jump: int = field(default=10, kw_only=True)
    resamplings: int = field(default=10, kw_only=True)
    _rewinds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        vars(self)["jump"] = checks.count("jump", self.jump)
        vars(self)["resamplings"] = checks.count("resamplings", self.resamplings)
        super().__post_init__()
        if self.predictor.is_affine(self.sde):
            b = self.predictor.tableau(self.sde, self.times).b  # type: ignore[arg-type]
            earlier = any(bool(b[:, j, j + 1 :].any()) for j in range(b.shape[1]))
            expected = "a predictor without memory, such as Ancestral() or DDIM(eta=1.0)"
            checks.that(not earlier, expected, f"{self.predictor!r}", IncompatibleError)

    def moves(self, times: Tensor | None = None) -> Iterator[Move]:
        """The chain's moves with projections and rewinds; see the base class."""
        times = self.times if times is None else times
        steps = [
            list(moves) for _, moves in itertools.groupby(super().moves(times), lambda m: m.step)
        ]
        last = len(times) - 1
        starts = torch.arange(0, last, self.jump, device="cpu")
        ends = (starts + self.jump).clamp(max=last)
        back = rewinds(self.sde, times[starts], times[ends])  # type: ignore[arg-type]
        number = itertools.count()
        measured = self.measurement.operator.eigenvalues.like(times)  # type: ignore[attr-defined]
        least = self.measurement.noise_std / measured[measured > 0].min().sqrt()
        again = self.sde.noise_ratio(times[ends]) >= least  # type: ignore[attr-defined]
        for block, (first, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            for run in range(self.resamplings if again[block] else 1):
                for k in range(first, end):
                    step = next(number)
                    if run and k == first:
                        t, s = times[end].item(), times[first].item()
                        yield Move(step, t, s, back, block)
                    yield from (replace(move, step=step) for move in steps[k])
        for moves in steps[last:]:
            step = next(number)
            yield from (replace(move, step=step) for move in moves)


def rewinds(sde: LinearSDE, later: Tensor, earlier: Tensor) -> Tableau:
    """Steps of the forward SDE from ``earlier`` ``(N,)`` to ``later``: no stages, one noise."""
    forward = sde.transition(earlier, later)
    none = torch.zeros(len(later), 0, 1, dtype=torch.float64, device="cpu")
    start = forward.scale, forward.variance.sqrt()[:, None]
    return Tableau(none[..., 0], none[..., 0], none, none, start=start)
