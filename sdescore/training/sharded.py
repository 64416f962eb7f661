"""Weights that are sharded over the processes that train one model (torch's FSDP2).

Each rank holds a part of every weight, of its average and of the optimiser's state. ``fully_shard``
collects the weights of a block of the network when the block is called, and gives each rank its
part of the gradient. All ranks exchange data within the network's call. So the ranks meet before
the call, and learn whether each has a batch. A rank that fails within the call cannot tell the
others.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.checkpoint.folder import is_folder
from sdescore.errors import IncompatibleError
from sdescore.losses.loss import Loss
from sdescore.nets.ema import EMA, is_sharded, network_tensors, whole
from sdescore.nets.energy import EnergyModel
from sdescore.score.model import ScoreModel
from sdescore.training.data import Batch
from sdescore.training.guards import add_gradient
from sdescore.training.state import FolderSaver, Saver
from sdescore.training.together import Together

GONE = "storage of size 0"  # torch's words for a weight that was given back after the call


class Sharded(Together):
    """This process, among those that train one model and hold a part of it each."""

    sharded = True
    twin: ScoreModel  # what the steps call
    original: nn.Module  # the network of the model that the run began with
    samples = 0.0  # of all ranks in this step
    factor = 1.0  # from the mean over this rank's samples to its part of the mean over all

    def trained(self, model: ScoreModel, net: nn.Module) -> tuple[ScoreModel, nn.Module]:
        """The model around a sharded copy of its network; its own network stays whole.

        A part is what an ``nn.ModuleList`` holds, if it is called; the rest is one part more.
        """
        from torch.distributed.device_mesh import init_device_mesh

        try:
            from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
        except ImportError:
            checks.refuse("torch 2.6 or newer for shard=True", torch.__version__, IncompatibleError)
        energy = any(isinstance(part, EnergyModel) for part in net.modules())
        expected = "a network that does not differentiate itself, for shard=True"
        got = "an EnergyModel; leave shard= out"
        checks.that(not energy, expected, got, IncompatibleError)
        scalars = [name for name, value in net.named_parameters() if value.ndim == 0]
        expected = "parameters with at least one dimension, as torch shards no scalar"
        got = f"{scalars[:1]} of {type(net).__name__}; leave shard= out"
        checks.that(not scalars, expected, got, IncompatibleError)
        mesh = init_device_mesh(self.device.type, (self.share.size,))
        self.original, net = net, copy.deepcopy(net)
        lists = [module for module in net.modules() if isinstance(module, nn.ModuleList)]
        for block in (block for blocks in reversed(lists) for block in blocks):
            if not isinstance(block, nn.ModuleList | nn.ModuleDict):
                fully_shard(block, mesh=mesh)
        fully_shard(net, mesh=mesh)
        if hasattr(net, "with_variance"):  # which an objective calls in the place of forward
            register_fsdp_forward_method(net, "with_variance")
        self.twin = copy.copy(model)
        self.twin._modules = {**model._modules, "net": net}
        return self.twin, net

    @contextmanager
    def averaged(self, ema: EMA) -> Iterator[ScoreModel]:
        """The sharded model with the averaged weights, in evaluation mode; afterwards as it was."""
        net: Any = self.twin.net
        tensors = {name: value.detach() for name, value in network_tensors(net).items()}
        before = {name: value.clone() for name, value in tensors.items()}
        net.eval()
        try:
            for name, value in tensors.items():
                value.copy_(ema.shadow[name])
            with torch.no_grad():
                yield self.twin
        finally:
            net.reshard()  # fully_shard keeps the last weights that it collected for a backward
            for name, value in tensors.items():
                value.copy_(before[name])
            net.train()

    def saver(self, path: str | os.PathLike[str], *run: Any) -> Saver:
        if not is_folder(path):
            return Saver(path, *run)
        saver = FolderSaver(path, *run)
        saver.ranks = self.ranks
        return saver

    def ready(self, batch: Batch | None, interrupted: bool) -> Batch | None:
        """The batch, if every rank has one."""
        own = 0 if batch is None else len(batch.x)
        samples, squares, ended, signals = self.meet(own, own**2, batch is None, interrupted)
        self.interrupted = signals > 0
        if ended:
            return None
        size = self.share.size
        expected = "as many samples on every rank for accumulate= with shard=True"
        advice = "choose a batch size that the number of ranks divides"
        same = self.parts == 1 or squares * size == samples**2
        checks.that(same, expected, f"{own} of {samples:g}; {advice}", IncompatibleError)
        self.samples, self.factor = samples, own * size / samples
        return batch

    def add_gradient(self, *step: Any) -> Loss:
        """The gradient of the mean over the samples of all ranks."""
        self.apart = True
        try:
            found = add_gradient(*step, factor=self.factor)
        except RuntimeError as error:
            if GONE not in str(error):
                raise
            got = "one that does so twice; leave shard= out"
            expected = "an objective that differentiates the network once, for shard=True"
            raise IncompatibleError(f"expected {expected}; got {got}") from error
        self.apart = False
        return found

    def reduce(
        self, weights: object, batch: Batch | None, mean: Tensor, interrupted: bool
    ) -> tuple[Batch | None, Tensor]:
        """The loss of the whole batch; its gradient is there."""
        if batch is None:
            return None, mean
        (total,) = self.meet(mean.item() * len(batch.x))
        return batch, mean.new_tensor(total / self.samples)

    def require_failure(self, net: nn.Module, own: Tensor, whole: Tensor) -> None:
        self._fill(net)
        super().require_failure(net, own, whole)

    def end(self, net: nn.Module, ema: EMA) -> EMA:
        """The whole average; the whole weights go to the model that the run began with."""
        here = [*net.buffers(), *ema.shadow.values()]
        self.spread(value for value in here if not is_sharded(value))
        self._fill(net)
        average = EMA(self.original, ema.decay, ema.warmup)
        for name, value in ema.shadow.items():
            average.shadow[name].copy_(whole(value))
        average.num_updates = ema.num_updates
        return average

    def _fill(self, net: nn.Module) -> None:
        targets = network_tensors(self.original)
        for name, value in network_tensors(net).items():
            targets[name].detach().copy_(whole(value).detach())
