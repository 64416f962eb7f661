"""The official configurations of NCSN++ and DDPM++."""

from __future__ import annotations

from typing import Any

import pytest

from sdescore.errors import IncompatibleError
from sdescore.nets import score_sde_configuration


def test_a_configuration_is_read_from_sections_too() -> None:
    sections = {
        "training": {"sde": "vpsde", "continuous": False, "batch_size": 128},
        "data": {"image_size": 256, "num_channels": 3, "centered": True, "dataset": "LSUN"},
        "model": {
            "name": "ddpm",
            "normalization": "GroupNorm",
            "nonlinearity": "swish",
            "nf": 128,
            "ch_mult": (1, 1, 2, 2, 4, 4),
            "num_res_blocks": 2,
            "attn_resolutions": (16,),
            "resamp_with_conv": True,
            "conditional": True,
            "scale_by_sigma": False,
            "sigma_max": 378,
            "dropout": 0.0,
            "ema_rate": 0.9999,
        },
    }
    assert score_sde_configuration(sections) == score_sde_configuration("vp/ddpm/bedroom")
    assert score_sde_configuration("configs/vp/ddpm/church.py")["sde"] == "vpsde"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("cifar10", "config among"),
        (3, "the name of an official configuration or a dict"),
        ({"sde": "vesde"}, "'continuous' in config"),
        ({"sde": "edm", "continuous": True}, "sde among vesde, vpsde, subvpsde"),
        ({"sde": "vesde", "continuous": True, "widths": 3}, "an option of config among"),
        ({"sde": "vesde", "continuous": True, "normalization": "None"}, "normalization among"),
        ({"sde": "vesde", "continuous": False}, "embedding_type='positional' for levels"),
    ],
)
def test_bad_configurations_are_refused(config: Any, message: str) -> None:
    with pytest.raises(IncompatibleError, match=message):
        score_sde_configuration(config)
