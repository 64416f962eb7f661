"""Names of the parts of score_sde's network, ours → those of ``UNet2DModel``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from sdescore.nets.blocks_ncsnpp import Attention
from sdescore.nets.layout_ncsnpp import Layout

__all__: list[str] = []

ATTENTION = {
    "GroupNorm_0": "group_norm",
    "NIN_0": "to_q",
    "NIN_1": "to_k",
    "NIN_2": "to_v",
    "NIN_3": "to_out.0",
}
BLOCK = {
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "Dense_0": "time_emb_proj",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "Conv_2": "conv_shortcut",
    "NIN_0": "conv_shortcut",
}


def parts_of_ncsnpp(layout: Layout, skips: bool, blocks: int) -> Iterator[tuple[int, str]]:
    """Every part's index in ``all_modules``, but that of Fourier features, with their name."""
    yield from zip(layout.time, ("time_embedding.linear_1", "time_embedding.linear_2"), strict=True)
    yield layout.first, "conv_in"
    for i, level in enumerate(layout.encoder):
        for j, (block, *attention) in enumerate(level.blocks):
            yield block, f"down_blocks.{i}.resnets.{j}"
            yield from ((index, f"down_blocks.{i}.attentions.{j}") for index in attention)
        yield from ((index, f"down_blocks.{i}.skip_conv") for index in level.side)
        if level.resample is not None:
            part = "resnet_down" if skips else "downsamplers.0.conv"
            yield level.resample, f"down_blocks.{i}.{part}"
    middle = ("resnets.0", "attentions.0", "resnets.1")
    yield from zip(layout.middle, (f"mid_block.{part}" for part in middle), strict=True)
    for i, level in enumerate(layout.decoder):
        for j, (block, *attention) in enumerate(level.blocks):
            yield block, f"up_blocks.{i}.resnets.{j}"
            last = 0 if skips else blocks
            yield from ((index, f"up_blocks.{i}.attentions.{last}") for index in attention)
        if level.resample is not None:
            for index, side in zip(level.side, ("skip_norm", "skip_conv"), strict=skips):
                yield index, f"up_blocks.{i}.{side}"
            part = "resnet_up" if skips else "upsamplers.0.conv"
            yield level.resample, f"up_blocks.{i}.{part}"
    last_two = layout.last or layout.decoder[-1].side
    yield from zip(last_two, ("conv_norm_out", "conv_out"), strict=True)


def layers_of(part: nn.Module, name: str) -> Iterator[tuple[Any, str]]:
    """The layers of a part that have weights, with the names of theirs."""
    names: Mapping[str, str] = {}
    if isinstance(part, Attention):
        names = ATTENTION
    elif hasattr(part, "GroupNorm_0"):
        names = BLOCK
    for child, theirs in names.items():
        if hasattr(part, child):
            yield getattr(part, child), f"{name}.{theirs}"
    if not names:  # a layer, or the only one of a part that resamples or combines
        yield getattr(part, "Conv_0", part), name
