"""What a user asks of a sampler, and a sampler of a model.

A request is checked before the model is called, then done part by part. The model is asked for its
device and dtype, put in eval mode, and held to an answer like its input.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from sdescore import checks
from sdescore.errors import DivergenceError, IncompatibleError, ShapeError
from sdescore.noise.counter import Domain
from sdescore.noise.sources import NoiseSource, NoiseStream, SeededNoise, Span
from sdescore.score.interface import require_label, sde_of
from sdescore.score.model import ScoreModel
from sdescore.sde.base import SDE
from sdescore.typing import Score

Tick = Callable[..., object]
"""Moves the progress bar by one, or by its argument."""


@dataclass(frozen=True, eq=False)
class Request:
    """A checked request: ``shape`` samples of ``model``, ``chunk`` at a time."""

    model: Score
    shape: tuple[int, ...]
    noise: NoiseSource | None
    seed: int
    init: Tensor | None
    label: Tensor | None
    chunk: int
    progress: bool
    dtype: torch.dtype
    device: torch.device

    def labels(self, samples: range) -> tuple[Tensor, ...]:
        """The labels of these samples as the model's last arguments: one, or none."""
        if self.label is None:
            return ()
        # A network may save labels for a derivative, which tensors of inference mode forbid.
        with torch.inference_mode(False):
            return (self.label[samples.start : samples.stop].clone().to(self.device),)

    def open(self, samples: range, spans: Sequence[Span], domain: int) -> NoiseStream:
        """The noise of these samples, of a role's own domain."""
        noise = SeededNoise(self.seed) if self.noise is None else self.noise
        return noise.open(
            samples,
            self.shape[1:],
            spans,
            dtype=self.dtype,
            device=self.device,
            domain=domain,
        )

    def start(self, samples: range, std: float, noise: NoiseStream | None = None) -> Tensor:
        """The states that these samples start from, a tensor of the run's own: ``init``, or
        draw 0 as a draw of the prior ``N(0, std²)``; by default of the sampler's own noise."""
        if self.init is None:
            noise = noise or self.open(samples, [None], Domain.SAMPLER)
            return (std * noise.draw(0)).contiguous()
        init = self.init[samples.start : samples.stop].detach()
        return init.to(self.device, self.dtype, copy=True).contiguous()

    def fill(
        self, run: Callable[[range, Tick | None], tuple[Tensor, ...]], ticks: int
    ) -> tuple[Tensor, ...]:
        """What ``run`` makes of all samples, part by part: tensors with B first.

        All parts are written into one tensor each, which is there from the first part on. To join
        them at the end would take the memory of the samples twice, after all the work.

        Parameters
        ----------
        run : callable
            ``(samples, tick) -> tensors``, the samples first.
        ticks : int
            How often a part calls ``tick``, for the progress bar.

        Raises
        ------
        DivergenceError
            A part's; its ``finished`` holds the samples of the parts before.
        """
        whole: tuple[Tensor, ...] = ()
        B = self.shape[0]
        # One empty part for an empty request.
        parts = [range(i, min(i + self.chunk, B)) for i in range(0, max(1, B), self.chunk)]
        total = ticks * len(parts) if ticks else B
        bar = progress_bar(total) if self.progress else nullcontext()
        with evaluating(self.model), torch.no_grad(), bar as tick:
            for samples in parts:
                try:
                    done = run(samples, tick)
                except DivergenceError as error:
                    error.finished = whole[0][: samples.start] if whole else None
                    raise
                if len(parts) == 1:
                    return done
                if not whole:
                    whole = tuple(part.new_empty(B, *part.shape[1:]) for part in done)
                for all_parts, part in zip(whole, done, strict=True):
                    all_parts[samples.start : samples.stop] = part
        return whole


def make_request(
    sde: SDE,
    model: Score,
    shape: tuple[int, ...] | None,
    *,
    seed: int = 0,
    noise: NoiseSource | None = None,
    init: Tensor | None = None,
    label: Tensor | None = None,
    max_batch: int | None = None,
    progress: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    spans: Sequence[Span] = (),
    name: str = "init",
) -> Request:
    """The request, or a typed error that says what was wrong with it.

    Parameters are those of :meth:`sdescore.PredictorCorrector.sample`. ``spans`` says what each
    draw of the noise is for, and ``name`` what the caller calls ``init``.

    Raises
    ------
    ShapeError
        Shape, init, label, dtype or device.
    IncompatibleError
        A model that is not callable, belongs to another SDE or takes no labels where some are
        passed, or a foreign noise source.
    ParameterError
        A seed that is no integer, ``max_batch`` below 1, or an init that is not finite.
    """
    checks.function("model", model)
    if isinstance(model, ScoreModel):
        own, takes = model.sde, model.require_label
    else:  # it may be wrapped, or not know
        own, takes = sde_of(model), partial(require_label, model)
    checks.that(
        own is None or own == sde,
        f"a model on the sampler's SDE {sde!r:.200}",
        f"one on {own!r:.200}",
        IncompatibleError,
    )
    if init is not None:
        require_init(init, name)
        shape = tuple(init.shape) if shape is None else shape
    else:
        checks.that(
            checks.is_linear(sde),
            f"init= for {type(sde).__name__}, which has no known prior",
            "none",
            IncompatibleError,
        )
    sizes = checks.shape(shape)
    if init is not None and sizes != tuple(init.shape):
        checks.refuse(f"{name} of shape {sizes}", tuple(init.shape), ShapeError)
    if label is not None:
        got = tuple(label.shape) if isinstance(label, Tensor) else type(label).__name__
        checks.that(got == sizes[:1], f"label to be a tensor of shape {sizes[:1]}", got, ShapeError)
    takes(label)
    seed = checks.seed(seed)
    if noise is not None:
        checks.instance("noise", noise, NoiseSource)  # type: ignore[type-abstract]
        noise.check(sizes, spans)
    own_device, own_dtype = home(model)
    dtype = own_dtype if dtype is None else dtype
    checks.that(
        dtype in (torch.float32, torch.float64),
        "a state in float32 or float64",
        f"{dtype}: the network may run in half precision, the state may not",
        ShapeError,
    )
    chunk = sizes[0] if max_batch is None else checks.count("max_batch", max_batch)
    return Request(
        model=model,
        shape=sizes,
        noise=noise,
        seed=seed,
        init=init,
        label=label,
        chunk=max(1, chunk),
        progress=progress,
        dtype=dtype,
        device=own_device if device is None else checks.device(device, ShapeError),
    )


def require_init(init: Tensor, name: str) -> None:
    """Refuse states to start from that are not finite real numbers ``(B, *E)``.

    Raises
    ------
    ShapeError
        No dense floating-point tensor with a batch dimension, or one without numbers.
    ParameterError
        A NaN or an infinity.
    """
    expected = f"{name} to be a floating-point tensor (B, *E)"
    if not isinstance(init, Tensor):
        checks.refuse(expected, type(init).__name__, ShapeError)
    advice = "; pass its real and imaginary parts, torch.view_as_real(x)"
    usual = init.is_floating_point() and init.dtype.itemsize > 1
    checks.that(usual, expected, f"{init.dtype}{advice * init.is_complex()}", ShapeError)
    checks.that(init.ndim >= 1, expected, "a 0-dim tensor", ShapeError)
    real = init.layout is torch.strided and not init.is_meta
    got = f"{init.layout} on {init.device}"
    checks.that(real, f"{name} to be a dense tensor with numbers", got, ShapeError)
    finite = bool(init.isfinite().all())
    checks.that(finite, f"{name} to be a finite state", "NaN or infinity in it")


def require_mean_or_none(denoise: object) -> None:
    """Refuse a last denoise other than Tweedie's mean or none.

    Raises
    ------
    IncompatibleError
        Neither True nor False.
    """
    checks.that(
        isinstance(denoise, bool),
        "denoise to be True or False",
        f"{denoise!r}; other endings are PredictorCorrector's",
        IncompatibleError,
    )


def domain_at(role: Domain, t: float, again: int = 0) -> int:
    """The domain of a run in a role that starts at time ``t``, for the ``again``-th time.

    Runs that start at different times get different numbers of one seed, so that the samples of
    one may be the start of the next.
    """
    # Any integer is a domain; the low bits tell the roles apart.
    bits: int = struct.unpack("<q", struct.pack("<d", t))[0]
    return role + 64 * (bits + again * 0x9E3779B97F4A7C15)


@contextmanager
def progress_bar(total: int) -> Iterator[Tick]:
    """What moves a tqdm bar of ``total`` by one."""
    from tqdm import tqdm

    with tqdm(total=total, desc="sampling") as bar:
        yield bar.update


def called(function: Callable[..., object], x: Tensor, *rest: Tensor, who: str) -> Tensor:
    """``function(x, *rest)``, refused unless it is a tensor like ``x`` and leaves ``x`` alone.

    A loop that updates its state in place would give wrong samples, unnoticed, if the model changed
    its input.

    Raises
    ------
    IncompatibleError, ShapeError
        No real tensor of the shape of ``x``, or ``x`` was changed in place.
    """
    if is_compiling() or x.is_inference():  # neither counts how often a tensor was written to
        return checks.score_output(function(x, *rest), x, who)
    version = x._version
    y = checks.score_output(function(x, *rest), x, who)
    if x._version != version:
        checks.refuse(
            f"{who} to leave its input as it is",
            "one that changed it in place; work on x.clone()",
            IncompatibleError,
        )
    return y


def home(model: Score) -> tuple[torch.device, torch.dtype]:
    """Where a model is, and the state's dtype beside it: the model's, but at least float32.

    By its parameters, else by its ``device`` and ``dtype`` attributes, else the CPU and float32.
    """
    device, dtype = getattr(model, "device", None), getattr(model, "dtype", None)
    dtype = dtype if isinstance(dtype, torch.dtype) else torch.float32
    for parameter in model.parameters() if isinstance(model, nn.Module) else ():
        device = parameter.device
        if parameter.is_floating_point():
            dtype = parameter.dtype
            break
    if not isinstance(device, torch.device):
        device = (
            checks.device(device, ShapeError) if isinstance(device, str) else torch.device("cpu")
        )
    return device, torch.promote_types(dtype, torch.float32)


# How many runs need a module in eval mode that its owner has in train mode.
_runs: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def evaluating(model: Score) -> Iterator[None]:
    """A module in eval mode while a run in any thread needs it so, then as it was before.

    The flag belongs to the module and not to a thread, so runs are counted: the last one to end
    restores it, and no run sees the network in train mode because another one has ended.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    with _lock:
        modules = []
        if model.training or model in _runs:
            modules = [m for m in model.modules() if m.training or m in _runs]
            for module in modules:
                _runs[module] = _runs.get(module, 0) + 1
        if model.training:
            model.eval()
    try:
        yield
    finally:
        with _lock:
            for module in modules:
                _runs[module] -= 1
                if not _runs[module]:
                    del _runs[module]
                    module.training = True
