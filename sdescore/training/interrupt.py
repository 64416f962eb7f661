"""Ctrl-C between steps, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from torch import nn


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second raises ``KeyboardInterrupt`` as ever.

    Weights, optimiser and average are out of step in the middle of an update, and a file written
    then could not be resumed exactly. Outside the main thread, and where somebody has set a
    handler of their own, nothing is changed and the event is never set.
    """
    event = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    mine = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if mine:
        signal.signal(signal.SIGINT, handler)
    try:
        yield event
    finally:
        if mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def training_mode(net: nn.Module) -> Iterator[None]:
    """Training mode inside, the mode from before afterwards."""
    before = net.training
    net.train()
    try:
        yield
    finally:
        net.train(before)
