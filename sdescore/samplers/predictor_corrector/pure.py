"""A sampler on one model and one shape as a pure function of its noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.noise.sources import ReplayNoise
from sdescore.samplers.predictor_corrector.loop import BoundModel, advance, fold
from sdescore.samplers.predictor_corrector.sampler import PredictorCorrector
from sdescore.samplers.request import Request
from sdescore.typing import Condition, Score

__all__ = ["pure_function"]


def pure_function(
    sampler: PredictorCorrector,
    model: Score,
    shape: tuple[int, ...],
    *,
    label: Condition | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Callable[[Tensor], Tensor]:
    """What :meth:`PredictorCorrector.sample` does to its noise, with nothing else in it.

    The loop is unrolled over numbers that are computed here. The result does not branch on any
    tensor's value, so ``torch.compile(…, fullgraph=True)`` makes one graph of it and a CUDA graph
    may capture it. Nor does it check that the state is finite. The model is called as it is: call
    ``model.eval()`` yourself.

    Parameters
    ----------
    sampler : PredictorCorrector
        On a linear SDE, with affine steps.
    model, label, dtype, device
        As in :meth:`PredictorCorrector.sample`.
    shape : tuple of int
        ``(B, *E)``.

    Returns
    -------
    callable
        From ``z`` ``(draws, B, *E)``, standard normal, draw 0 starting the chain, to samples
        ``(B, *E)``. ``draws`` is an attribute of it: 1 for a method without noise.

    Raises
    ------
    IncompatibleError, ShapeError
        A step that is not affine, a non-linear SDE, or as in :meth:`PredictorCorrector.sample`; of
        the function, noise of another shape.

    Examples
    --------
    >>> import torch, sdescore as ss
    >>> sde = ss.VPSDE()
    >>> sampler = ss.PredictorCorrector(sde, predictor=ss.DDIM(), steps=5)
    >>> draw = ss.samplers.pure_function(sampler, ss.GaussianScore(torch.ones(2), 0.1, sde), (4, 2))
    >>> draw.draws, draw(torch.randn(1, 4, 2)).shape
    (1, torch.Size([4, 2]))
    """
    program, sde = sampler.program, sampler.sde
    program.require_affine(sampler)
    request = Request(sde, (), model, shape, label=label, dtype=dtype, device=device)
    samples = range(request.shape[0])
    bound = BoundModel(request, samples, program)
    steps = fold(program.rows, bound, for_graph=True)
    # Of the data, made here: a CUDA graph cannot copy numbers to its device.
    origin = torch.zeros((1, *request.shape[1:]), dtype=request.dtype, device=request.device)
    mean, std = request.scale.to_data(origin), request.scale.unit(origin)

    @torch.no_grad()
    def draw(z: Tensor) -> Tensor:
        event, dtype, device = request.shape[1:], request.dtype, request.device
        noise = ReplayNoise(z).open(samples, event, program.spans, dtype=dtype, device=device)
        x, outputs = sampler.start_std * noise.draw(0), []  # type: tuple[Tensor, list[Tensor]]
        for step in steps:
            x = advance(step, x, outputs, bound, noise)
        return x if request.scale.plain else std * x + mean

    draw.draws = len(program.spans)  # type: ignore[attr-defined]
    return draw
