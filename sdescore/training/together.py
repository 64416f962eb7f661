"""The processes that train one model, each on its rows of every batch.

All ranks draw the batch of a step from the same generator, and each takes its rows: indices, times,
noise and dropped labels do not depend on the number of ranks. After the backward pass the gradients
are added up in one message, and every rank makes the same step of the optimiser. (torch's
``DistributedDataParallel`` expects one forward pass a step. Some objectives call the network twice,
or differentiate it twice.) Rank 0 writes the files, shows the bar and runs the callback.

The ranks also *meet*, at least once a step: they add up a few numbers, among them how many ranks
failed. A rank that fails says so at the next meeting, so that no other waits for it in vain.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from sdescore import checks
from sdescore.checkpoint.container import raw_bytes
from sdescore.errors import RankError
from sdescore.losses.loss import Loss
from sdescore.nets.ema import EMA
from sdescore.samplers.ranks import Ranks, a_rank_may_be_gone
from sdescore.score.convention import DataScale
from sdescore.score.model import ScoreModel
from sdescore.training.data import Batch, Share, Source
from sdescore.training.guards import Recipe, add_gradient
from sdescore.training.state import Saver
from sdescore.training.streams import Stream

NUMBERS = 4  # the most that a meeting adds up, beside the number of failures


def first_batch(source: Stream) -> str:
    """A stream's first samples as a number that tells them apart."""
    return hashlib.sha256(raw_bytes(source.waiting[0].x)).hexdigest()


class Together:
    """This process, among those that train one model."""

    sharded = False
    apart = False  # whether this rank is where it cannot meet the others

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self.ranks, self.share = ranks, Share(ranks.rank, ranks.size)
        self.device, self.interrupted = device, False

    def meet(self, *numbers: float, failure: str | None = None) -> list[float]:
        """The sums of these numbers over all ranks; a failure of another one is raised."""
        told = [float(failure is not None), *numbers, *[0.0] * (NUMBERS - len(numbers))]
        sums = torch.tensor(told, dtype=torch.float64, device="cpu")
        said: list[str | None] = [None] * self.share.size
        with a_rank_may_be_gone():
            distributed.all_reduce(sums, group=self.ranks.group)
            if sums[0] > 0:
                distributed.all_gather_object(said, failure, group=self.ranks.group)
        for rank, message in enumerate(said):
            if failure is None and message is not None:
                raise RankError(f"rank {rank} of {self.share.size} failed: {message}")
        return sums[1 : 1 + len(numbers)].tolist()

    def begin(self, net: nn.Module, scale: DataScale, source: Source, recipe: Recipe) -> DataScale:
        """Give all ranks the weights of rank 0, and the scale that it measured, which is returned.

        It also finds out whether a stream is the same on all ranks.
        """
        self.meet()
        self.ranks.require_equal(lambda: {"shard": self.sharded}, "run")
        if isinstance(source, Stream):
            source.shared = len(set(self.ranks.agree(lambda: first_batch(source)))) == 1
        else:
            n, ranks = recipe.batch_size, self.share.size
            checks.that(n >= ranks, f"batch_size >= {ranks}, one sample per rank", n)
        self.parts = recipe.accumulate
        self.spread([*net.parameters(), *net.buffers()])
        return self.ranks.agree(lambda: scale)[0]

    def require_one_run(
        self,
        options: Mapping[str, Any],
        source: Source,
        held_out: Source | None,
        *when: int,
    ) -> None:
        """Refuse options, data or a resumed file that are not the same on all ranks."""
        self.meet()
        record = None if held_out is None else held_out.record()
        if isinstance(held_out, Stream):  # of which each rank takes other batches
            record = {"first batch": first_batch(held_out)}
        run = {**options, **source.record(), "validation": record, "steps or file": when}
        self.ranks.require_equal(lambda: run, "run")

    def trained(self, model: ScoreModel, net: nn.Module) -> tuple[ScoreModel, nn.Module]:
        """The model that the steps call, and the network that they change."""
        return model, net

    def saver(self, path: str | os.PathLike[str], *run: Any) -> Saver:
        """What writes the run's checkpoint."""
        return Saver(path, *run)

    def ready(self, batch: Batch | None, interrupted: bool) -> Batch | None:
        """The batch of a step, before the network is called."""
        return batch

    def add_gradient(self, *step: Any) -> Loss:
        """The gradient of this rank's samples, before :meth:`reduce`; see the function."""
        return add_gradient(*step)

    def end(self, net: nn.Module, ema: EMA) -> EMA:
        """Give all ranks the buffers of rank 0, such as running means; the weights are the same."""
        self.spread([*net.buffers(), *ema.shadow.values()])
        return ema

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Copy rank 0's tensors to the others."""
        self.meet()
        for tensor in tensors:
            # As bytes, for gloo does not know every dtype.
            sent = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
            distributed.broadcast(sent, 0, group=self._group(tensor.device))
            tensor.detach().copy_(sent.view(tensor.dtype).view_as(tensor))

    def noise(self, batch: Batch, generator: torch.Generator, own_seed: int) -> Tensor:
        """The noise of these samples, as one process draws it for the whole batch, in parts.

        Later draws of an objective use ``own_seed``, which differs by rank.
        """
        n, event = batch.whole, batch.x.shape[1:]
        dtype, size = torch.promote_types(batch.x.dtype, torch.float32), -(-n // self.parts)
        parts = [
            torch.randn(
                (min(size, n - start), *event), generator=generator, dtype=dtype, device="cpu"
            )
            for start in range(0, n, size)
        ]
        generator.manual_seed(own_seed)
        return batch.own(torch.cat(parts)).to(batch.x.device)

    def reduce(
        self, weights: Sequence[nn.Parameter], batch: Batch | None, mean: Tensor, interrupted: bool
    ) -> tuple[Batch | None, Tensor]:
        """The loss of the whole batch, and in the weights its gradient.

        No batch, and so no step, where one rank has none.
        """
        own = 0 if batch is None else len(batch.x)
        loss = mean.item() * own if own else 0.0
        samples, total, ended, signals = self.meet(own, loss, batch is None, interrupted)
        self.interrupted = signals > 0
        if ended or batch is None:
            return None, mean
        there = mean.new_tensor([p.grad is not None for p in weights])
        parts = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in weights]
        flat = torch.cat([there, *(part.flatten() * (own / samples) for part in parts)])
        distributed.all_reduce(flat, group=self._group(flat.device))
        sizes = [len(weights), *(p.numel() for p in weights)]
        there, *parts = torch.split(flat, sizes)
        for weight, found, part in zip(weights, there.tolist(), parts, strict=True):
            # In the weight's strides, at which a fused step does not look.
            own_part = torch.empty_like(weight).copy_(part.view_as(weight))
            weight.grad = own_part if found else None
        return batch, mean.new_tensor(total / samples)

    def require_failure(self, net: nn.Module, own: Tensor, whole: Tensor) -> None:
        """End with the error of the rank whose loss is not finite, unless it is this one's."""
        if bool(own.isfinite()) and not bool(whole.isfinite()):
            self.meet()

    def deliver(self) -> None:
        """End where another rank got a signal to."""
        if self.interrupted:
            raise RankError(
                "another rank got Ctrl-C or SIGTERM; the run was saved if it has a path"
            )

    def _group(self, device: torch.device) -> Any:
        """The group that talks over the CPU for tensors on it, the process group for others."""
        return self.ranks.group if device.type == "cpu" else None
