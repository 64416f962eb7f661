"""The processes that share a request.

They draw without a word to each other, meet after each round, and say whether they failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import distributed

from sdescore import checks
from sdescore.errors import IncompatibleError, RankError
from sdescore.samplers.request import progress_bar

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes of torch's process group, or this one alone where there is none."""

    rank: int = 0
    size: int = 1
    group: Any = None

    def agree(self, do: Callable[[], T]) -> list[T]:
        """What ``do()`` returns on each rank. If it fails on one, all ranks raise an error."""
        if self.group is None:
            return [do()]
        done, failure = None, None
        try:
            done = do()
        except Exception as error:
            failure = error
        said: list[Any] = [None] * self.size
        message = None if failure is None else f"{type(failure).__name__}: {failure}"
        with a_rank_may_be_gone():
            distributed.all_gather_object(said, (done, message), group=self.group)
        if failure is not None:
            raise failure
        for rank, (_, message) in enumerate(said):
            if message is not None:
                raise RankError(f"rank {rank} of {self.size} failed: {message}")
        return [done for done, _ in said]

    def require_equal(
        self, request: Callable[[], dict[str, Any]], name: str = "request"
    ) -> dict[str, Any]:
        """``request()``, called ``name``, refused unless it is the same on each rank."""
        first, *others = self.agree(request)
        for rank, other in enumerate(others, start=1):
            keys = sorted(first.keys() | other.keys())
            if different := [key for key in keys if first.get(key) != other.get(key)]:
                expected = f"the same {name} on every rank"
                got = f"another {' and '.join(different)} on rank {rank} than on rank 0"
                checks.refuse(expected, got, IncompatibleError)
        return first


@contextmanager
def a_rank_may_be_gone() -> Iterator[None]:
    """Turns torch's error, that nobody answers, into a RankError."""
    try:
        yield
    except RuntimeError as error:
        raise RankError(f"another rank is gone: {error}") from error


@contextmanager
def all_ranks() -> Iterator[Ranks]:
    """The processes that share a request, with a group of their own that talks over the CPU."""
    if not distributed.is_available() or not distributed.is_initialized():
        yield Ranks()
        return
    group = distributed.new_group(backend="gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), group)
    finally:
        distributed.destroy_process_group(group)


def bar(shown: bool, total: int) -> Any:
    """A progress bar, or one that nobody sees."""
    return progress_bar(total) if shown else nullcontext(lambda n: None)
