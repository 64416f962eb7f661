"""What the network of guided diffusion is in ``diffusers``: the options and the tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.interop.unet2d_names_adm import parts_of_adm, tensors_of
from sdescore.interop.unet2d_ncsnpp import Plan
from sdescore.nets.adm import ADM, GROUPS, AttentionBlock

__all__: list[str] = []


def plan_of_adm(net: ADM) -> Plan:
    """The configuration and tensors of the same function, or a refusal."""
    o = net.config
    sizes = [int(m * net.width) for m in o["multipliers"]]
    expected = f"an ADM whose first features have its width, {net.width} channels"
    checks.that(sizes[0] == net.width, expected, f"{sizes[0]}", IncompatibleError)
    parts = dict(parts_of_adm(net))
    resized = ("Resnet", "sample") if o["resample_blocks"] else ("", "")

    def kinds(side: str) -> tuple[str, ...]:
        attends = [f"{side}_blocks.{i}.attentions.0" in parts for i in range(len(sizes))]
        plain, sample = resized
        other = f"{plain}{side.title()}{sample}Block2D"
        return tuple(f"Attn{side.title()}Block2D" if attend else other for attend in attends)

    config: dict[str, Any] = {
        "sample_size": o["size"],
        "in_channels": o["channels"],
        "out_channels": o["channels"] * (2 if o["learned_variance"] else 1),
        "down_block_types": kinds("down"),
        "up_block_types": kinds("up"),
        "block_out_channels": tuple(sizes),
        "layers_per_block": o["blocks"],
        "downsample_type": "resnet" if o["resample_blocks"] else "conv",
        "upsample_type": "resnet" if o["resample_blocks"] else "conv",
        "dropout": o["dropout"],
        "attention_head_dim": _head_channels(parts),
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift" if o["scale_shift"] else "default",
    }
    tensors: dict[str, Tensor] = {}
    if o["classes"] is not None:
        rows = net.label_emb.weight
        config["num_class_embeds"] = o["classes"] + 1
        tensors["class_embedding.weight"] = torch.cat([rows, torch.zeros_like(rows[:1])])
    for name, part in parts.items():
        tensors |= {f"{name}.{leaf}": tensor for leaf, tensor in tensors_of(part).items()}
    return Plan(config, tensors, {}, ())


def _head_channels(parts: dict[str, nn.Module]) -> int | None:
    """The channels of every head; None where each attention has one head."""
    found = [
        (part.norm.num_channels, part.heads)
        for part in parts.values()
        if isinstance(part, AttentionBlock)
    ]
    if all(heads == 1 for _, heads in found):
        return None
    each = sorted({channels // heads for channels, heads in found})
    expected = "heads of as many channels in every attention, or one head in each"
    checks.that(len(each) == 1, expected, f"heads of {each} channels", IncompatibleError)
    return each[0]
