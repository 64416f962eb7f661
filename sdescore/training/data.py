"""The data of a training step, and their scale.

A batch is drawn from samples with an index, such as a tensor's or an array's, or it is the next one
of a stream (:mod:`sdescore.training.streams`). The scale is measured before the first step, after
the transform: on at most 10,000 samples of a tensor or an array, some 1,000 of another source.
"""

from __future__ import annotations

import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sdescore import checks
from sdescore.borrowed import borrowed_generator, step_seed
from sdescore.checkpoint.folder import is_there
from sdescore.checkpoint.manifest import get, read_scale
from sdescore.checkpoint.store import read_manifest
from sdescore.conditions import each_tensor, names_of, replaced, require_labels
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.score.convention import DataScale
from sdescore.score.model import ScoreModel
from sdescore.training.fingerprint import fingerprint
from sdescore.typing import Condition

Rows: TypeAlias = "Tensor | np.ndarray[Any, Any]"
Labels: TypeAlias = "Rows | Mapping[str, Labels | None]"
Data: TypeAlias = "Rows | Dataset[Any] | Samples | Iterable[Any]"

BATCH_SIZE = 128
BLOCK = 2**22  # bytes that are looked at together
USUAL_STD, USUAL_MEAN = (0.2, 5.0), 2.0  # of states; the mean in standard deviations
SPREAD = 1e-12  # of the mean: less is rounding, and a feature without spread


class Samples(Protocol):
    """Samples by index: ``data[0]`` to ``data[len(data) - 1]``, as a Hugging Face data set's."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Share(NamedTuple):
    """Which of the processes that train one model this is: ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    def of(self, n: int) -> slice:
        """Its rows of n."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)


class Batch(NamedTuple):
    """Samples ``(B, *E)``, one condition each or None, and their indices in the data or None.

    They are those from ``first`` on of a step's ``whole`` samples, which may be on many processes.
    """

    x: Tensor
    label: Condition | None
    indices: Tensor | None = None
    first: int = 0
    whole: int = 0

    def own(self, drawn: Tensor) -> Tensor:
        """What belongs to these samples of what was drawn for the step's ``(whole, ...)``."""
        return drawn[self.first : self.first + len(self.x)]

    def to(self, device: torch.device) -> Batch:
        """On ``device``, in floating point: bytes x become ``x/127.5 − 1`` in float32."""
        early = device.type != "cpu" and self.x.is_pinned()
        precise = checks.with_float64(device).type == device.type
        narrow = {} if precise else {torch.float64: torch.float32}

        def there(part: Tensor) -> Tensor:
            return part.detach().to(device, narrow.get(part.dtype), non_blocking=early)

        x = there(self.x)
        x = x.to(torch.float32).div(127.5).sub(1) if x.dtype == torch.uint8 else x
        label = None if self.label is None else each_tensor(there, self.label)
        return self._replace(x=x, label=label)


class Source(ABC):
    """Where batches come from."""

    parts: tuple[str, ...]  # of a label, by name; none without labels
    shared = True  # whether a step's batch is the same on all ranks, each of which takes its rows

    @abstractmethod
    def draw(self, generator: torch.Generator, n: int, share: Share) -> Batch | None:
        """A share of a step's batch, of ``n`` samples if the source has a choice; None at the end.

        Everything but the order of a stream follows from ``generator`` and from torch's global one.
        """

    @abstractmethod
    def once(self, n: int, share: Share) -> Iterator[Batch]:
        """All samples in order, ``n`` at a time if the source can; ranks take turns by batch."""

    @abstractmethod
    def look(self, generator: torch.Generator) -> Iterator[Batch]:
        """Batches to measure the scale on; reading changes no later draw."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps, as options that a resume compares."""


class Indexed(Source):
    """A source with samples 0 … N − 1, of which a batch is drawn with replacement."""

    length: int
    looked_at = 1000

    @abstractmethod
    def take(self, index: Tensor) -> Batch:
        """The samples at ``index`` ``(n,)``."""

    def draw(self, generator: torch.Generator, n: int, share: Share) -> Batch | None:
        index = torch.randint(self.length, (n,), generator=generator, device="cpu")
        own = share.of(n)
        return self.take(index[own])._replace(first=own.start, whole=n)

    def once(self, n: int, share: Share) -> Iterator[Batch]:
        order = torch.arange(self.length, dtype=torch.int64, device="cpu")
        return map(self.take, torch.split(order, n)[share.rank :: share.size])

    def look(self, generator: torch.Generator) -> Iterator[Batch]:
        n, some = self.length, (self.looked_at,)
        drawn = torch.randint(n, some, generator=generator, device="cpu").sort().values
        order = torch.arange(n, device="cpu") if n <= self.looked_at else drawn
        return map(self.take, torch.split(order, 32))  # a few: they become float64


class Table(Indexed):
    """A tensor or an array ``(N, *E)``, and its labels or other conditions."""

    looked_at = 10_000

    def __init__(self, data: Rows, labels: Labels | None, name: str) -> None:
        x = part(checks.dense(name, data) if isinstance(data, Tensor) else data, 0, 1, name)
        require_samples(x, name)
        got = f"{name} of shape {tuple(data.shape)}"
        checks.that(len(data) > 0, "at least one sample", got, ShapeError)
        looked_at = x.is_floating_point() and not isinstance(data, np.memmap)
        finite = not looked_at or all(bool(block.isfinite().all()) for block in blocks(data))
        checks.that(finite, f"finite {name}", "NaN or infinity; remove those samples")
        self.labels: Condition | None = None
        self.data, self.length, self.parts = data, len(data), ()
        if labels is not None:
            self.labels = each_tensor(lambda part: tensor_of(part, "labels"), labels)
            require_labels(self.labels, len(data), finite=True)
            self.parts = names_of(self.labels)

    def take(self, index: Tensor) -> Batch:
        x = self.data
        samples = x[index.to(x.device)] if isinstance(x, Tensor) else tensor_of(x[index.numpy()])
        label = self.labels
        if label is not None:
            label = each_tensor(lambda part: part[index.to(part.device)], label)
        return Batch(samples, label, index)

    def record(self) -> dict[str, Any]:
        labels = each_tensor(lambda rows: fingerprint(rows, part), self.labels)
        return {"data": fingerprint(self.data, part), "labels": labels}


def tensor_of(value: Any, name: str = "a batch") -> Any:
    """An array as a tensor; anything else is left as it is, for a check to look at."""
    if not isinstance(value, np.ndarray):
        return value
    try:
        if not isinstance(value, np.ma.MaskedArray):  # whose mask would be dropped
            return torch.from_numpy(value if value.flags.writeable else value.copy())
    except (TypeError, ValueError):
        pass
    got = f"{type(value).__name__} of {value.dtype}; convert it, e.g. with .astype(np.float32)"
    checks.refuse(f"{name} of numbers that torch knows", got, ShapeError)


def require_samples(x: Tensor, name: str) -> None:
    """Refuse anything but a floating-point ``(B, *E)`` tensor, or one of bytes."""
    if not (isinstance(x, Tensor) and x.dtype == torch.uint8 and x.ndim > 0):
        checks.state(x, name)


def part(data: Rows, start: int, stop: int, name: str = "data") -> Tensor:
    """Samples ``start`` … ``stop`` − 1, an array's as a copy."""
    if data.ndim == 0:
        checks.refuse(f"{name} of shape (N, *E)", "one number", ShapeError)
    rows = data[start:stop]
    found: Tensor = rows if torch.is_tensor(rows) else tensor_of(np.array(rows, subok=True), name)
    return found


def sample_bytes(data: Rows) -> int:
    """Bytes of one sample, at least 1."""
    return max(1, part(data, 0, 1).nbytes)


def blocks(data: Rows) -> Iterator[Tensor]:
    """The samples in order, some megabytes at a time: a look at all data takes no more memory."""
    samples = max(1, BLOCK // sample_bytes(data))
    return (part(data, start, start + samples) for start in range(0, len(data), samples))


def draw_batch(
    source: Source,
    n: int,
    label_dropout: float,
    null: Condition | None,
    transform: Callable[[Tensor], Tensor] | None,
    device: torch.device,
    share: Share,
    generator: torch.Generator,
) -> Batch | None:
    """A share of a step's batch on ``device``, augmented, some labels dropped; None at the end."""
    drawn = source.draw(generator, n, share)
    if drawn is None:
        got = "a stream that ended; pass one that can begin again, such as a list or a DataLoader"
        warnings.warn(f"expected a batch for every step, got {got}", RuntimeWarning, stacklevel=3)
        return None
    batch = drawn.to(device)
    x, label = batch[:2]
    own = () if label is None else names_of(label)
    expected = "a label in every batch or in none, of the same parts"
    checks.that(own == source.parts, expected, f"{own} after {source.parts}", IncompatibleError)
    if transform is not None:
        x = transform(x.clone())  # which may work in place
        checks.state(x, "what transform returns")
        same, got = len(x) == len(batch.x), f"{len(x)} for {len(batch.x)}"
        checks.that(same, "transform to keep all samples", got, ShapeError)
    checks.that(len(x) > 0, "at least one sample a batch", "none", ShapeError)
    checks.finite_tensor("x0", x)
    if label is not None and null is not None:
        draw = torch.rand(batch.whole, generator=generator, dtype=torch.float32, device="cpu")
        label = replaced(label, null, batch.own(draw) < label_dropout)
    return batch._replace(x=x.detach(), label=label)


def measured(
    model: ScoreModel,
    source: Source,
    transform: Callable[[Tensor], Tensor] | None,
    standardize: bool,
    seed: int,
    device: torch.device,
    resumed: str | os.PathLike[str] | None,
) -> tuple[DataScale, Tensor]:
    """The scale of a model's data: its own, or that of the data if it has none.

    A resumed run has the scale of its file. States far from unit scale cause a warning. It also
    returns some samples ``(n, *E)``, as training sees them. Bytes set the model's range.
    """
    scale, known = model.data_scale, resumed is not None and is_there(resumed)
    if resumed is not None and known and scale.plain:
        scale = read_scale(get(read_manifest(resumed), "convention", dict))

    def seen(batch: Batch) -> Tensor:
        x = batch.to(device).x
        x = x if transform is None else transform(x.clone())
        checks.state(x, "what transform returns")
        return checks.finite_tensor("x0", x)

    generator = torch.Generator("cpu").manual_seed(step_seed(seed, 0, domain=2))
    with borrowed_generator(step_seed(seed, 0, domain=1), device):
        batches = source.look(generator)
        raw, found = next(batches), Moments()
        first = seen(raw)
        byte = raw.x.dtype == torch.uint8 and bool((first.abs() <= 1).all())
        model._measured.data_range = model.data_range or ((-1.0, 1.0) if byte else None)
        if known:
            return scale, first
        found.add(model.from_data(first))
        for batch in batches:
            found.add(model.from_data(seen(batch)))
    c = model.convention
    unit = c.sigma_data if c is not None and c.input_scaling == "unit" else 1.0
    if standardize and scale.plain:
        return found.scale(unit), first
    found.warn(unit)
    return scale, first


class Moments:
    """Mean and variance of each feature or channel, in float64, block by block."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64, device="cpu")

    def add(self, x: Tensor) -> None:
        """Samples ``(n, *E)``; two means are merged as in Chan et al. 1979, eq. 2.1."""
        if x.numel() == 0:
            return
        features = x.shape[1] if x.ndim > 1 else 1
        seen = len(self.mean) if self.count else features
        checks.that(seen == features, "one number of features", (seen, features), ShapeError)
        block = x.detach().to("cpu", torch.float64).reshape(len(x), features, -1)
        variance, mean = torch.var_mean(block, dim=(0, 2), correction=0)
        n = block.numel() // features
        total, apart = self.count + n, mean - self.mean
        self.squares = self.squares + n * variance + apart.square() * (self.count * n / total)
        self.mean, self.count = self.mean + apart * (n / total), total

    def scale(self, unit: float) -> DataScale:
        """That of states with mean 0 and standard deviation ``unit``.

        It has six digits, because later ones depend on the number of threads.
        """
        if not self.count:
            return DataScale()
        means, stds = [], []
        for mean, square in zip(self.mean.tolist(), self.squares.tolist(), strict=True):
            std = math.sqrt(square / self.count)
            spread = std > max(SPREAD * abs(mean), 1e-30)
            digits = 5 - math.floor(math.log10(std)) if spread else 0
            means.append(round(mean, digits) if spread else float(f"{mean:.12g}"))
            stds.append(float(f"{std / unit:.6g}") if spread else 1.0)
        return DataScale(*(v[0] if len(v) == 1 else tuple(v) for v in (means, stds)))

    def warn(self, unit: float) -> None:
        """Say what to do about data for which no usual noise schedule is made."""
        mean, (low, high) = self.mean.mean().item(), USUAL_STD
        variance = (self.squares / max(1, self.count) + (self.mean - mean).square()).mean().item()
        std = math.sqrt(variance)
        if std and not (low <= std / unit <= high and abs(mean) <= USUAL_MEAN * std):
            warnings.warn(
                f"expected data of mean near 0 and standard deviation near {unit:g}; got mean "
                f"{mean:.3g} and standard deviation {std:.3g}; train with standardize=True and a "
                "model without data_mean= and data_std=, or scale the data",
                RuntimeWarning,
                stacklevel=6,
            )
