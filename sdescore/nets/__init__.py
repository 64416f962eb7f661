"""Networks to start with, and the average of their weights.

Each is called as ``net(x, c, label=None)``: ``x`` ``(B, *E)``, ``c`` ``(B,)`` the time in
the scale the user declared, ``label`` ``(B,)``. Any callable of that form serves as well.
"""

from __future__ import annotations

from sdescore.nets.ema import EMA
from sdescore.nets.embedding import FourierEmbedding, PositionalEmbedding
from sdescore.nets.energy import EnergyModel
from sdescore.nets.ensemble import LevelEnsemble
from sdescore.nets.mlp import MLP
from sdescore.nets.unet import UNet

__all__ = [
    "EMA",
    "MLP",
    "EnergyModel",
    "FourierEmbedding",
    "LevelEnsemble",
    "PositionalEmbedding",
    "UNet",
]
