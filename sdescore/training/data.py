"""What a training step is given: a batch of a tensor, an array, a Dataset, or of any stream."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from sdescore import checks
from sdescore.checkpoint.container import raw_bytes
from sdescore.conditions import each_tensor, replaced, require_labels
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.typing import Condition

Rows: TypeAlias = "Tensor | np.ndarray[Any, Any]"
Labels: TypeAlias = "Rows | Mapping[str, Labels | None]"
Data: TypeAlias = "Rows | Dataset[Any] | Iterable[Any]"

BATCH_SIZE = 128
BLOCK = 2**22  # bytes of data looked at together
HASHED_WHOLE = 2**28  # bytes: data up to this size are hashed in full
PARTS, PART = 256, 2**20  # of larger data: so many parts, of so many bytes
READ_AHEAD = 2**28  # bytes of a stream that are held while its scale is measured
CPU = torch.device("cpu")  # where a data set makes its tensors, whatever the default device is


class Batch(NamedTuple):
    """Samples ``(B, *E)``, one condition each or None, and their indices in the data or None."""

    x: Tensor
    label: Condition | None
    indices: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """On ``device``, in floating point: bytes go to [−1, 1]."""
        early = device.type != "cpu" and self.x.is_pinned()
        x = in_floating_point(self.x.to(device, non_blocking=early))
        label = each_tensor(lambda part: part.to(device, non_blocking=early), self.label)
        return Batch(x, label, self.indices)


def in_floating_point(x: Tensor) -> Tensor:
    """``x``; of bytes 0 … 255 it is ``x/127.5 − 1`` in float32."""
    return x.to(torch.float32).div(127.5).sub(1) if x.dtype == torch.uint8 else x


class Source(ABC):
    """Where batches come from."""

    labelled: bool

    @abstractmethod
    def draw(self, generator: torch.Generator, n: int) -> Batch | None:
        """A step's batch, of ``n`` samples if the source has a choice; None at the end.

        Everything but the order of a stream follows from ``generator`` and from torch's global one.
        """

    @abstractmethod
    def once(self, n: int) -> Iterator[Batch]:
        """All samples in order, ``n`` at a time if the source has a choice."""

    @abstractmethod
    def look(self, generator: torch.Generator) -> Iterator[Batch]:
        """Some batches to measure the scale of; no later draw differs for it."""

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

    def draw(self, generator: torch.Generator, n: int) -> Batch | None:
        index = torch.randint(
            self.length, (n,), generator=generator, dtype=torch.int64, device="cpu"
        )
        return self.take(index)

    def once(self, n: int) -> Iterator[Batch]:
        order = torch.arange(self.length, dtype=torch.int64, device="cpu")
        return map(self.take, torch.split(order, n))

    def look(self, generator: torch.Generator) -> Iterator[Batch]:
        n, some = self.length, (self.looked_at,)
        drawn = torch.randint(n, some, generator=generator, device="cpu").sort().values
        order = torch.arange(n, device="cpu") if n <= self.looked_at else drawn
        return map(self.take, torch.split(order, 32))  # a few: they become float64


class Table(Indexed):
    """A tensor or an array ``(N, *E)``, and its labels or other conditions."""

    looked_at = 10_000

    def __init__(self, data: Rows, labels: Labels | None, name: str) -> None:
        x = part(data, 0, 1, name)
        require_samples(x, name)
        got = f"{name} of shape {tuple(data.shape)}"
        checks.that(len(data) > 0, "at least one sample", got, ShapeError)
        looked_at = x.is_floating_point() and not isinstance(data, np.memmap)
        finite = not looked_at or all(bool(block.isfinite().all()) for block in blocks(data))
        checks.that(finite, f"finite {name}", "NaN or infinity; remove those samples")
        self.labels: Condition | None = each_tensor(lambda part: tensor_of(part, "labels"), labels)
        if self.labels is not None:
            require_labels(self.labels, len(data))
        self.data, self.length = data, len(data)
        self.labelled = labels is not None

    def take(self, index: Tensor) -> Batch:
        x = self.data
        samples = x[index.to(x.device)] if isinstance(x, Tensor) else tensor_of(x[index.numpy()])
        label = each_tensor(lambda part: part[index.to(part.device)], self.labels)
        return Batch(samples, label, index)

    def record(self) -> dict[str, Any]:
        return {"data": fingerprint(self.data), "labels": each_tensor(fingerprint, self.labels)}


class Items(Indexed):
    """A map-style ``torch.utils.data.Dataset``."""

    def __init__(self, data: Dataset[Any], name: str) -> None:
        kind = type(data).__name__
        if not hasattr(data, "__len__"):
            got = f"a {kind} without; add one, or make it an IterableDataset"
            checks.refuse("a Dataset with __len__", got, IncompatibleError)
        self.data, self.length = data, len(data)
        expected = f"at least one sample in {name}"
        checks.that(self.length > 0, expected, f"an empty {kind}", ShapeError)
        self.labelled = self.take(torch.zeros(1, dtype=torch.int64, device="cpu")).label is not None

    def take(self, index: Tensor) -> Batch:
        with CPU:
            items = [self.data[i] for i in index.tolist()]
            try:
                batch = default_collate(items)
            except (TypeError, RuntimeError) as error:
                expected = f"{name_of(self.data)} to give tensors or arrays of one shape"
                raise IncompatibleError(f"expected {expected}; got {error}") from error
        return unpacked(batch)._replace(indices=index)

    def record(self) -> dict[str, Any]:
        about = {"dataset": name_of(self.data), "length": self.length}
        return {"data": about, "labels": "in the data" if self.labelled else None}


class Stream(Source):
    """A ``DataLoader``, or any iterable of batches; its order is its own."""

    def __init__(self, data: Iterable[Any], name: str) -> None:
        self.data = data
        self.batches = self._begun()
        self.again = self.batches is not data  # an iterator cannot begin again
        first = self._next()
        if first is None:
            checks.refuse("at least one batch", f"{name} without", ShapeError)
        self.waiting = deque([first])
        self.labelled = first.label is not None

    def _begun(self) -> Iterator[Any]:
        with CPU:
            return iter(self.data)

    def _next(self) -> Batch | None:
        with CPU:
            try:
                return unpacked(next(self.batches))
            except StopIteration:
                return None

    def draw(self, generator: torch.Generator, n: int) -> Batch | None:
        batch = self.waiting.popleft() if self.waiting else self._next()
        if batch is None and self.again:
            self.batches = self._begun()
            batch = self._next()
        return batch

    def once(self, n: int) -> Iterator[Batch]:
        return map(unpacked, self._begun())

    def look(self, generator: torch.Generator) -> Iterator[Batch]:
        read = self.waiting  # ahead, in order
        while sum(len(b.x) for b in read) < 1000 and sum(b.x.nbytes for b in read) < READ_AHEAD:
            if (batch := self._next()) is None:
                break
            read.append(batch)
        return iter(list(read))

    def record(self) -> dict[str, Any]:
        about = {"stream": name_of(self.data), "resumes_exactly": False}
        return {"data": about, "labels": "in the data" if self.labelled else None}


def source_of(data: Data, labels: Labels | None, batch_size: int | None, name: str) -> Source:
    """The source of what a user passed as ``name``, refused before the network is called."""
    if isinstance(data, np.ndarray | Tensor):
        return Table(data, labels, name)
    if labels is not None:
        got = f"labels= beside a {type(data).__name__}; let it give (x, label)"
        checks.refuse(f"labels= with {name} that is a tensor or an array", got, IncompatibleError)
    if isinstance(data, IterableDataset):
        return Stream(DataLoader(data, batch_size=batch_size or BATCH_SIZE), name)
    if isinstance(data, Dataset):
        return Items(data, name)
    if isinstance(data, tuple | Mapping | str | bytes) or not isinstance(data, Iterable):
        expected = f"{name} as a tensor, an array, a Dataset, a DataLoader or a list of batches"
        got = f"{type(data).__name__}; pass labels as labels=, or torch.utils.data.TensorDataset"
        checks.refuse(expected, got, IncompatibleError)
    got = f"batch_size={batch_size}; set it in {name}, or leave it out"
    checks.that(batch_size is None, f"{name}'s own batches", got, IncompatibleError)
    return Stream(data, name)


def unpacked(batch: object) -> Batch:
    """A batch as ``x``, ``(x, label)`` or a dict of them; refused in any other form."""
    expected = 'a batch as x, (x, label) or {"x": …, "label": …}'
    if isinstance(batch, Mapping):
        wrong = set(batch) - {"x", "label"} or {"x"} - set(batch)
        checks.that(not wrong, expected, f"the keys {sorted(map(str, batch))}", IncompatibleError)
        batch = [batch[key] for key in ("x", "label") if key in batch]
    if not isinstance(batch, list | tuple):
        batch = (batch,)
    checks.that(1 <= len(batch) <= 2, expected, f"{len(batch)} parts", IncompatibleError)
    x, label = (*(each_tensor(tensor_of, part) for part in batch), None)[:2]
    require_samples(x, "a batch's x")
    if label is not None:
        require_labels(label, len(x))
    return Batch(x, label)


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
    found: Tensor = (
        rows if isinstance(rows, Tensor) else tensor_of(np.array(rows, subok=True), name)
    )
    return found


def sample_bytes(data: Rows) -> int:
    """Bytes of one sample, at least 1."""
    return max(1, part(data, 0, 1).nbytes)


def blocks(data: Rows) -> Iterator[Tensor]:
    """The samples in order, some megabytes at a time: a look at all data takes no more memory."""
    samples = max(1, BLOCK // sample_bytes(data))
    return (part(data, start, start + samples) for start in range(0, len(data), samples))


def fingerprint(data: Rows) -> dict[str, Any]:
    """Shape, dtype and SHA-256 of a data set ``(N, ...)``, as JSON.

    Up to 256 MiB every sample is hashed. Of a larger data set 256 parts of at least 1 MiB are,
    spread evenly from the first sample to the last: a change elsewhere is not noticed.
    """
    digest, count, size = hashlib.sha256(), len(data), sample_bytes(data)
    length = min(count, max(1, PART // size))
    starts = list(range(0, count, length))
    if count * size > HASHED_WHOLE:
        starts = [place * (count - length) // (PARTS - 1) for place in range(PARTS)]
    for start in starts:
        digest.update(raw_bytes(part(data, start, start + length)))
    dtype = str(part(data, 0, 1).dtype).removeprefix("torch.")
    return {"shape": list(data.shape), "dtype": dtype, "sha256": digest.hexdigest()}


def name_of(data: object) -> str:
    """A class's name, the same in every process."""
    return f"{type(data).__module__}.{type(data).__qualname__}"


def draw_batch(
    source: Source,
    n: int,
    label_dropout: float,
    null: Condition | None,
    transform: Callable[[Tensor], Tensor] | None,
    generator: torch.Generator,
    device: torch.device,
) -> Batch | None:
    """A step's batch on ``device``, augmented, some labels dropped; None where the data ended."""
    drawn = source.draw(generator, n)
    if drawn is None:
        got = "a stream that ended; pass one that can begin again, such as a list or a DataLoader"
        warnings.warn(f"expected a batch for every step, got {got}", RuntimeWarning, stacklevel=3)
        return None
    x, label, indices = drawn.to(device)
    same, got = source.labelled == (label is not None), "batches with and without"
    checks.that(same, "a label in every batch or in none", got, IncompatibleError)
    if transform is not None:
        changed = transform(x)
        checks.state(changed, "what transform returns")
        got = f"{len(changed)} for {len(x)}"
        checks.that(len(changed) == len(x), "transform to keep all samples", got, ShapeError)
        x = changed
    if label is not None and null is not None:
        draw = torch.rand(len(x), generator=generator, dtype=torch.float32, device="cpu")
        label = replaced(label, null, draw < label_dropout)
    return Batch(x, label, indices)
