"""What EDM's networks are built and called with, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdescore import checks
from sdescore.errors import IncompatibleError, ShapeError
from sdescore.nets.blocks_edm import CHANNELS_PER_GROUP
from sdescore.nets.mlp import check_label


def check_image(x: Tensor, channels: int, levels: int) -> None:
    """Refuse what is no batch of images that the levels can halve."""
    checks.state(x)
    unit = 2 ** (levels - 1)
    fits = x.ndim == 4 and x.shape[1] == channels and not (x.shape[2] % unit or x.shape[3] % unit)
    if not fits or 0 in x.shape[2:]:
        expected = f"x of shape (B, {channels}, H, W) with H and W multiples of {unit}"
        checks.refuse(expected, f"{tuple(x.shape)}; pad or resize the images", ShapeError)


def check_augment(augment: Tensor | None, x: Tensor, size: int) -> None:
    """Refuse labels of augmentation that are not ``(B, size)``, or where the network has none."""
    if augment is None:
        return
    expected = f"augment of shape ({len(x)}, {size})" if size else "no augment: augment_dim is 0"
    fits = size > 0 and augment.shape == (len(x), size)
    checks.that(fits, expected, f"{tuple(augment.shape)}", ShapeError)


def checked_sizes(
    img_resolution: int,
    in_channels: int,
    classes: int | None,
    model_channels: int,
    channel_mult: Sequence[int],
    num_blocks: int,
    attn_resolutions: Sequence[int],
    dropout: float,
) -> dict[str, Any]:
    """The arguments that all three networks have, checked."""
    channel_mult = [checks.count("every channel_mult", m) for m in channel_mult]
    checks.that(bool(channel_mult), "at least one channel_mult", "none; use (1,) for one level")
    resolution, unit = checks.count("img_resolution", img_resolution), 2 ** (len(channel_mult) - 1)
    levels = f"img_resolution as a multiple of {unit}, for {len(channel_mult)} levels"
    checks.that(resolution % unit == 0, levels, resolution)
    return {
        "img_resolution": resolution,
        "in_channels": checks.count("in_channels", in_channels),
        "classes": None if classes is None else checks.count("classes", classes),
        "model_channels": checks.count("model_channels", model_channels),
        "channel_mult": channel_mult,
        "num_blocks": checks.count("num_blocks", num_blocks),
        "attn_resolutions": [checks.count("attn_resolution", size) for size in attn_resolutions],
        "dropout": checks.number("dropout", dropout, at_least=0, below=1),
    }


def checked_config(
    img_resolution: int,
    in_channels: int,
    out_channels: int | None,
    classes: int | None,
    augment_dim: int,
    model_channels: int,
    channel_mult: Sequence[int],
    channel_mult_emb: int,
    num_blocks: int,
    attn_resolutions: Sequence[int],
    dropout: float,
) -> dict[str, Any]:
    """The arguments that SongUNet and DhariwalUNet have, checked."""
    config = checked_sizes(
        img_resolution, in_channels, classes, model_channels, channel_mult, num_blocks,
        attn_resolutions, dropout,
    )  # fmt: skip
    expected = f"model_channels as a multiple of {CHANNELS_PER_GROUP}"
    checks.that(model_channels % CHANNELS_PER_GROUP == 0, expected, model_channels)
    return config | {
        "out_channels": checks.count(
            "out_channels", config["in_channels"] if out_channels is None else out_channels
        ),
        "augment_dim": checks.count("augment_dim", augment_dim, at_least=0),
        "channel_mult_emb": checks.count("channel_mult_emb", channel_mult_emb),
    }


def checked_label(
    x: Tensor, c: Tensor, label: Tensor | None, dtype: torch.dtype, classes: int | None
) -> Tensor | None:
    """The label of each sample, None for a network without; refuses what does not fit ``x``."""
    expected = f"x in the network's dtype {dtype}"
    checks.that(x.dtype == dtype, expected, f"{x.dtype}; cast one of them", ShapeError)
    expected = f"c, the time input, as a floating-point tensor of shape ({len(x)},)"
    got = f"{c.dtype} of shape {tuple(c.shape)}"
    checks.that(c.is_floating_point() and c.shape == x.shape[:1], expected, got, ShapeError)
    if classes is None:
        expected = "no label, because the network was built with classes=None"
        checks.that(label is None, expected, "one; build it with classes=", IncompatibleError)
        return None
    if label is None:
        return torch.full_like(c, classes, dtype=torch.int64)
    check_label(label, x, classes)
    return label


def checked_features(
    net: nn.Module,
    x: Tensor,
    c: Tensor,
    label: Tensor | None,
    augment: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Cosines and sines of ``c``, and the labels; all that a network is called with is checked."""
    known: Any = net
    config, dtype = known.config, known.map_layer0.weight.dtype
    check_image(x, config["in_channels"], len(config["channel_mult"]))
    label = checked_label(x, c, label, dtype, config["classes"])
    check_augment(augment, x, config["augment_dim"])
    features: Tensor = known.map_noise(c)
    return features.to(dtype), label
