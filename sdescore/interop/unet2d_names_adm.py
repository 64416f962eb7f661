"""Names of the parts of guided diffusion's network, ours → those of ``UNet2DModel``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from sdescore.nets.adm import ADM, AttentionBlock, Resample, ResBlock

__all__: list[str] = []

BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def parts_of_adm(net: ADM) -> Iterator[tuple[str, nn.Module]]:
    """Every part that has weights, by its name in ``UNet2DModel``."""
    yield "time_embedding.linear_1", net.time_embed[0]
    yield "time_embedding.linear_2", net.time_embed[2]
    blocks = net.config["blocks"]
    first, *encoder = net.input_blocks
    yield "conv_in", first[0]  # type: ignore[index]
    # After the blocks of a resolution comes one stage that halves the size, but for the last.
    for n, stage in enumerate(encoder):
        yield from _stage(stage, f"down_blocks.{n // (blocks + 1)}", n % (blocks + 1))
    yield "mid_block.resnets.0", net.middle_block[0]
    yield "mid_block.attentions.0", net.middle_block[1]
    yield "mid_block.resnets.1", net.middle_block[2]
    for n, stage in enumerate(net.output_blocks):
        yield from _stage(stage, f"up_blocks.{n // (blocks + 1)}", n % (blocks + 1))
    yield "conv_norm_out", net.out[0]
    yield "conv_out", net.out[2]


def _stage(stage: Any, name: str, index: int) -> Iterator[tuple[str, nn.Module]]:
    sampler = "downsamplers" if name.startswith("down") else "upsamplers"
    for layer in stage:
        if isinstance(layer, AttentionBlock):
            yield f"{name}.attentions.{index}", layer
        elif isinstance(layer, Resample):
            yield f"{name}.{sampler}.0.conv", getattr(layer, "conv" if layer.up else "op")
        else:
            resizes = isinstance(layer.resample, Resample)
            yield f"{name}.{sampler}.0" if resizes else f"{name}.resnets.{index}", layer


def tensors_of(part: nn.Module) -> dict[str, Tensor]:
    """The tensors of a part, by their names in that of diffusers."""
    found: dict[str, Tensor] = {}
    if isinstance(part, ResBlock):
        for name, tensor in part.named_parameters():
            layer, _, leaf = name.rpartition(".")
            found[f"{BLOCK[layer]}.{leaf}"] = tensor
    elif isinstance(part, AttentionBlock):
        for leaf in ("weight", "bias"):
            found[f"group_norm.{leaf}"] = getattr(part.norm, leaf)
            found[f"to_out.0.{leaf}"] = getattr(part.proj_out, leaf)
            rows, heads = getattr(part.qkv, leaf), part.heads
            if part.new_order:
                q, k, v = rows.chunk(3)
            else:  # q, k and v of a head before the next head
                q, k, v = (r.flatten(0, 1) for r in rows.unflatten(0, (heads, 3, -1)).unbind(1))
            found |= {f"to_q.{leaf}": q, f"to_k.{leaf}": k, f"to_v.{leaf}": v}
    else:
        found.update(part.named_parameters())
    return found
