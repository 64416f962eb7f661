"""What a user asks of a sampler, checked before the model is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sdescore.checks import is_count, require
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.noise.sources import NoiseSource, SeededNoise
from sdescore.samplers.model import Model, model_device, state_dtype, usable_device
from sdescore.score.interface import require_label, sde_of
from sdescore.sde.base import SDE


@dataclass(frozen=True, eq=False)
class Request:
    """A checked request: ``shape`` samples of ``model``, ``chunk`` at a time."""

    model: Model
    shape: tuple[int, ...]
    noise: NoiseSource
    init: Tensor | None
    label: Tensor | None
    chunk: int
    dtype: torch.dtype
    device: torch.device

    @property
    def chunks(self) -> list[range]:
        """Ranges of sample indices; one empty range for an empty request."""
        total = self.shape[0]
        starts = range(0, max(1, total), self.chunk)
        return [range(start, min(start + self.chunk, total)) for start in starts]


def make_request(
    sde: SDE,
    model: Model,
    shape: tuple[int, ...] | None,
    seed: int,
    noise: NoiseSource | None,
    init: Tensor | None,
    label: Tensor | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    max_batch: int | None,
) -> Request:
    """The request, or a typed error that says what was wrong with it.

    Raises
    ------
    ShapeError
        Shape, init, label, dtype or device.
    IncompatibleError
        A model that is not callable, belongs to another SDE or takes no labels where some are
        given, or a foreign noise source.
    ScheduleError
        Seed, chunk size, or an init that is not finite.
    """
    require_model(model, sde)
    if init is not None:
        if not isinstance(init, Tensor) or not init.is_floating_point() or init.ndim < 1:
            got = f"{init.dtype}" if isinstance(init, Tensor) else type(init).__name__
            raise ShapeError(f"expected init to be a floating-point tensor (B, *E), got {got}")
        require(
            bool(init.isfinite().all()), "a finite state to start from", "NaN or infinity in it"
        )
        shape = tuple(init.shape) if shape is None else shape
    if not isinstance(shape, tuple | list) or not shape or not all(map(is_count, shape)):
        raise ShapeError(f"expected shape=(B, *E), a tuple of non-negative integers, got {shape!r}")
    if init is not None and tuple(shape) != tuple(init.shape):
        raise ShapeError(f"expected init of shape {tuple(shape)}, got {tuple(init.shape)}")
    if max_batch is not None:
        require(is_count(max_batch) and max_batch >= 1, "max_batch >= 1", f"{max_batch!r}")
    if label is not None and (not isinstance(label, Tensor) or label.shape != tuple(shape[:1])):
        got = f"{tuple(label.shape)}" if isinstance(label, Tensor) else type(label).__name__
        raise ShapeError(f"expected label to be a tensor of shape ({shape[0]},), got {got}")
    require_label(model, label)
    if noise is not None and not isinstance(noise, NoiseSource):
        raise IncompatibleError(f"expected a NoiseSource, got {type(noise).__name__}")
    dtype = state_dtype(model) if dtype is None else dtype
    if dtype not in (torch.float32, torch.float64):
        raise ShapeError(
            f"expected a state in float32 or float64, got {dtype}: the network may run in half "
            "precision, the state may not"
        )
    return Request(
        model=model,
        shape=tuple(shape),
        noise=SeededNoise(seed) if noise is None else noise,
        init=init,
        label=label,
        chunk=max(1, shape[0] if max_batch is None else max_batch),
        dtype=dtype,
        device=model_device(model) if device is None else usable_device(device),
    )


def require_model(model: Model, sde: SDE) -> None:
    """Refuse a model that is not callable or that belongs to another SDE.

    Raises
    ------
    IncompatibleError
        See above.
    """
    if not callable(model):
        raise IncompatibleError(f"expected a callable score, got {type(model).__name__}")
    own = sde_of(model)
    if own is not None and own != sde:
        raise IncompatibleError(
            f"expected a model on the sampler's SDE {sde!r:.200}, got one on {own!r:.200}"
        )


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """A module in eval mode, restored afterwards; other callables as they are."""
    if not isinstance(model, nn.Module) or not model.training:
        yield
        return
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def progress_bar(shown: bool, total: int) -> Iterator[Callable[[], object] | None]:
    """What moves a tqdm bar of ``total`` by one, or None."""
    if not shown:
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc="sampling") as bar:
        yield bar.update


def require_mean_or_none(denoise: object) -> None:
    """Refuse a last denoise other than Tweedie's mean or none.

    Raises
    ------
    IncompatibleError
        Neither True nor False.
    """
    if not isinstance(denoise, bool):
        raise IncompatibleError(
            f"expected denoise to be True or False, got {denoise!r}; other endings are "
            "PredictorCorrector's"
        )
