"""A request in parts, for outputs that are larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.noise.sources import NoiseSource
from sdescore.samplers.adaptive.sampler import AdaptiveSampler
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.samplers.probability_flow.flow import ProbabilityFlow
from sdescore.typing import Condition, Score

__all__ = ["iterate_chunks"]

Sampler = PredictorCorrector | AdaptiveSampler | ProbabilityFlow


def iterate_chunks(
    sampler: Sampler,
    model: Score,
    shape: tuple[int, ...],
    *,
    max_batch: int,
    samples: range | None = None,
    seed: int = 0,
    noise: NoiseSource | None = None,
    init: Tensor | None = None,
    label: Condition | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Iterator[tuple[range, Tensor]]:
    """The samples of a request, ``max_batch`` at a time; no more are in memory.

    All chunks together are what ``sampler.sample`` gives. Write each chunk to a place that has room
    for all, such as a tensor or a ``numpy.memmap``.

    Parameters
    ----------
    sampler : PredictorCorrector, AdaptiveSampler or ProbabilityFlow
        How to sample.
    shape : tuple of int
        ``(B, *E)``.
    max_batch : int
        The most samples of a chunk, >= 1.
    model, samples, seed, noise, init, label, dtype, device
        As in :meth:`PredictorCorrector.sample`.

    Yields
    ------
    rows : range
        Which of the B samples these are.
    x : Tensor
        ``(len(rows), *E)``.

    Raises
    ------
    IncompatibleError, ShapeError, ParameterError
        A bad argument. Errors about the model are raised with the first chunk.
    DivergenceError
        The state turned NaN or infinite; the chunks before it were already yielded.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sampler = ss.PredictorCorrector(ss.VPSDE(), steps=5)
    >>> score = ss.GaussianScore(torch.zeros(2), 0.5, sampler.sde)
    >>> out = torch.empty(1000, 2)
    >>> for rows, x in ss.samplers.iterate_chunks(sampler, score, (1000, 2), max_batch=300):
    ...     out[rows.start : rows.stop] = x
    >>> torch.equal(out, sampler.sample(score, (1000, 2)))
    True
    """
    require_sampler(sampler)
    rows = checks.rows("samples", samples, checks.shape(shape)[0])
    size = checks.count("max_batch", max_batch)
    draw = partial(sampler.sample, model, shape, seed=seed, noise=noise, init=init, label=label)
    parts = (rows[first : first + size] for first in range(0, len(rows), size))
    return ((part, draw(samples=part, dtype=dtype, device=device)) for part in parts)


def require_sampler(sampler: object) -> None:
    """Refuse what is none of the three samplers."""
    expected = "sampler to be a PredictorCorrector, an AdaptiveSampler or a ProbabilityFlow"
    checks.that(isinstance(sampler, Sampler), expected, f"{sampler!r:.200}", IncompatibleError)
