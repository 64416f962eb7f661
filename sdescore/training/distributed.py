"""The processes of a run: torch's process group, the one of torchrun, and a rank's own device."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from sdescore.errors import RankError
from sdescore.samplers.ranks import all_ranks
from sdescore.training.sharded import Sharded
from sdescore.training.together import Together


@contextmanager
def processes(device: torch.device, shard: bool) -> Iterator[Together]:
    """The ranks of the process group, or of the one that torchrun's variables describe.

    A group that begins here ends with the process, because the script may use it afterwards. An
    error of one rank becomes an error of all.
    """
    if not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(own_device(device))
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(end_group)
    with all_ranks() as ranks:
        together = (Sharded if shard else Together)(ranks, own_device(device))
        try:
            yield together
            together.meet()
        except RankError:  # which all know of
            raise
        except Exception as error:
            if together.apart:
                raise
            together.meet(failure=f"{type(error).__name__}: {error}")
            raise


def end_group() -> None:
    """End the process group if it has not ended yet."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def own_device(device: torch.device) -> torch.device:
    """The GPU of this process, by torchrun's number, where all of them name the first one.

    If CUDA_VISIBLE_DEVICES leaves one GPU to the process, it takes that one.
    """
    if device.type == "cuda" and not device.index and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return device
