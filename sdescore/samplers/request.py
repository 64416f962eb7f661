"""What a user asks of a sampler: checked before the model is called, then done part by part."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore import checks
from sdescore.errors import DivergenceError, IncompatibleError, ShapeError
from sdescore.noise.counter import Domain
from sdescore.noise.sources import NoiseSource, NoiseStream, SeededNoise, Span
from sdescore.samplers.model import evaluating, home, usable_device
from sdescore.score.interface import require_label, sde_of
from sdescore.sde.base import SDE
from sdescore.typing import Score

Tick = Callable[..., object]
"""Moves the progress bar by one, or by its argument."""


@dataclass(frozen=True, eq=False)
class Request:
    """A checked request: ``shape`` samples of ``model``, ``chunk`` at a time."""

    model: Score
    shape: tuple[int, ...]
    noise: NoiseSource
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
        return self.noise.open(
            samples,
            self.shape[1:],
            spans,
            dtype=self.dtype,
            device=self.device,
            domain=domain,
        )

    def start(self, samples: range, noise: NoiseStream, std: float) -> Tensor:
        """The states that these samples start from, a tensor of the run's own: ``init``, or
        draw 0 as a draw of the prior ``N(0, std²)``."""
        if self.init is None:
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
    own = sde_of(model)
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
    require_label(model, label)
    if noise is None:
        noise = SeededNoise(seed)
    else:
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
        init=init,
        label=label,
        chunk=max(1, chunk),
        progress=progress,
        dtype=dtype,
        device=own_device if device is None else usable_device(device),
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
