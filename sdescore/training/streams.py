"""Data that come item by item, or batch by batch: a ``Dataset``, a ``DataLoader``, any iterable."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler, default_collate

from sdescore import checks
from sdescore.borrowed import borrowed_generator, step_seed
from sdescore.conditions import each_tensor, names_of, require_labels
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.training.data import (
    Batch,
    Indexed,
    Samples,
    Share,
    Source,
    require_samples,
    tensor_of,
)

READ_AHEAD = 2**28  # bytes of a stream that are held while its scale is measured
CPU = torch.device("cpu")  # where a data set makes its tensors, whatever the default device is


class Items(Indexed):
    """A map-style ``torch.utils.data.Dataset``, or another object that gives samples by index."""

    def __init__(self, data: Samples, name: str) -> None:
        kind = type(data).__name__
        if not hasattr(data, "__len__"):
            got = f"a {kind} without; add one, or make it an IterableDataset"
            checks.refuse("a Dataset with __len__", got, IncompatibleError)
        self.data, self.length = data, len(data)
        expected = f"at least one sample in {name}"
        checks.that(self.length > 0, expected, f"an empty {kind}", ShapeError)
        first = self.take(torch.zeros(1, dtype=torch.int64, device="cpu"))
        self.parts = names_of(first.label)

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
        return {"data": about, "labels": "in the data" if self.parts else None}


class Stream(Source):
    """A ``DataLoader``, or any iterable of batches; its order is its own."""

    def __init__(self, data: Iterable[Any], name: str) -> None:
        self.data, self.epoch = data, 0
        self.batches = self._begun()
        self.again = self.batches is not data  # an iterator cannot begin again
        first = self._next(self.batches)
        if first is None:
            checks.refuse("at least one batch", f"{name} without", ShapeError)
        self.waiting = deque([copied(first)])
        self.parts = names_of(first.label)

    def _begun(self) -> Iterator[Any]:
        with CPU:
            return iter(self.data)

    def _next(self, batches: Iterator[Any]) -> Batch | None:
        with CPU:
            try:
                return unpacked(next(batches))
            except StopIteration:
                return None
            except (ConnectionError, EOFError) as error:  # torch, when a worker process died
                expected = f"a batch from each worker process of the {type(self.data).__name__}"
                got = "one that died, as for lack of memory; look for its error with num_workers=0"
                raise IncompatibleError(f"expected {expected}; got {got}") from error

    def draw(self, generator: torch.Generator, n: int, share: Share) -> Batch | None:
        # A shuffle that begins, and a stream of random numbers, are the same on all ranks.
        common = step_seed(generator.initial_seed(), 0, domain=4)
        with borrowed_generator(common) if self.shared else nullcontext():
            batch = self._drawn()
        if batch is None or not self.shared:
            return batch and batch._replace(whole=len(batch.x))
        x, label, own = batch.x, batch.label, share.of(len(batch.x))
        label = each_tensor(itemgetter(own), label)
        return Batch(x[own], label, None, own.start, len(x))

    def _drawn(self) -> Batch | None:
        batch = self.waiting.popleft() if self.waiting else self._next(self.batches)
        if batch is None and self.again:
            self.epoch += 1
            sampler = getattr(self.data, "sampler", None)
            if isinstance(sampler, DistributedSampler):  # which shuffles by this number
                sampler.set_epoch(self.epoch)
            self.batches = self._begun()
            batch = self._next(self.batches)
        return batch

    def once(self, n: int, share: Share) -> Iterator[Batch]:
        batches = iter(partial(self._next, self._begun()), None)
        return islice(batches, share.rank, None, share.size)

    def look(self, generator: torch.Generator) -> Iterator[Batch]:
        read = self.waiting  # ahead, in order
        while sum(len(b.x) for b in read) < 1000 and sum(b.x.nbytes for b in read) < READ_AHEAD:
            if (batch := self._next(self.batches)) is None:
                break
            read.append(copied(batch))
        return iter(list(read))

    def record(self) -> dict[str, Any]:
        about = {"stream": name_of(self.data), "resumes_exactly": False}
        return {"data": about, "labels": "in the data" if self.parts else None}


def gives_samples(data: object) -> TypeGuard[Samples]:
    """Whether the items of ``data`` are samples: of a Dataset, or of an array on disk, say.

    The items of a list are batches, those of a mapping are named, and a data frame's are columns.
    """
    if isinstance(data, Dataset):
        return True
    counted = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    return counted and not isinstance(data, Sequence | Mapping) and not hasattr(data, "to_numpy")


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
    got = f"x of shape {tuple(x.shape)}"
    checks.that(len(x) > 0, "at least one sample in every batch", got, ShapeError)
    if label is not None:
        require_labels(label, len(x), finite=True)
    return Batch(x, label)


def copied(batch: Batch) -> Batch:
    """A batch to keep: its loader may fill the same memory with the next one."""
    return batch._replace(x=batch.x.clone(), label=each_tensor(torch.clone, batch.label))


def name_of(data: object) -> str:
    """A class's name, the same in every process."""
    return f"{type(data).__module__}.{type(data).__qualname__}"
