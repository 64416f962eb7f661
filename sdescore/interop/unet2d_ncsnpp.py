"""What the network of score_sde is in ``diffusers``: the options and the tensors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError
from sdescore.interop.unet2d_names_ncsnpp import layers_of, parts_of_ncsnpp
from sdescore.nets.layers_ncsnpp import EPSILON, NIN
from sdescore.nets.ncsnpp import NCSNpp

__all__: list[str] = []

SHARED = {"nonlinearity": "swish", "conditional": True, "round_levels": False}
# By the residual block: the options that UNet2DModel has.
HAS: dict[str, dict[str, Any]] = {
    "ddpm": {
        **SHARED,
        "fir": False,
        "resamp_with_conv": True,
        "skip_rescale": False,
        "progressive": "none",
        "progressive_input": "none",
        "embedding_type": "positional",
        "scale_by_sigma": False,
    },
    "biggan": {
        **SHARED,
        "num_channels": 3,
        "fir": True,
        "fir_kernel": [1, 3, 3, 1],
        "skip_rescale": True,
        "progressive": "output_skip",
        "progressive_input": "input_skip",
        "progressive_combine": "sum",
        "embedding_type": "fourier",
        "scale_by_sigma": True,
    },
}


class Plan(NamedTuple):
    """How to build a ``UNet2DModel``, and what to copy into it."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    groups: dict[str, int]  # of group norms, by their names
    idle: tuple[str, ...]  # parts whose weights are 0


def plan_of_ncsnpp(net: NCSNpp) -> Plan:
    """The configuration and tensors of the same function, or a refusal."""
    o = net.options
    has = HAS[o["resblock_type"]]
    wrong = [f"{k}={o[k]!r} (in diffusers {v!r})" for k, v in has.items() if o[k] != v]
    expected = f"an NCSNpp of {o['resblock_type']} blocks with the options that diffusers has"
    checks.that(not wrong, expected, ", ".join(wrong), IncompatibleError)
    expected = "ch_mult that begins with 1, for diffusers has no other first features"
    checks.that(o["ch_mult"][0] == 1, expected, f"{o['ch_mult']}", IncompatibleError)
    skips = o["resblock_type"] == "biggan"
    levels, blocks = len(o["ch_mult"]), o["num_res_blocks"]
    attends = [o["image_size"] >> i in o["attn_resolutions"] for i in range(levels)]
    names = ["Attn" * attend + "Skip" * skips for attend in attends]
    config = {
        "sample_size": o["image_size"],
        "in_channels": o["num_channels"],
        "out_channels": o["num_channels"],
        "center_input_sample": not o["centered"],
        "time_embedding_type": o["embedding_type"],
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "down_block_types": tuple(f"{name}DownBlock2D" for name in names),
        "up_block_types": tuple(f"{name}UpBlock2D" for name in reversed(names)),
        "block_out_channels": tuple(o["nf"] * m for m in o["ch_mult"]),
        "layers_per_block": blocks,
        "mid_block_scale_factor": math.sqrt(2) if skips else 1,
        "downsample_padding": 0,
        "dropout": o["dropout"],
        "attention_head_dim": None,
        "norm_num_groups": None if skips else net.all_modules[net.layout.last[0]].num_groups,
        "norm_eps": EPSILON,
    }
    tensors: dict[str, Tensor] = {}
    groups: dict[str, int] = {}
    if net.layout.features is not None:
        tensors["time_proj.weight"] = net.all_modules[net.layout.features].get_parameter("W")
    for index, name in parts_of_ncsnpp(net.layout, skips, blocks):
        for layer, path in layers_of(net.all_modules[index], name):
            found = {"weight": layer.W.T, "bias": layer.b} if isinstance(layer, NIN) else {}
            for leaf, tensor in (found or layer.state_dict()).items():
                tensors[f"{path}.{leaf}"] = tensor
            if isinstance(layer, nn.GroupNorm):
                groups[path] = layer.num_groups
    # score_sde attends once after the blocks of a resolution, diffusers after each of them.
    idle = [
        f"up_blocks.{k}.attentions.{j}."
        for k, attend in enumerate(reversed(attends))
        for j in range(blocks)
        if attend and not skips
    ]
    return Plan(config, tensors, groups, tuple(idle))
