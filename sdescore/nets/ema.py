r"""Exponential moving average of a network's weights.

.. math::

    \bar\theta_n = d_n \bar\theta_{n-1} + (1 - d_n)\, \theta_n, \qquad
    d_n = \min\Big(d, \frac{1 + n}{10 + n}\Big)

after update :math:`n = 1, 2, …`, from :math:`\bar\theta_0 = \theta_0` (Song & Ermon 2020, section
4, technique 5). The second part of the minimum is the warm-up: the average first covers the last
few updates, so that it forgets the random start.

**Power-function average.** With a relative width :math:`\sigma_{rel}` the decay is

.. math::

    d_n = \Big(1 - \frac1n\Big)^{\gamma + 1}, \qquad
    \sigma_{rel}^2 = \frac{\gamma + 1}{(\gamma + 2)^2 (\gamma + 3)}

(Karras et al. 2024, arXiv:2312.02696, section 3.1, eqs. 123 and 127). Update k then has a weight in
proportion to :math:`k^\gamma`. The average always covers the same part of the training so far: the
standard deviation of the weights over updates is :math:`\sigma_{rel}\, n`. It keeps nothing of
:math:`\theta_0`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sdescore import checks
from sdescore.errors import CheckpointError, IncompatibleError
from sdescore.score.model import ScoreModel

__all__ = ["EMA"]

COUNT = "num_updates"  # its key in the state; the rest is "shadow.<name>"
PREFIX = "shadow."

_Average = Callable[[list[Tensor], list[Tensor], int], None]
# torch's public name for the fused update; it carries no annotations.
_average = cast(Callable[[float], _Average], get_ema_multi_avg_fn)


class EMA:
    """Moving average of the parameters of ``net``; buffers and frozen masks of −∞ are copied.

    Parameters
    ----------
    net : nn.Module
        The average starts from its present weights, on their devices. It is kept in at least
        float32, because in bfloat16 an update of 1e-3 rounds away.
    decay : float
        In ``[0, 1)``; about ``1 / (1 - decay)`` updates are remembered.
    warmup : bool
        Cap the decay at ``(1 + n) / (10 + n)``.
    sigma_rel : float, optional
        In ``(0, 0.28]``: the width of a power-function average, in place of ``decay`` and
        ``warmup``. EDM2 takes 0.05 to 0.15.

    Attributes
    ----------
    num_updates : int
        Updates so far.
    shadow : dict[str, Tensor]
        The averaged parameters and copied buffers, by name.

    Raises
    ------
    ParameterError
        ``decay`` lies outside ``[0, 1)``, or ``sigma_rel`` outside ``(0, 0.28]``.
    IncompatibleError
        A tensor of ``net`` was made by ``expand``, so nothing can be written into it.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(net.weight)
    >>> ema = EMA(net, decay=0.75, warmup=False)
    >>> _ = torch.nn.init.ones_(net.weight)
    >>> ema.update(net)
    >>> ema.shadow["weight"].item()
    0.25
    """

    def __init__(
        self,
        net: nn.Module,
        decay: float = 0.999,
        warmup: bool = True,
        *,
        sigma_rel: float | None = None,
    ) -> None:
        checks.instance("net", net, nn.Module)
        self.decay = checks.number("decay", decay, at_least=0, below=1)
        self.warmup = checks.flag("warmup", warmup)
        self.exponent = None if sigma_rel is None else power_exponent(sigma_rel)
        self.num_updates = 0
        require_writable(net)
        self.shadow = {
            name: value.detach().to(averaged_dtype(value), copy=True)
            for name, value in network_tensors(net).items()
        }

    def update(self, net: nn.Module) -> None:
        """Take in the present weights of ``net``.

        Raises
        ------
        IncompatibleError
            ``net`` has other tensors than the network the average was made from.
        """
        self.updater(net)()

    def updater(self, net: nn.Module) -> Callable[[], None]:
        """:meth:`update` for a loop, which looks for the tensors of ``net`` once.

        The function that is returned takes no argument. It reads the parameters that ``net`` has
        now, and the buffers that ``net`` has when it is called. Errors are those of :meth:`update`.
        """
        _require_same(network_tensors(net), self.shadow, IncompatibleError)
        net = plain_network(net)
        # A mask of −∞ that is no buffer has no average either.
        masks = {
            name
            for name, value in net.named_parameters()
            if not value.requires_grad and bool(value.isinf().any())
        }
        named = [(name, value) for name, value in net.named_parameters() if name not in masks]
        weights: list[Tensor] = [value for _, value in named]
        shadow = [self.shadow[plain_name(name)] for name, _ in named]
        pairs = [*zip(weights, shadow, strict=True)]
        alike = all(s.is_floating_point() and s.dtype == w.dtype for w, s in pairs)
        buffers = [
            (self.shadow[plain_name(name)], net.get_submodule(name.rpartition(".")[0]), name)
            for name in (*masks, *(name for name, _ in net.named_buffers()))
        ]

        @torch.no_grad()
        def take_in() -> None:
            self.num_updates += 1
            n = self.num_updates
            decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
            if self.exponent is not None:
                decay = (1 - 1 / n) ** (self.exponent + 1)
            if alike:  # what torch's average does, without making a function of it at each step
                torch._foreach_lerp_(shadow, weights, 1 - decay)
            else:
                _average(decay)(shadow, [weight.to(average) for weight, average in pairs], n)
            for copied, part, name in buffers:
                copied.copy_(getattr(part, name.rpartition(".")[2]))

        return take_in

    @torch.no_grad()
    def copy_to(self, net: nn.Module) -> None:
        """Write the average into ``net``, in its dtypes and devices; errors as :meth:`update`."""
        current = network_tensors(net)
        _require_same(current, self.shadow, IncompatibleError)
        for name, value in current.items():
            value.copy_(self.shadow[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Everything :meth:`load_state_dict` needs, as copies: tensors only, for safetensors."""
        state = {PREFIX + name: value.clone() for name, value in self.shadow.items()}
        state[COUNT] = torch.tensor(self.num_updates, dtype=torch.int64, device="cpu")
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a :meth:`state_dict`; nothing changes if it does not fit.

        Raises
        ------
        CheckpointError
            Names, shapes or the number of updates do not fit.
        """
        expected = {PREFIX + name: value for name, value in self.shadow.items()}
        _require_same({k: v for k, v in state.items() if k != COUNT}, expected, CheckpointError)
        count = state.get(COUNT)
        if count is None or count.shape != () or count.is_floating_point() or int(count) < 0:
            got = f"{count!r}; pass what EMA.state_dict() returned"
            checks.refuse(f"{COUNT!r} as a 0-dim integer of at least 0", got, CheckpointError)
        for key, value in expected.items():
            value.copy_(state[key])
        self.num_updates = int(count)


def power_exponent(sigma_rel: float) -> float:
    """γ of a power-function average of this relative width, by bisection; it falls with width."""
    variance = checks.number("sigma_rel", sigma_rel, at_least=1e-6, at_most=0.28) ** 2
    low, high = 0.0, 1 / sigma_rel  # where the variance is 1/12, and below 1/γ²
    while low < (middle := (low + high) / 2) < high:
        wide = (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > variance
        low, high = (middle, high) if wide else (low, middle)
    return low


def plain_network(net: nn.Module) -> nn.Module:
    """The network inside the wrappers of ``torch.compile`` and of torch's parallel modules."""
    while True:
        if isinstance(getattr(net, "_orig_mod", None), nn.Module):
            net = cast(nn.Module, net._orig_mod)
        elif isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        else:
            return net


def plain_copy(model: ScoreModel) -> ScoreModel:
    """A copy of a model whose network is in no wrapper."""
    try:
        return copy.deepcopy(model, {id(model.net): copy.deepcopy(plain_network(model.net))})
    except Exception as error:
        got = f"{type(model.net).__name__}: {error}"
        raise IncompatibleError(f"expected a network for copy.deepcopy; got {got}") from error


def plain_name(name: str) -> str:
    """A tensor's name without the prefix of a part that ``torch.compile`` wraps."""
    return name.replace("_orig_mod.", "")


def is_sharded(value: Tensor) -> bool:
    """Whether it is torch's ``DTensor``, of which each process holds a part."""
    return hasattr(value, "full_tensor")


def whole(value: Tensor) -> Tensor:
    """All of a tensor that may be sharded over processes, each of which must call this."""
    return cast(Any, value).full_tensor() if is_sharded(value) else value


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device of ``like``; this process's part, where that is sharded."""
    if not is_sharded(like):
        return value.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    sharded = cast(Any, like)
    return distribute_tensor(value, sharded.device_mesh, sharded.placements, src_data_rank=None)


def network_tensors(net: nn.Module) -> dict[str, Tensor]:
    """The tensors that an average follows: parameters and buffers, by plain name."""
    net = plain_network(net)
    named = (*net.named_parameters(), *net.named_buffers())
    return {plain_name(name): value for name, value in named}


def require_writable(net: nn.Module) -> None:
    """Refuse a network with a tensor that is not dense, or whose elements share their memory."""
    for name, value in network_tensors(net).items():
        checks.dense(f"the network's {name}", value, IncompatibleError, real=False)
        sizes = zip(value.shape, value.stride(), strict=True)
        shared = any(n > 1 and stride == 0 for n, stride in sizes)
        got = f"{name!r} that expand() made; register its .contiguous()"
        checks.that(not shared, "tensors that can be written", got, IncompatibleError)


def averaged_dtype(value: Tensor) -> torch.dtype:
    """The dtype of a tensor's average: at least float32, or an integer buffer's own."""
    if not value.is_floating_point():
        return value.dtype
    return torch.promote_types(value.dtype, torch.float32)


def _require_same(
    got: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    error: checks.ErrorClass,
) -> None:
    shapes, found = ({name: tuple(v.shape) for name, v in of.items()} for of in (expected, got))
    different = [name for name in shapes | found if shapes.get(name) != found.get(name)]
    if different:
        name = different[0]
        raise error(
            f"expected the tensors of the network this EMA was made from; {len(different)} differ, "
            f"first {name!r}: expected {shapes.get(name, 'nothing')}, got "
            f"{found.get(name, 'nothing')}; make a new EMA, or pass the network with the same "
            "configuration"
        )
