"""What a user asks of a sampler, and a sampler of a model.

A request is checked before the model is called, then done part by part. The model is asked for its
device and dtype, put in eval mode, and held to an answer like its input.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from operator import itemgetter
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from sdescore import checks
from sdescore.conditions import each_tensor, in_dtype, require_rows
from sdescore.errors import DivergenceError, IncompatibleError, ShapeError
from sdescore.noise.counter import Domain
from sdescore.noise.sources import NoiseSource, NoiseStream, SeededNoise, Span
from sdescore.score.convention import PLAIN
from sdescore.score.interface import require_label, scale_of
from sdescore.score.model import ScoreModel
from sdescore.sde.base import SDE
from sdescore.shapes import flat
from sdescore.typing import Condition, Score
from sdescore.wrappers import disturbed, owner_of, sde_of, undisturbed

Tick = Callable[..., object]
"""Moves the progress bar by one, or by its argument."""


class Request:
    """A checked request for ``shape`` samples of ``model``.

    Arguments and errors are those of :meth:`sdescore.PredictorCorrector.sample`. ``spans`` says
    what each draw of the noise is for, and ``name`` what the caller calls ``init``. In a
    ``resumed`` request ``init`` holds the rows ``samples`` alone.
    """

    differentiable = False

    def __init__(
        self,
        sde: SDE,
        spans: Sequence[Span],
        model: Score,
        shape: tuple[int, ...] | None = None,
        samples: range | None = None,
        seed: int = 0,
        noise: NoiseSource | None = None,
        init: Tensor | None = None,
        label: Condition | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        resumed: bool = False,
        name: str = "init",
    ) -> None:
        checks.function("model", model)
        if isinstance(model, ScoreModel):
            own, takes, scale = model.sde, model.require_label, model.data_scale
        else:  # it may be wrapped, or not know
            own, takes = sde_of(model), partial(require_label, model)
            scale = scale_of(model) or PLAIN
        if own is not None and own != sde:
            expected = f"a model on the sampler's SDE {sde!r:.200}"
            checks.refuse(expected, f"one on {own!r:.200}", IncompatibleError)
        if init is not None:
            checks.state(init, name)
            shape = tuple(init.shape) if shape is None else shape
        elif not checks.is_linear(sde):
            expected = f"init= for {type(sde).__name__}, which has no known prior"
            checks.refuse(expected, "none", IncompatibleError)
        sizes = checks.shape(shape)
        self.samples = samples = checks.rows("samples", samples, sizes[0])
        self.init_start = samples.start if resumed else 0
        if init is not None:
            fits = (len(samples) if resumed else sizes[0], *sizes[1:])
            checks.that(
                init.shape == fits, f"{name} of shape {fits}", tuple(init.shape), ShapeError
            )
            checks.finite_tensor(name, self.rows_of(init, samples))
        if label is not None:
            require_rows(label, sizes[0])
        takes(label)
        if not scale.plain:
            scale.check_event(sizes[1:])
        self.scale = scale
        self.seed = checks.seed(seed)
        if noise is not None:
            checks.instance("noise", noise, NoiseSource)  # type: ignore[type-abstract]
            noise.check(sizes, spans)
        own_device, own_dtype = home(model)
        self.dtype = own_dtype if dtype is None else dtype
        if self.dtype not in (torch.float32, torch.float64):
            got = f"{self.dtype}: the network may run in half precision, the state may not"
            checks.refuse("a state in float32 or float64", got, ShapeError)
        self.device = own_device if device is None else checks.device(device, ShapeError)
        self.model, self.shape, self.noise = model, sizes, noise
        self.init, self.label = init, label

    def keep_graph(self, differentiable: bool) -> None:
        """Let autograd go back through the run to the model, ``init`` and ``label``, on request."""
        self.differentiable = checks.flag("differentiable", differentiable)
        if differentiable and torch.is_inference_mode_enabled():
            got = "a call in torch.inference_mode(), where there is none"
            checks.refuse("a mode with autograd for differentiable=True", got, IncompatibleError)

    def labels(self, samples: range) -> tuple[Condition, ...]:
        """The labels of these samples as the model's last arguments: one, or none."""
        if self.label is None:
            return ()
        # A network may save labels for a derivative, which tensors of inference mode forbid.
        with torch.inference_mode(False):
            rows = slice(samples.start, samples.stop)
            label = each_tensor(lambda part: part[rows].clone().to(self.device), self.label)
            if isinstance(self.model, ScoreModel):  # whose network may be called in its place
                label = in_dtype(label, self.model.dtype)
            return (label,)

    def open(self, samples: range, spans: Sequence[Span], domain: int) -> NoiseStream:
        """The noise of these samples, of a role's own domain."""
        noise = SeededNoise(self.seed) if self.noise is None else self.noise
        event, dtype, device = self.shape[1:], self.dtype, self.device
        return noise.open(samples, event, spans, dtype=dtype, device=device, domain=domain)

    def start(self, samples: range, std: float, noise: NoiseStream | None = None) -> Tensor:
        """The states that these samples start from, a tensor of the run's own: ``init``, or
        draw 0 as a draw of the prior ``N(0, std²)``; by default of the sampler's own noise."""
        if self.init is None:
            noise = noise or self.open(samples, [None], Domain.SAMPLER)
            return (std * noise.draw(0)).contiguous()
        init = self.rows_of(self.init, samples)
        init = init if self.differentiable else init.detach()
        return init.to(self.device, self.dtype, copy=True).contiguous()

    def rows_of(self, init: Tensor, samples: range) -> Tensor:
        """The rows of ``init`` that these samples start from."""
        return init[samples.start - self.init_start : samples.stop - self.init_start]

    def fill(
        self,
        run: Callable[[range, Tick | None], tuple[Tensor, ...]],
        max_batch: int | None,
        progress: bool,
        ticks: int = 0,
        data: bool = True,
    ) -> tuple[Tensor, ...]:
        """What ``run(samples, tick)`` makes of the samples, ``max_batch`` at a time.

        Its first tensor holds states. They become data, unless ``data`` is False.
        ``ticks`` is the number of calls of ``tick`` in a part; 0 means one a sample. All parts
        are written into tensors ``(B, …)`` that are there from the first part on: to join them at
        the end would take the memory twice. If a part diverges, ``error.finished`` holds the
        samples of the parts before.
        """
        whole: tuple[Tensor, ...] = ()
        first, B = self.samples.start, len(self.samples)
        chunk = max(1, B) if max_batch is None else checks.count("max_batch", max_batch)
        # One empty part for an empty request.
        parts = [self.samples[i : i + chunk] for i in range(0, max(1, B), chunk)]
        shown = checks.flag("progress", progress)
        bar = progress_bar(ticks * len(parts) if ticks else B) if shown else nullcontext()
        # Tensors of inference mode do not count how often they were written to.
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(self.differentiable),
            evaluating(self.model),
            bar as tick,
        ):
            for samples in parts:
                try:
                    done = run(samples, tick)
                except DivergenceError as error:
                    error.finished = whole[0][: samples.start - first] if whole else None
                    raise
                if data and not self.scale.plain:
                    done = (self.scale.to_data(done[0]), *done[1:])
                if len(parts) == 1:
                    return done
                whole = whole or tuple(part.new_empty(B, *part.shape[1:]) for part in done)
                for all_parts, part in zip(whole, done, strict=True):
                    all_parts[samples.start - first : samples.stop - first] = part
        return whole


def require_mean_or_none(denoise: object) -> None:
    """Refuse a last denoise other than Tweedie's mean or none."""
    got = f"{denoise!r}; other endings are PredictorCorrector's"
    checks.that(isinstance(denoise, bool), "denoise to be True or False", got, IncompatibleError)


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


def called(
    function: Callable[..., object], x: Tensor, *rest: Tensor | Condition, who: str
) -> Tensor:
    """``function(x, *rest)``, refused unless it is like ``x`` and leaves what it is given alone."""
    if len(rest) > 1:  # labels too
        y = undisturbed(function, x, *rest, who=who)
    else:  # the same for the state alone, in the hot loop
        version = None if is_compiling() or x.is_inference() else x._version
        y = function(x, *rest)
        if version is not None and x._version != version:
            disturbed(who)
    if not (type(y) is Tensor and y.is_floating_point() and y.shape == x.shape):
        y = checks.score_output(y, x, who)
    return y


def require_separate(both: Tensor, alone: Tensor) -> None:
    """Refuse a model whose output for a sample depends on another sample, or on its time.

    ``both`` ``(2, *E)`` are its outputs for two samples at two times, ``alone`` ``(1, *E)`` that
    for the second by itself. A network rounds otherwise in another batch; a twentieth of the output
    is more than that.
    """
    # Where the output cancels to nearly 0, rounding is no share of it. NaN is refused later.
    size = alone.norm() + 1e-3 * both.norm() + 1e-6
    change = ((both[1:] - alone).norm() / size).item()
    expected = "a model that computes each sample by itself, at its own time of t (B,)"
    got = (
        f"one whose output for a sample changes by {100 * change:.0f} % beside another; use all of "
        "t, such as t.reshape(-1, 1), and no numbers of the batch"
    )
    checks.that(not change > 0.05, expected, got, IncompatibleError)


def require_rows_apart(
    model: Score,
    x: Tensor,
    times: Sequence[Tensor] | Tensor,
    marginal: tuple[Tensor, Tensor],
    labels: tuple[Condition, ...] = (),
) -> None:
    """Refuse a model whose output for one of the samples ``x`` at the first time depends on others.

    It is asked for two of them, as they would be where σ is nearest to α: near the ends of the
    times what was added to a score hardly shows.
    """
    if len(x) > 1:
        alpha, sigma = marginal
        k, size = int((alpha - sigma).abs().argmin()), torch.hypot(alpha, sigma)
        two = x[:2] * (size[k] / size[0]).item()
        both, alone = (
            model(two[some], times[k], *(each_tensor(itemgetter(some), part) for part in labels))
            for some in (slice(0, 2), slice(1, 2))
        )
        require_separate(both, alone)


def not_finite(x: Tensor, first: int = 0) -> tuple[list[int], str]:
    """The samples of a state that is not finite, counted from ``first``, and what to call them."""
    finite = flat(x).isfinite().all(1)
    if bool(finite.all()):
        return [], ""
    samples = (~finite).nonzero().flatten().add(first).tolist()
    shown = ", ".join(map(str, samples[:8])) + (", …" if len(samples) > 8 else "")
    return samples, f"{len(samples)} of {len(x)} samples: {shown}"


def home(model: Score) -> tuple[torch.device, torch.dtype]:
    """Where a model is, and the state's dtype beside it: the model's, but at least float32.

    By its parameters, else by its ``device`` and ``dtype`` attributes, else the CPU and float32.
    """
    model = model if isinstance(model, nn.Module) else owner_of(model)
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    real = (p for p in parameters if p.is_floating_point())
    owner = next(real, parameters[-1] if parameters else model)
    device, dtype = getattr(owner, "device", None), getattr(owner, "dtype", None)
    if isinstance(device, str):
        device = checks.device(device, ShapeError)
    elif not isinstance(device, torch.device):
        device = torch.device("cpu")
    own = dtype if isinstance(dtype, torch.dtype) else torch.float32
    return device, torch.promote_types(own, torch.float32)


# The number of runs that need eval mode, for each module in train mode.
_runs: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def evaluating(model: Score) -> Iterator[None]:
    """A module in eval mode while a run in any thread needs it so, then as it was before.

    The flag belongs to the module and not to a thread, so runs are counted: the last one to end
    restores it, and no run sees the network in train mode because another one has ended.
    """
    owner = model if isinstance(model, nn.Module) else owner_of(model)
    if not isinstance(owner, nn.Module):
        yield
        return
    with _lock:
        # Each part of the model: another model may share it and be in another mode.
        modules = [m for m in owner.modules() if m.training or m in _runs]
        for module in modules:
            _runs[module] = _runs.get(module, 0) + 1
            module.training = False
    try:
        yield
    finally:
        with _lock:
            for module in modules:
                _runs[module] -= 1
                if not _runs[module]:
                    del _runs[module]
                    module.training = True
