"""Arguments of small networks of EDM."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "img_resolution": 8,
    "in_channels": 2,
    "model_channels": 8,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (4,),
}
NCSNPP: dict[str, Any] = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": (1, 3, 3, 1),
}
