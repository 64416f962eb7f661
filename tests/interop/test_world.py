"""The caller's default dtype and device, and torch's generator, do not reach a loaded model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sdescore as ss
from sdescore.interop.guided_diffusion import flags_of, network_of

GUIDED = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2"}
SONG = {"model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1}
SDE = {"sde": "vpsde", "image_size": 8, "nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1}
SDE |= {"continuous": True, "centered": True, "scale_by_sigma": False, "attn_resolutions": ()}
SDE |= {"embedding_type": "positional"}
LADDER = ss.DiscreteVESDE.geometric(sigma_max=10.0, sigma_min=0.01, levels=10)
NCSN = {"data": {"channels": 3, "rescaled": False}}
NCSN |= {"model": {"ngf": 8, "num_classes": 10, "sigma_begin": 10, "sigma_end": 0.01}}
LOADERS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any], dict[str, Any]]] = {
    "guided": (lambda: network_of(flags_of(GUIDED)), ss.load_guided_diffusion, GUIDED),
    "edm": (
        lambda: ss.nets.SongUNet(8, 3, **SONG),
        ss.load_edm,
        {"model_type": "SongUNet", "img_resolution": 8, **SONG},
    ),
    "score_sde": (lambda: ss.nets.score_sde_network(SDE), ss.load_score_sde, SDE),
    "ncsnv2": (lambda: ss.nets.NCSNv2(3, LADDER.sigmas, width=8), ss.load_ncsnv2, NCSN),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_lives_in_its_own_world(name: str, tmp_path: Path) -> None:
    make, load, config = LOADERS[name]
    torch.manual_seed(0)
    path = tmp_path / "weights.pt"
    torch.save(make().state_dict(), path)
    expected, before = load(path, config).state_dict(), torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = load(path, config).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key
