"""The memory of tensors."""

from __future__ import annotations

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class Peak(TorchDispatchMode):
    """The most bytes of tensors made in here that were alive at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                # Of the memory itself: Python's object of it may end long before.
                memory = value.untyped_storage()
                self.live[memory._cdata] = (StorageWeakRef(memory), memory.nbytes())
        self.live = {key: made for key, made in self.live.items() if not made[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return out
