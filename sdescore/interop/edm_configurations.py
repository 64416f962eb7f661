"""The configurations of the released networks of EDM and EDM2, by EDM's names of arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sdescore import checks

DDPMPP: dict[str, Any] = {
    "model_type": "SongUNet",
    "embedding_type": "positional",
    "encoder_type": "standard",
    "decoder_type": "standard",
    "channel_mult_noise": 1,
    "resample_filter": [1, 1],
    "model_channels": 128,
}
NCSNPP: dict[str, Any] = {
    **DDPMPP,
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
IMAGENET: dict[str, Any] = {
    "model_type": "DhariwalUNet",
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "img_resolution": 64,
    "dropout": 0.10,
    "label_dim": 1000,
}
CIFAR = {"img_resolution": 32, "augment_dim": 9, "channel_mult": [2, 2, 2], "dropout": 0.13}
FACES = {"img_resolution": 64, "augment_dim": 9, "channel_mult": [1, 2, 2, 2], "dropout": 0.05}
SONG = {"img_resolution": 32, "channel_mult": [1, 2, 2, 2], "dropout": 0.10}
CONFIGS: dict[str, dict[str, Any]] = {
    "cifar10-32x32-cond-vp": {**DDPMPP, **CIFAR, "label_dim": 10},
    "cifar10-32x32-cond-ve": {**NCSNPP, **CIFAR, "label_dim": 10},
    "cifar10-32x32-uncond-vp": {**DDPMPP, **CIFAR},
    "cifar10-32x32-uncond-ve": {**NCSNPP, **CIFAR},
    "ffhq-64x64-uncond-vp": {**DDPMPP, **FACES},
    "ffhq-64x64-uncond-ve": {**NCSNPP, **FACES},
    "afhqv2-64x64-uncond-vp": {**DDPMPP, **FACES, "dropout": 0.25},
    "afhqv2-64x64-uncond-ve": {**NCSNPP, **FACES, "dropout": 0.25},
    "imagenet-64x64-cond-adm": IMAGENET,
    "baseline-cifar10-32x32-uncond-vp": {**DDPMPP, **SONG, "precond": "vp"},
    "baseline-cifar10-32x32-uncond-ve": {**NCSNPP, **SONG, "precond": "ve"},
    "baseline-imagenet-64x64-cond-adm": {**IMAGENET, "precond": "iddpm"},
}
SIZES = {"xxs": 64, "xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}
EDM2 = {"precond": "edm2", "img_resolution": 64, "label_dim": 1000}
for _size, _channels in SIZES.items():
    _sized = {**EDM2, "model_channels": _channels}
    _sized["dropout"] = 0.10 if _channels >= SIZES["m"] else 0.0
    CONFIGS[f"edm2-img512-{_size}"] = {**_sized, "img_channels": 4}
    if _size not in ("xxs", "xxl"):
        CONFIGS[f"edm2-img64-{_size}"] = {**_sized, "img_channels": 3}
    if _size in ("xs", "s"):
        CONFIGS[f"edm2-img512-{_size}-uncond"] = {**_sized, "img_channels": 4, "label_dim": 0}


def options_of(config: str | Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by EDM's names, as a new dict."""
    if isinstance(config, Mapping):
        return dict(config)
    name = str(config).removesuffix(".pkl").removeprefix("edm-")
    name = re.sub(r"-\d{7}-0\.\d{3}$", "", name)  # EDM2's images seen, and width of the average
    return dict(CONFIGS[checks.choice("config", name, sorted(CONFIGS))])
