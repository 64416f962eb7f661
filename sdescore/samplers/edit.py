"""Data changed by noise and a sampler, or by two labels of a flow."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from sdescore import checks
from sdescore.conditions import each_tensor, require_rows
from sdescore.errors import IncompatibleError
from sdescore.grids.levels import LevelGrid
from sdescore.noise.counter import Domain
from sdescore.predictors.multistep import Multistep
from sdescore.samplers.chunks import Sampler, require_sampler
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.samplers.probability_flow.flow import ProbabilityFlow
from sdescore.samplers.request import Request, domain_at
from sdescore.typing import Condition, Score

__all__ = ["edit"]

FINE = 1000  # steps of the grid by which a strength is read where a sampler has none
ROUNDING = 1e-9  # of strength × steps, which is to be rounded down


def edit(
    sampler: Sampler,
    model: Score,
    x0: Tensor,
    *,
    strength: float,
    samples: range | None = None,
    seed: int = 0,
    label: Condition | None = None,
    source: Condition | None = None,
    max_batch: int | None = None,
    progress: bool = False,
) -> Tensor:
    r"""Vary data: add noise up to some time, and run the rest of a sampler from there.

    .. math:: x_t = \alpha_t x_0 + \sigma_t z, \qquad z \sim N(0, I)

    (SDEdit: Meng et al. 2022, arXiv:2108.01073; image-to-image in the field's tools). Structure
    that is larger than the noise stays, and finer details are drawn anew. With exact scores, data
    from the model's distribution give samples from the same distribution, at any strength.

    ``strength`` is the share of the sampler's steps that are run, as in diffusers: the last
    ⌊strength · n⌋ of the n steps of a :class:`PredictorCorrector`, at least one. Which noise level
    that is depends on the sampler's grid. An :class:`AdaptiveSampler` and a
    :class:`ProbabilityFlow` without ``grid`` start where that share of the SDE's default grid
    starts.

    A :class:`ProbabilityFlow` draws no noise. It encodes the data under the label ``source`` up to
    that time, and decodes them under ``label``. What the two labels have in common stays.

    Parameters
    ----------
    sampler : PredictorCorrector, AdaptiveSampler or ProbabilityFlow
        On a linear SDE.
    model : ScoreModel or callable
        As in :meth:`PredictorCorrector.sample`.
    x0 : Tensor
        ``(B, *E)``, float32 or float64: data, in their own units.
    strength : float
        In (0, 1]: near 0 little changes, at 1 the whole sampler is run.
    samples : range, optional
        Return only these rows. Their values are those of a run of all rows.
    seed : int
        Row ``i`` uses the stream (seed, i). The noise that is added and that of the steps are
        independent. To change the result again at the same strength, take another seed.
    label, max_batch, progress
        As in :meth:`PredictorCorrector.sample`; the label says what the data become.
    source : Tensor or dict, optional
        Like ``label``, for a :class:`ProbabilityFlow` alone: what the data are.

    Returns
    -------
    Tensor
        ``(B, *E)``, or ``(len(samples), *E)``, data in the dtype of ``x0``.

    Raises
    ------
    ParameterError
        A strength outside (0, 1], data that are not finite.
    IncompatibleError
        Another sampler, an SDE that is not linear, ``source`` with a sampler that adds noise, or
        a flow without a label, which would lead back to the data; else as in
        :meth:`PredictorCorrector.sample`.
    ShapeError
        ``x0`` is no state in float32 or float64.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sampler = ss.PredictorCorrector(ss.VPSDE(), steps=50)
    >>> score = ss.MixtureScore([0.5, 0.5], [[-2.0], [2.0]], [0.01, 0.01], sampler.sde)
    >>> x0 = torch.full((1000, 1), 2.0)
    >>> for strength in (0.3, 0.9):  # how many go over to the other mode
    ...     x = ss.samplers.edit(sampler, score, x0, strength=strength)
    ...     print(round((x < 0).double().mean().item(), 1))
    0.0
    0.5
    """
    require_sampler(sampler)
    sde = checks.linear(sampler.sde, "edit")
    rest, t = last_share(sampler, checks.number("strength", strength, above=0, at_most=1))
    checks.state(x0, "x0")
    if isinstance(rest, ProbabilityFlow):
        labelled, got = label is not None or source is not None, "neither; the data would come back"
        checks.that(labelled, "label= or source= for a ProbabilityFlow", got, IncompatibleError)
        rows = checks.rows("samples", samples, len(x0))
        x = x0[rows.start : rows.stop]
        for condition in (source, label):
            if condition is not None:
                require_rows(condition, len(x0))
        for way, condition in ((rest.encode, source), (rest.decode, label)):
            some = each_tensor(lambda part: part[rows.start : rows.stop], condition)
            x = way(model, x, label=some, max_batch=max_batch, progress=progress)
        return x
    expected = "source= for a ProbabilityFlow alone"
    checks.that(source is None, expected, type(sampler).__name__, IncompatibleError)
    request = Request(sde, [None], model, None, samples, seed, None, x0, label, x0.dtype, name="x0")
    x, rows = x0.detach().to(request.device, copy=True), request.samples
    size = max(1, len(rows)) if max_batch is None else checks.count("max_batch", max_batch)
    for first in range(rows.start, rows.stop, size):
        part = range(first, min(first + size, rows.stop))
        own = slice(part.start, part.stop)
        # Draw 0 of a run starts it; the run from init= that follows leaves that draw out.
        z = request.open(part, [None], domain_at(Domain.RESTART, t)).draw(0)
        x[own] = sde.perturb(request.scale.to_state(x[own]), t, z)
    return rest.sample(
        model,
        samples=samples,
        seed=seed,
        init=x,
        label=label,
        max_batch=max_batch,
        progress=progress,
        dtype=x0.dtype,
    )


def last_share(sampler: Sampler, strength: float) -> tuple[Sampler, float]:
    """The sampler of the last steps alone, and the time at which it starts."""
    if isinstance(sampler, PredictorCorrector):
        steps = len(sampler.times) - (not sampler.denoise)
        times = sampler.times[first_of(steps, strength) :]
        predictor = sampler.predictor
        if isinstance(predictor, Multistep):
            predictor = predictor.last(len(times))
        rest = replace(sampler, predictor=predictor, grid=times, steps=None)
        return rest, times[0].item()
    if isinstance(sampler, ProbabilityFlow) and sampler.grid is not None:
        times = sampler.times[first_of(len(sampler.times) - 1, strength) :]
        return replace(sampler, grid=times, steps=None), times[0].item()
    grid = sampler.sde.default_grid
    times = grid.times(sampler.sde, None if isinstance(grid, LevelGrid) else FINE + 1)
    t = times[first_of(len(times) - 1, strength)].item()
    return replace(sampler, t_max=t), t


def first_of(steps: int, strength: float) -> int:
    """The number of the first step of the last share."""
    return steps - max(1, math.floor(strength * steps + ROUNDING))
