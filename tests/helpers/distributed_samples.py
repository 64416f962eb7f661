"""Samplers, arguments and models whose samples do not depend on the number of processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import sdescore as ss

VP = ss.VPSDE()
B = 23
SAMPLERS: dict[str, Any] = {
    "chain": ss.PredictorCorrector(VP, corrector=ss.Langevin(0.15), steps=5),
    "adaptive": ss.AdaptiveSampler(VP, rtol=0.2),
    "flow": ss.ProbabilityFlow(VP, method="heun3", steps=4),
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "seed": {},
    "label": {"label": torch.arange(B)},
    "init": {"init": torch.linspace(-2, 2, 3 * B, dtype=torch.float64).view(B, 3)},
    "max_batch": {"max_batch": 4},
}


class Elementwise:
    """Not affine, and each element on its own; ``spoil`` is called with the label's samples."""

    def __init__(self, spoil: Any = None) -> None:
        self.spoil = spoil

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if self.spoil is not None:
            self.spoil(label)
        shift = 0.0 if label is None else 0.1 * label.to(x)[:, None]
        return -torch.tanh(x - shift) / (0.1 + t.expand(len(x))[:, None])

    def __repr__(self) -> str:
        return "Elementwise()"


def network() -> ss.ScoreModel:
    torch.manual_seed(3)
    net = ss.MLP(3)
    for p in net.parameters():  # the last layer is zero when made
        torch.nn.init.normal_(p, std=0.1)
    return ss.ScoreModel(net, VP, prediction="epsilon")


def fail_on(sample: int) -> Any:
    def spoil(label: Tensor) -> None:
        if sample in label.tolist():
            raise ArithmeticError("no score here")

    return spoil
