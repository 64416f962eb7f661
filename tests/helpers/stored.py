"""Models that the tests of the checkpoints share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import sdescore as ss


def small(seed: int = 0, **options: Any) -> ss.ScoreModel:
    torch.manual_seed(seed)
    net = ss.MLP(2, hidden=8, depth=1, embedding_dim=4)
    for p in net.parameters():
        nn.init.normal_(p)
    return ss.ScoreModel(net, ss.VPSDE(), **options)


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(
        torch.equal(one[k], two[k]) and one[k].dtype == two[k].dtype for k in one
    )
