"""How many threads a network's training is fastest with, by trying."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

__all__ = ["fastest_threads"]

SECONDS = 0.3  # of each trial


@contextmanager
def fastest_threads(
    step: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> Iterator[int]:
    """Run with one thread, or with torch's default where ``step()`` is faster so.

    Threads that wait for each other need a core each. Beside another busy process a second thread
    has made a step some twenty times slower.
    """
    usual = torch.get_num_threads()
    try:
        rates = {}
        for threads in sorted({1, usual}):
            torch.set_num_threads(threads)
            rates[threads] = _rate(step, clock)
        best = max(rates, key=rates.__getitem__)
        torch.set_num_threads(best)
        yield best
    finally:
        torch.set_num_threads(usual)


def _rate(step: Callable[[], object], clock: Callable[[], float]) -> float:
    """Steps a second."""
    step()  # the first one prepares
    started, steps = clock(), 0
    while (elapsed := clock() - started) < SECONDS:
        step()
        steps += 1
    return steps / elapsed
