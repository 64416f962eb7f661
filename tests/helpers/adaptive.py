"""Data and columns that the tests of the adaptive sampler share."""

from __future__ import annotations

import torch
from torch import Tensor

import sdescore as ss

F64 = torch.float64


VP = ss.VPSDE()


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def ends(sde: ss.LinearSDE, lam: float, h: float) -> tuple[Tensor, Tensor]:
    t, s = sde.time_at_half_log_snr(column(lam, lam + h))
    return t[None], s[None]


BIMODAL = ss.MixtureScore([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [0.01, 0.01], VP)


class Watched:
    """A score that keeps the times it is given, and the samples by their unchanging label."""

    def __init__(self, score) -> None:
        self.score, self.calls = score, []

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        assert t.shape == label.shape == x.shape[:1] and t.dtype == x.dtype
        self.calls.append((t.clone(), label.clone()))
        return self.score(x, t)
