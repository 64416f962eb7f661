"""One request on all processes of a group.

The noise of a sample depends on its seed and its index alone, so each process can draw its rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed

from sdescore import checks
from sdescore.samplers.chunks import Sampler, require_sampler
from sdescore.samplers.description import described
from sdescore.samplers.ranks import a_rank_may_be_gone, all_ranks, bar
from sdescore.samplers.request import home
from sdescore.typing import Condition, Score

__all__ = ["sample_distributed"]


def sample_distributed(
    sampler: Sampler,
    model: Score,
    shape: tuple[int, ...],
    *,
    seed: int = 0,
    init: Tensor | None = None,
    label: Condition | None = None,
    max_batch: int | None = None,
    progress: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """What ``sampler.sample`` gives, drawn by all ranks of torch's process group together.

    Every rank calls it with the same arguments and a copy of the model, and gets all samples. The
    samples do not depend on the number of ranks, up to rounding: a network rounds differently on
    batches of other sizes. The exceptions are the methods of :class:`ProbabilityFlow` with one step
    size for all samples of a batch: there a sample depends on the number of ranks, within the
    tolerances.
    Without a process group, this process draws all.

    Parameters
    ----------
    sampler : PredictorCorrector, AdaptiveSampler or ProbabilityFlow
        How to sample.
    shape : tuple of int
        ``(B, *E)``, of all ranks together.
    max_batch : int, optional
        The most samples that a rank draws at a time, >= 1; by default its whole share.
    progress : bool
        Whether rank 0 shows a progress bar.
    model, seed, init, label, dtype, device
        As in :meth:`PredictorCorrector.sample`.

    Returns
    -------
    Tensor
        ``(B, *E)``, on each rank.

    Raises
    ------
    IncompatibleError
        The ranks ask for different samples, have models with different weights, or pass different
        ``max_batch``.
    RankError
        Another rank failed, and raises its own error; or another rank was killed.
    ShapeError, ParameterError, TimeError, DivergenceError
        As in :meth:`PredictorCorrector.sample`.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sampler = ss.PredictorCorrector(ss.VPSDE(), steps=5)
    >>> score = ss.GaussianScore(torch.zeros(2), 0.5, sampler.sde)
    >>> x = ss.sample_distributed(sampler, score, (1000, 2), seed=7)
    >>> torch.equal(x, sampler.sample(score, (1000, 2), seed=7))
    True
    """
    with all_ranks() as ranks:
        ranks.agree(partial(require_sampler, sampler))
        draw = partial(sampler.sample, model, shape, seed=seed, init=init, label=label)
        draw = partial(draw, dtype=dtype, device=device)
        if ranks.group is None:
            return draw(max_batch=max_batch, progress=progress)

        def request() -> dict[str, Any]:
            found = described(sampler, model, shape, seed, init, label, dtype)
            share = max(1, -(-found["shape"][0] // ranks.size))
            checks.flag("progress", progress)
            size = share if max_batch is None else checks.count("max_batch", max_batch)
            return found | {"max_batch": size}

        agreed = ranks.require_equal(request)
        (B, *event), size = agreed["shape"], agreed["max_batch"]
        own_device, own_dtype = home(model)
        whole = torch.empty(B, *event, dtype=dtype or own_dtype, device="cpu")

        def fill(rows: range) -> None:
            if rows:
                whole[rows.start : rows.stop] = draw(samples=rows)

        with bar(progress and ranks.rank == 0, B) as tick:
            for first in range(0, B, size * ranks.size):
                parts = [range(B)[first + r * size :][:size] for r in range(ranks.size)]
                ranks.agree(partial(fill, parts[ranks.rank]))
                for rank, rows in enumerate(parts):
                    part = whole[rows.start : rows.stop]
                    with a_rank_may_be_gone():
                        distributed.broadcast(part, rank, group=ranks.group)
                    tick(len(rows))
        return whole.to(own_device if device is None else device)
