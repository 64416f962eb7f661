"""What a computation borrows and gives back: torch's global generator, signals, a network's mode.

Dropout and the initial weights of torch's layers are drawn from one generator that all threads of
a process share. Code that needs these numbers to be reproducible seeds that generator and
afterwards restores its old state, so that the caller's own numbers do not change.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import nn

_LOCK = threading.RLock()


@contextmanager
def borrowed_generator(
    seed: int | None = None, device: torch.device | None = None
) -> Iterator[None]:
    """The global generators of the CPU and of a CUDA ``device``; afterwards as they were.

    Only one thread at a time is inside, so none sees numbers of another. A thread that
    draws from the global generator without this function is not stopped: it repeats numbers.

    Parameters
    ----------
    seed : int, optional
        What to seed both with, from 0 to 2³² − 1; by default they go on from where they are.
    device : torch.device, optional
        A device; if it is a CUDA one, its generator is borrowed too.
    """
    cuda = [device] if device is not None and device.type == "cuda" else []
    with _LOCK, torch.random.fork_rng(devices=cuda):
        if seed is not None:
            # torch.manual_seed would seed every other device as well, and nobody put it back.
            torch.default_generator.manual_seed(seed)
            for one in cuda:
                with torch.cuda.device(one):
                    torch.cuda.manual_seed(seed)
        yield


def step_seed(seed: int, step: int, domain: int = 0) -> int:
    """A generator's seed for one training step; of 32 bits, all that a CPU generator looks at.

    Knuth's multiplicative hash spreads the starts of runs whose seeds are small numbers, so that
    they share none within a million steps. Domain 0 is the step's own generator, 1 torch's global
    one, 2 that of the held-out batch of this number, 3 a rank's noise, 4 what a stream of batches
    draws; their distance keeps that promise.
    """
    return (seed * 0x9E3779B1 + step + domain * 0x33300000) % 2**32


@dataclass
class Interrupt:
    """Which signal, if any, asked for an end; :meth:`deliver` gives it to the process."""

    number: int | None = None

    def deliver(self) -> None:
        """End as the signal would have: ``KeyboardInterrupt``, or the end of the process."""
        if self.number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        elif self.number is not None:
            raise KeyboardInterrupt


@contextmanager
def late_signals() -> Iterator[Interrupt]:
    """The first Ctrl-C or SIGTERM is noted; the second does what it does by default.

    A file written in the middle of an update could not be resumed exactly. Outside the main thread,
    and where somebody has set a handler of their own, nothing is changed.
    """
    interrupt = Interrupt()

    def handler(number: int, frame: FrameType | None) -> None:
        again = interrupt.number is not None
        interrupt.number = number
        if again:
            interrupt.deliver()

    default: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        default = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    mine = {number: by for number, by in default.items() if signal.getsignal(number) is by}
    for number in mine:
        signal.signal(number, handler)
    try:
        yield interrupt
    finally:
        for number, action in mine.items():
            signal.signal(number, action)


@contextmanager
def on_error(do: Callable[[Exception], None]) -> Iterator[None]:
    """Call ``do(error)`` if the block ends with one, which goes on."""
    try:
        yield
    except Exception as error:
        do(error)
        raise


@contextmanager
def training_mode(net: nn.Module) -> Iterator[None]:
    """Training mode inside, the modes from before afterwards.

    A part in evaluation mode of a network in training mode stays so: a frozen batch norm, say.
    """
    before = [(module, module.training) for module in net.modules()]
    if not net.training:
        net.train()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
