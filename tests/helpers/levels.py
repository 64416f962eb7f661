"""Objectives that the tests at noise levels share."""

from __future__ import annotations

import torch
from torch import nn

import sdescore as ss
from tests.helpers.objectives import (
    Soft,
)


def level_model(seed: int = 0, kind: str = "mlp") -> ss.ScoreModel:
    torch.manual_seed(seed)
    if kind == "energy":
        return ss.ScoreModel(
            ss.EnergyModel(Soft(2).float()), ss.VPSDE(), prediction="score", time_input="log_snr"
        )
    net = ss.MLP(2, hidden=8, depth=1, classes=2)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return ss.ScoreModel(net, ss.VPSDE(), time_input="log_snr", prediction="epsilon")
