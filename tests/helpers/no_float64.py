"""A device that has no float64, as Apple's MPS; the CPU makes its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

NAME = "lazy"  # a kind of device that PyTorch knows and that has no kernels of its own
DEVICE = torch.device(NAME, 0)
# These take tensors of two devices.
ACROSS = {"copy_", "_to_copy", "index", "index_put_", "_index_put_impl_"}
NUMBERS = {"_local_scalar_dense", "equal", "is_nonzero"}


class There(Tensor):
    """A tensor on the device; ``here`` holds its numbers on the CPU."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        if here.dtype in (torch.float64, torch.complex128):
            raise TypeError("the device has no float64")
        made = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )
        made.here = here
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.here!r})"

    def tolist(self) -> Any:
        return self.here.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.here.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(op, args, kwargs or {})


def run(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on the CPU; what it makes is on the device if its arguments are."""
    name, target = op.overloadpacket.__name__, kwargs.get("device")
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    there = any(isinstance(x, There) for x in tensors)
    if target is not None:
        there = torch.device(target).type == NAME
    elif there and name not in ACROSS:
        mixed = [x for x in tensors if x.ndim and not isinstance(x, There)]
        assert not mixed, f"{op}: tensors on the CPU and on the device"
    here, options = tree_map_only(There, lambda x: x.here, (args, kwargs))
    out = op(*here, **(options if target is None else options | {"device": torch.device("cpu")}))
    if not there or name in NUMBERS:
        return out
    if here and isinstance(out, Tensor) and out is here[0]:
        return args[0]  # in place
    return tree_map_only(Tensor, There, out)


class Operators(TorchDispatchMode):
    """What makes a tensor out of none, and what carries one to the device."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(op, args, kwargs or {})


class Constructors(TorchFunctionMode):
    """``torch.tensor``, which looks for the device before any operator runs."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        target = kwargs.get("device")
        if function in (torch.tensor, torch.as_tensor) and target is not None:
            made = function(*args, **kwargs | {"device": "cpu"})
            return made.to(target)
        return function(*args, **kwargs)


@contextmanager
def device_without_float64() -> Iterator[torch.device]:
    """The device, inside."""
    with Operators(), Constructors():
        yield DEVICE
